"""Generated from protos/deviceplugin/v1beta1/deviceplugin.proto."""
