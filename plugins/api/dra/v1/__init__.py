"""Generated from protos/dra/v1/dra.proto."""
