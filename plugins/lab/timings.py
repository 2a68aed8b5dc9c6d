"""How long the real callers wait, in seconds; and the same made shorter for tests.

Sources: facts of kubelet and API server 1.36 (pluginmanager, devicemanager, volume/csi, encryptionconfig).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", bound="_Scalable")


@dataclass(frozen=True)
class _Scalable:
    def scaled(self: T, factor: float) -> T:
        """Every time multiplied: 0.01 makes a second ten milliseconds."""
        return dataclasses.replace(self, **{f.name: getattr(self, f.name) * factor for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class KubeletTimings(_Scalable):
    """The kubelet's.

    tick: between two rounds of the plugin reconciler.
    dial: until a blocking dial gives up.
    get_info, notify: deadlines of the two registration calls.
    backoff, backoff_limit: after a failed registration; doubles from the first to the second.
    stop_grace: from the end of a device plugin's stream until its resource leaves the node.
    pre_start: deadline of PreStartContainer.
    csi: deadline of a call to a CSI driver.
    provision: deadline of a call of the external provisioner.
    """

    tick: float = 1.0
    dial: float = 10.0
    get_info: float = 1.0
    notify: float = 5.0
    backoff: float = 0.5
    backoff_limit: float = 122.0
    stop_grace: float = 300.0
    pre_start: float = 30.0
    csi: float = 120.0
    provision: float = 15.0


@dataclass(frozen=True)
class ApiServerTimings(_Scalable):
    """The API server's, towards a KMS plugin.

    positive, negative: between two probes after a success and after a failure.
    ready_ttl, unready_ttl: how long one result of a probe answers /readyz.
    write_ttl: how long after the start of the last good probe writes go on.
    cache_ttl: of a decrypted seed.
    """

    positive: float = 60.0
    negative: float = 10.0
    ready_ttl: float = 20.0
    unready_ttl: float = 3.0
    write_ttl: float = 180.0
    cache_ttl: float = 86400.0
