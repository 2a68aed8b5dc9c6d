"""Generated from protos/csi/v1/csi.proto."""
