"""Conditions on one value."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plugins.device.config import Condition, Value
from plugins.device.patterns import Pattern


@pytest.mark.parametrize(
    ("value", "yes", "no"),
    [
        ("kvm", ["kvm"], ["kvm2", "KVM", ""]),
        (403, ["403"], ["0403"]),
        (("a", "b*"), ["a", "b", "bc"], ["c", "ab"]),
        ("tty[!A-Z]?", ["ttyx1"], ["ttyS0", "ttyx"]),
        ("[]]", ["]"], ["["]),
        ("[[]x", ["[x"], ["x"]),
        ("a.c", ["a.c"], ["abc"]),
        (Condition(is_=("a*",)), ["a*"], ["ab"]),
        (Condition(regex="0x03(00|02)00"), ["0x030000"], ["0x0300001", "x0x030000"]),
        (Condition(not_=("a*", "b")), ["c", "bb"], ["abc", "b"]),
        (Condition(glob="a*", not_="ab"), ["ac"], ["ab", "b"]),
        (Condition(min=16, max=32), ["16", "0x20", "20.5", "032"], ["15", "33", "0x21", "many", ""]),
        (Condition(exists=True), ["x", ""], []),
    ],
)
def test_what_a_condition_takes(value: Value, yes: list[str], no: list[str]) -> None:
    pattern = Pattern(value)
    assert [text for text in yes if not pattern.holds((text,))] == []
    assert [text for text in no if pattern.holds((text,))] == []


def test_a_value_that_is_not_there_meets_only_what_is_denied() -> None:
    assert not Pattern("*").holds(())
    assert Pattern(Condition(not_="*")).holds(())
    assert Pattern(Condition(exists=False)).holds(())
    assert not Pattern(Condition(exists=True)).holds(())


def test_of_several_values_one_has_to_meet_it_and_none_may_be_denied() -> None:
    links = ("/dev/ttyUSB0", "/dev/serial/by-id/usb-FTDI")
    assert Pattern("/dev/serial/by-id/*", path=True).holds(links)
    assert not Pattern(Condition(not_="/dev/ttyUSB*"), path=True).holds(links)


def test_a_star_in_a_path_stays_in_its_folder() -> None:
    assert not Pattern("/dev/*", path=True).holds(("/dev/dri/card0",))
    assert Pattern("/dev/*", path=True).holds(("/dev/kvm",))
    assert Pattern("/dev/**", path=True).holds(("/dev/dri/card0",))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tty[0-9", "not closed"),
        ("[b-a]", "not valid"),
        (Condition(regex="(a"), "not valid"),
        (Condition(regex="a{2,1}"), "not valid"),
        (Condition(), "empty"),
        ((), "empty"),
        (Condition(min=2, max=1), "not below"),
        (Condition(min=float("nan")), "not below"),
    ],
)
def test_what_can_never_work_is_said(value: Value, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pattern(value)


@pytest.mark.parametrize(
    ("value", "literals"),
    [("a", {"a"}), (("a", "b"), {"a", "b"}), ("a*", None), (Condition(not_="a"), None), (Condition(is_="a*"), {"a*"})],
)
def test_the_only_texts_that_can_meet_it(value: Value, literals: set[str] | None) -> None:
    assert Pattern(value).literals() == literals


@given(st.text("ab*?[]!-^\\.", max_size=8), st.text("ab[]!-^\\.", max_size=6))
def test_globs_are_those_of_the_shell(pattern: str, text: str) -> None:
    """Python's own globs are the reference. They take "[" that is not closed as a plain character; we refuse it.
    "[^" denies here, as in a shell."""
    assume("[^" not in pattern)
    try:
        made = Pattern(pattern)
    except ValueError:
        return
    assert made.holds((text,)) == fnmatch.fnmatchcase(text, pattern)


@given(st.text(max_size=20))
def test_any_text_is_taken_literally_by_is(text: str) -> None:
    assert Pattern(Condition(is_=text)).holds((text,))
    assert not Pattern(Condition(is_=text)).holds((text + "x",))


@given(st.text(max_size=30))
def test_no_pattern_crashes(text: str) -> None:
    for value in (text, Condition(regex=text), Condition(not_=text)):
        try:
            Pattern(value).holds(("abc",))
        except ValueError:
            continue
