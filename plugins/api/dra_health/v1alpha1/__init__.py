"""Generated from protos/dra_health/v1alpha1/dra_health.proto."""
