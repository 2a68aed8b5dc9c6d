"""An embedded kubelet and an API server's envelope client: a plugin's callers, without a cluster.

    with Kubelet(root) as kubelet:              # the folders, kubelet.sock and the watcher of plugins_registry
        ...start the plugin on kubelet.root...
        kubelet.devices.wait(resource, allocatable=2, timeout=10)
        kubelet.restart()                       # as the real one: no goodbye, and the next one removes all sockets

Every behaviour here was read in Kubernetes 1.36.3 or measured against it; docs/lab.md says what is modelled and what
is not. Where the real caller does something odd, so does the lab: a plugin has to live with it.
"""
