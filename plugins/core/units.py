"""Sizes, durations and file modes as people write them: "10GiB", "250ms", "0660"."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]i?)?B?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_PREFIXES = "KMGTPE"


class Bytes(int):
    """A size in bytes. In a configuration: a whole number of bytes, or text such as "512MiB" or "10G"."""

    @classmethod
    def parse(cls, value: object) -> Bytes:
        """Raises ValueError where the text is not a size."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = _SIZE.fullmatch(str(value).strip())
        if not match:
            raise ValueError(f'expected a size such as 1048576, "512MiB" or "10GiB", got {value!r}')
        number, unit = match.groups()
        factor = 1
        if unit:
            factor = (1024 if unit.endswith("i") else 1000) ** (_PREFIXES.index(unit[0]) + 1)
        return cls(round(float(number) * factor))

    def __str__(self) -> str:
        """The shortest exact text: "512MiB"; bytes where no binary unit divides it."""
        value, unit = int(self), ""
        for prefix in _PREFIXES:
            if value == 0 or value % 1024:
                break
            value, unit = value // 1024, f"{prefix}iB"
        return f"{value}{unit}"


class Seconds(float):
    """A duration in seconds. In a configuration: a number, or text such as "250ms", "30s", "5m"."""

    @classmethod
    def parse(cls, value: object) -> Seconds:
        """Raises ValueError where the text is not a duration."""
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = _DURATION.fullmatch(str(value).strip())
        if not match:
            raise ValueError(f'expected a duration such as 30, "250ms" or "5m", got {value!r}')
        number, unit = match.groups()
        return cls(float(number) * _SECONDS[unit])

    def __str__(self) -> str:
        """Such as "30s" or "0.25s"."""
        return f"{float(self):g}s"


class Mode(int):
    """Permission bits of a file. In a configuration: octal text such as "0660", or a TOML octal number."""

    @classmethod
    def parse(cls, value: object) -> Mode:
        """Raises ValueError where the value is not a mode."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
            return cls(value)
        text = str(value)
        if not re.fullmatch(r"(0o?)?[0-7]{3}", text):
            raise ValueError(f'expected a file mode such as "0660", got {value!r}')
        return cls(int(text.removeprefix("0o"), 8))

    def __str__(self) -> str:
        """Such as "0660"."""
        return f"{int(self):04o}"
