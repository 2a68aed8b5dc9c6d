"""Generated from protos/kms/v2/kms.proto."""
