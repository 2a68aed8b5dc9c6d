"""nodeplug: node plugin daemons for Kubernetes (CSI, devices, KMS)."""
