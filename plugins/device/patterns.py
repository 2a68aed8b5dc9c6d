"""Conditions on one value: equality, sets, globs, regular expressions, numbers, presence, and their negation.

A value of a device is a set of texts: empty where there is none, one for a property, several for tags and for the
paths of a node. A positive condition holds if one of them meets it, `not` if none does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection

from plugins.device.config import Condition, Texts, Value

Check = Callable[[Collection[str]], bool]

_SPECIAL = frozenset("*?[")


class Pattern:
    """A condition, ready to be asked."""

    def __init__(self, value: Value, *, path: bool = False) -> None:
        """
        Args:
            value: as configured.
            path: in a pattern, * and ? do not go across "/" (** does).

        Raises:
            ValueError: it cannot be read, or can never hold; says why.
        """
        condition = value if isinstance(value, Condition) else Condition(glob=value)
        self._condition = condition
        self._demands: list[Check] = []
        self._denials: list[Check] = []
        self._add_texts(condition, path)
        self._add_range(condition)
        if condition.exists is not None:
            (self._demands if condition.exists else self._denials).append(bool)
        if not self._demands and not self._denials:
            raise ValueError("the condition is empty; give one of is, glob, regex, not, min, max, exists")

    def holds(self, values: Collection[str]) -> bool:
        """Whether the values of a device meet the condition."""
        return self.allows(values) and not self.denies(values)

    def allows(self, values: Collection[str]) -> bool:
        """Whether they meet what is demanded."""
        return all(demand(values) for demand in self._demands)

    def denies(self, values: Collection[str]) -> bool:
        """Whether they are what must not be: `not`, or `exists = false`."""
        return any(denial(values) for denial in self._denials)

    def literals(self) -> frozenset[str] | None:
        """The only texts that can meet it; None where that is not a plain list."""
        condition = self._condition
        if condition.is_ is not None:
            return frozenset(_texts(condition.is_))
        if condition.glob is None or any(_SPECIAL & set(text) for text in _texts(condition.glob)):
            return None
        return frozenset(_texts(condition.glob))

    def __str__(self) -> str:
        """The condition as a person would say it."""
        c = self._condition
        parts = [f"{_quoted(texts)}" for texts in (c.is_, c.glob) if texts is not None]
        parts += [f"/{text}/" for text in (_texts(c.regex) if c.regex is not None else ())]
        parts += [f"not {_quoted(c.not_)}"] if c.not_ is not None else []
        parts += [f"at least {c.min:g}"] if c.min is not None else []
        parts += [f"at most {c.max:g}"] if c.max is not None else []
        parts += ["any value" if c.exists else "no value"] if c.exists is not None else []
        return " and ".join(parts)

    def _add_texts(self, condition: Condition, path: bool) -> None:
        if condition.is_ is not None:
            self._add_any(frozenset(_texts(condition.is_)).__contains__)
        if condition.glob is not None:
            self._add_any(_matcher(condition.glob, path))
        if condition.regex is not None:
            compiled = [_regex(text) for text in _texts(condition.regex)]
            self._add_any(lambda text: any(c.fullmatch(text) for c in compiled))
        if condition.not_ is not None:
            denied = _matcher(condition.not_, path)
            self._denials.append(lambda values: any(map(denied, values)))

    def _add_range(self, condition: Condition) -> None:
        low = float("-inf") if condition.min is None else condition.min
        high = float("inf") if condition.max is None else condition.max
        if not low <= high:
            raise ValueError(f"min {low:g} is not below max {high:g}")
        if condition.min is not None or condition.max is not None:
            self._add_any(lambda text: (number := _number(text)) is not None and low <= number <= high)

    def _add_any(self, accepts: Callable[[str], bool]) -> None:
        self._demands.append(lambda values: any(map(accepts, values)))


def _texts(value: Texts) -> tuple[str, ...]:
    texts = tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
    if not texts:
        raise ValueError("the list is empty: nothing can be in it")
    return texts


def _matcher(value: Texts, path: bool) -> Callable[[str], bool]:
    """Plain texts are looked up; only patterns cost a regular expression."""
    texts = _texts(value)
    plain = frozenset(text for text in texts if not _SPECIAL & set(text))
    patterns = [re.compile(glob_to_regex(text, path=path), re.DOTALL) for text in texts if text not in plain]
    if not patterns:
        return plain.__contains__
    return lambda text: text in plain or any(p.fullmatch(text) for p in patterns)


def glob_to_regex(pattern: str, *, path: bool = False) -> str:
    """A glob as a regular expression for fullmatch.

    Raises:
        ValueError: a bracket is not closed (a shell would take it as a plain character: mostly a slip).
    """
    out, at = [], 0
    anything = "[^/]" if path else "."
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            out.append(".*")
            at += 1
        elif char == "*":
            out.append(anything + "*")
        elif char == "?":
            out.append(anything)
        elif char == "[":
            at, expression = _bracket(pattern, at)
            out.append(expression)
        else:
            out.append(re.escape(char))
        at += 1
    return "".join(out)


def _bracket(pattern: str, start: int) -> tuple[int, str]:
    """The index of the closing bracket, and the character class."""
    negated = pattern[start + 1 : start + 2] in ("!", "^")
    first = start + 1 + negated
    end = pattern.find("]", first + 1)  # a bracket right after the opening one is a member
    if end < 0:
        raise ValueError(f'the pattern {pattern!r} has a "[" that is not closed; write [[] for the character itself')
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", pattern[first:end])
    expression = f"[{'^' if negated else ''}{members}]"
    _compiled(expression, f"the pattern {pattern!r}")
    return end, expression


def _regex(text: str) -> re.Pattern[str]:
    return _compiled(text, f"the regular expression {text!r}")


def _compiled(text: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{what} is not valid: {error}") from error


def _number(text: str) -> float | None:
    with contextlib.suppress(ValueError, OverflowError):
        return float(int(text, 0))
    with contextlib.suppress(ValueError):
        return float(text)
    return None


def _quoted(value: Texts) -> str:
    texts = [repr(text) for text in _texts(value)]
    return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"
