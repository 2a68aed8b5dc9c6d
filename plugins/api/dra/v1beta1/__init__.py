"""Generated from protos/dra/v1beta1/dra.proto."""
