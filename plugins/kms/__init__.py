"""`nodeplug kms`: the KMS v2 plugin of a kube-apiserver. It keeps the keys; the API server keeps the data."""
