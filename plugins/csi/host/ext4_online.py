"""A mounted ext4 filesystem given another UUID by the kernel. Contract: fs/ext4/ext4.h, EXT4_IOC_SETFSUUID."""

from __future__ import annotations

import fcntl
import struct

_GET_UUID, _SET_UUID = 0x8008662C, 0x4008662C
_FSUUID = struct.Struct("=II16s")  # struct fsuuid: length, flags, UUID


def set_uuid(fd: int, new: bytes) -> None:
    """Let the filesystem that a directory's descriptor lies on have this UUID (16 bytes), unless it has it already.

    The hash seed of its directories is another field and stays as it is.

    Raises:
        OSError: ENOTTY before Linux 6.0, EOPNOTSUPP without metadata_csum_seed.
    """
    buffer = bytearray(_FSUUID.pack(16, 0, bytes(16)))
    fcntl.ioctl(fd, _GET_UUID, buffer)
    if _FSUUID.unpack(buffer)[2] != new:
        fcntl.ioctl(fd, _SET_UUID, _FSUUID.pack(16, 0, new))
