"""Generated from protos/pluginregistration/v1/pluginregistration.proto."""
