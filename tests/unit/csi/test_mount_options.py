"""Mount options: what is on the list passes, the rest never reaches the kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import InvalidArgument
from plugins.csi.host import mountoptions, syscalls


def test_attributes_and_settings_are_told_apart() -> None:
    options = mountoptions.parse(["noatime,nosuid", "discard", "commit=10", "rw", "defaults"], "ext4")
    assert options.attributes == syscalls.MOUNT_ATTR_NOATIME | syscalls.MOUNT_ATTR_NOSUID
    assert options.settings == (("discard", None), ("commit", "10"))
    assert not options.read_only


def test_read_only_holds_for_mount_and_filesystem() -> None:
    options = mountoptions.parse(["ro"], "xfs")
    assert options.read_only
    assert options.settings == (("ro", None),)


def test_a_label_keeps_its_commas_and_loses_its_quotes() -> None:
    options = mountoptions.parse(['context="system_u:object_r:container_file_t:s0:c1,c2"'], "ext4")
    assert options.settings == (("context", "system_u:object_r:container_file_t:s0:c1,c2"),)


@pytest.mark.parametrize(
    ("flag", "filesystem"),
    [
        ("bind", "ext4"),
        ("remount", "xfs"),
        ("nouuid", "ext4"),
        ("data=ordered", "xfs"),
        ("data=everything", "ext4"),
        ("errors=panic", "ext4"),
        ("logdev=/dev/sda", "xfs"),
        ("commit=1/2", "ext4"),
        ("commit=", "ext4"),
        ("ro=1", "ext4"),
        ("context=a b", "ext4"),
        ("", "ext4"),
        ("discard,", "ext4"),
    ],
)
def test_what_is_not_on_the_list_is_refused(flag: str, filesystem: str) -> None:
    with pytest.raises(InvalidArgument):
        mountoptions.parse([flag], filesystem)


@given(st.lists(st.text()))
def test_no_text_passes_unread(flags: list[str]) -> None:
    try:
        options = mountoptions.parse(flags, "ext4")
    except InvalidArgument:
        return
    for name, value in options.settings:
        assert name.replace("_", "").isalnum()
        assert value is None or not set(value) & set(" /\\\n\0")
