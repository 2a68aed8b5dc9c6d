"""What goes wrong between the lab and a plugin, in the words that the real caller would use."""

from __future__ import annotations


class LabError(Exception):
    """A plugin, or the person who drives the lab, did something that the real caller would refuse."""


class Timeout(LabError):
    """What was waited for did not happen in the time given."""


class AdmissionError(LabError):
    """The kubelet would not admit the pod (UnexpectedAdmissionError)."""


class Transient(LabError):
    """The kubelet would try again: the driver is not registered at this moment."""
