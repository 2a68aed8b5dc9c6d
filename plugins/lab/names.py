"""The name rules of Kubernetes that decide whether a registration or an annotation is taken."""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")


def is_dns_label(text: str) -> bool:
    """RFC 1123 label: at most 63 lower-case letters, digits and inner dashes."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """RFC 1123 subdomain as Kubernetes reads it: at most 253 characters; its parts may be longer than 63."""
    return len(text) <= 253 and all(_LABEL.fullmatch(part) for part in text.split("."))


def is_fully_qualified_domain(text: str) -> bool:
    """A domain of at least two labels; a dot at the end is taken. What a key of a KMS annotation must be."""
    text = text.removesuffix(".")
    labels = text.split(".")
    return len(text) <= 253 and len(labels) >= 2 and all(map(is_dns_label, labels))


def is_qualified_name(text: str) -> bool:
    """What a label key must be: [domain/]name, the name at most 63 characters."""
    *prefix, name = text.split("/")
    if len(prefix) > 1 or not 0 < len(name) <= 63 or not _NAME.fullmatch(name):
        return False
    return not prefix or (bool(prefix[0]) and is_dns_subdomain(prefix[0]))


def is_extended_resource(name: str) -> bool:
    """Whether a device plugin may offer it: domain/name outside kubernetes.io, valid with "requests." in front too."""
    if "/" not in name or "kubernetes.io/" in name or name.startswith("requests."):
        return False
    return is_qualified_name(f"requests.{name}")
