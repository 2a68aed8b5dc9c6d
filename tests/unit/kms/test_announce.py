"""What Status announced is what Encrypt uses."""

from __future__ import annotations

from plugins.kms.announce import Announcements


def test_nothing_was_announced_yet() -> None:
    assert Announcements().announced("a") is None


def test_each_caller_has_its_own_answer() -> None:
    announcements = Announcements()
    announcements.announce("a", "one")
    announcements.announce("b", "two")
    assert (announcements.announced("a"), announcements.announced("b")) == ("one", "two")
    announcements.announce("a", "two")
    assert announcements.announced("a") == "two"


def test_a_caller_that_connected_anew_gets_the_last_answer() -> None:
    announcements = Announcements()
    announcements.announce("before", "one")
    assert announcements.announced("after") == "one"


def test_callers_that_went_away_are_forgotten() -> None:
    announcements = Announcements()
    announcements.announce("first", "one")
    for number in range(1000):
        announcements.announce("kept", "one")
        announcements.announce(f"connection {number}", "two")
    assert len(announcements._by_caller) <= 256
    assert announcements.announced("kept") == "one"
    assert announcements.announced("first") == "two"


def test_only_news_is_news() -> None:
    announcements = Announcements()
    told = [announcements.announce(*call) for call in (("a", "one"), ("a", "one"), ("b", "one"), ("a", "two"))]
    assert told == [True, False, True, True]
