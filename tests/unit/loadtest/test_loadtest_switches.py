"""Switches read what a command line gives them, and refuse what they cannot take."""

import pytest

from loadtest.switches import BadSwitch, Switches


def test_text_is_read_as_the_switches_type() -> None:
    switches = Switches().changed({"mute": "true", "delay_ms": "300", "drop": "0.25"})
    assert (switches.mute, switches.delay_ms, switches.drop) == (True, 300, 0.25)
    assert switches.changed({"mute": False}).delay_ms == 300


@pytest.mark.parametrize("text", ["51:amount>=50000", "05:bin=999999,54:amount%10=3", ""])
def test_rules_are_shown_as_they_are_written(text: str) -> None:
    switches = Switches().changed({"decline": text})
    assert switches.model_dump()["decline"] == text
    assert switches.changed({"mute": True}).decline == switches.decline


@pytest.mark.parametrize(
    "changes",
    [
        {"silent": "true"},
        {"mute": "perhaps"},
        {"delay_ms": -1},
        {"drop": 1.5},
        {"response_code": "9"},
        {"decline": "51:amount<5"},
        {"decline": "51:amount%0=0"},
        {"decline": 7},
    ],
)
def test_what_does_not_exist_or_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadSwitch, match=next(iter(changes))):
        Switches().changed(changes)
