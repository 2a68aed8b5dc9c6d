"""`nodeplug device`: the node's devices, by selector, as resources of the kubelet."""
