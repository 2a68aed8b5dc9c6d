"""Generated from protos/dra_health/v1/dra_health.proto."""
