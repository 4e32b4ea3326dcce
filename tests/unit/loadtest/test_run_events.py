"""Events happen when the scenario says, and only theirs are the failures they excuse."""

from math import inf

from loadtest.run.events import Happened, lasted, occurrences, windows
from loadtest.run.scenario import Devices, Happening, Scenario


def scenario_of(*events: Happening, seconds: float = 100.0) -> Scenario:
    return Scenario(name="test", seconds=seconds, devices=Devices(count=1), events=list(events))


def test_what_comes_again_comes_until_the_end() -> None:
    scenario = scenario_of(
        Happening(do="reload", at_s=30.0, every_s=30.0),
        Happening(do="kill-gateway", at_s=50.0),
    )
    assert [(at_s, event.do) for at_s, event in occurrences(scenario)] == [
        (30.0, "reload"),
        (50.0, "kill-gateway"),
        (60.0, "reload"),
        (90.0, "reload"),
    ]


def test_only_what_is_excused_is_a_window() -> None:
    scenario = scenario_of(
        Happening(do="reload", at_s=10.0),
        Happening(do="acquirer", at_s=20.0, lasts_s=5.0, excuse_s=2.0, every_s=40.0),
    )
    assert windows(scenario) == [(20.0, 27.0), (60.0, 67.0)]


def test_an_event_is_excused_for_as_long_as_it_really_took() -> None:
    happened = [
        Happened(10.0, "kill-gateway", until_s=25.5, excuse_s=5.0),
        Happened(20.0, "reload", until_s=20.1),
        Happened(30.0, "acquirer", excuse_s=1.0),  # it was not over when the run ended
    ]
    assert lasted(happened) == [(10.0, 30.5), (30.0, inf)]
