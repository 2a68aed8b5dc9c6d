"""The kernel's side: typed system calls, mounts, mountinfo, paths, filesystems. Nothing here knows a volume."""
