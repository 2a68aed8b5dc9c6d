"""Generated from protos/podresources/v1/podresources.proto."""
