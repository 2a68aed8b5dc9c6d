"""Generated from protos/kms_storage/v2/kms_storage.proto."""
