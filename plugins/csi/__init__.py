"""`nodeplug csi`: PersistentVolumes as reflink images on a node's own disks."""
