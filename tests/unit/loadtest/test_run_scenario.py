"""Scenario files: those that are shipped are right, and of a wrong one all is told at once."""

from pathlib import Path

import pytest

from gateway.settings.findings import SettingsError
from loadtest.run.scenario import SHIPPED, Scenario, find, load

SMALL = 'name = "small"\nseconds = 10.0\n[devices]\ncount = 4\n'


def scenario_of(folder: Path, text: str) -> Scenario:
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return load(path).scenario


def findings_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        scenario_of(folder, text)
    return [str(finding).partition("scenario.toml:")[2] for finding in error.value.findings]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_what_is_shipped_is_right(path: Path) -> None:
    scenario = load(path).scenario
    assert scenario.name == path.stem
    assert scenario.title
    assert scenario.judged_by, "a scenario that asks for nothing cannot fail"


def test_the_shipped_ones_are_those_that_were_promised() -> None:
    assert {path.stem for path in SHIPPED.glob("*.toml")} == {
        "smoke",
        "steady-5000",
        "lunch-peak",
        "reconnect-storm",
        "acquirer-outage",
        "soak",
        "connect-each-time",
        "day-in-a-minute",
        "keyed",
    }


def test_a_name_is_a_shipped_scenario_and_a_path_a_file(tmp_path: Path) -> None:
    assert find("smoke") == SHIPPED / "smoke.toml"
    assert find(str(tmp_path / "smoke")) == tmp_path / "smoke"


def test_everything_that_is_wrong_is_told_at_its_line(tmp_path: Path) -> None:
    text = """\
name = "bad"
seconds = "long"
thresholds = ["p99 < 5"]
[devices]
count = 0
colour = "blue"
[[mix]]
weight = 2.0
[acquirers]
switches = ["mutee=true"]
[[events]]
do = "kill"
at_s = 1.0
"""
    found = findings_of(tmp_path, text)
    assert [line.split(": ")[:2] for line in found] == [
        ["2", "seconds"],
        ["3", "thresholds[0]"],
        ["5", "devices.count"],
        ["6", "devices.colour"],
        ["7", "mix[0].kind"],
        ["10", "acquirers.switches"],
        ["12", "events[0].do"],
    ]


@pytest.mark.parametrize(
    ("more", "path", "told"),
    [
        ("[gateway]\nanswer_s = 10.0\n", "devices.answer_s", "no later than its gateway"),
        ("processes = 5\n", "devices.processes", "5 processes for 4 devices"),
        ('[arrival]\nkind = "curve"\n', "arrival.points", "at least two points"),
        ("[arrival]\nrate = 0.0\n", "arrival.rate", "nobody comes"),
        (
            "[arrival]\npoints = [{ at = 0.0, rate = 1.0 }]\n",
            "arrival.points",
            "are for a curve only",
        ),
        (
            '[[mix]]\nkind = "void"\nweight = 1.0\namount = { distribution = "list" }\n',
            "mix[0].amount",
            "without values",
        ),
        (
            '[[mix]]\nkind = "void"\nweight = 1.0\namount = { min_minor = 9, max_minor = 8 }\n',
            "mix[0].amount",
            "is above",
        ),
        ('[[events]]\ndo = "reload"\nat_s = 10.0\n', "events[0].at_s", "not within the run"),
        ('[[events]]\ndo = "acquirer"\nat_s = 1.0\n', "events[0]", "sick for no time"),
        (
            '[[events]]\ndo = "acquirer"\nat_s = 1.0\nlasts_s = 1.0\nacquirer = 3\n',
            "events[0].acquirer",
            "there is no acquirer 3",
        ),
        (
            '[[events]]\ndo = "kill-gateway"\nat_s = 1.0\nlasts_s = 3.0\nevery_s = 2.0\n',
            "events[0].every_s",
            "lasts 3 s",
        ),
        ('[[events]]\ndo = "reload"\nat_s = 0.0\nevery_s = 0.001\n', "events", "come to 10001"),
    ],
)
def test_what_the_schema_cannot_say_is_checked_too(
    tmp_path: Path, more: str, path: str, told: str
) -> None:
    (found,) = findings_of(tmp_path, SMALL + more)
    assert f" {path}: " in found
    assert told in found


def test_a_storm_needs_connections_that_are_kept(tmp_path: Path) -> None:
    text = SMALL + 'connection = "each-time"\n[[events]]\ndo = "reconnect-storm"\nat_s = 1.0\n'
    (found,) = findings_of(tmp_path, text)
    assert "no connection is kept" in found


def test_more_transactions_than_are_allowed_are_refused(tmp_path: Path) -> None:
    text = f"transactions_max = 100\n{SMALL}[arrival]\nrate = 20.0\n"
    (found,) = findings_of(tmp_path, text)
    assert "200 transactions would come" in found


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name = \xff", "is not UTF-8 text"),
        (b"name = ", "not TOML"),
        (b"# " + b"x" * (1 << 20), "is longer than"),
    ],
)
def test_a_file_that_is_none_is_told_so(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "scenario.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=told):
        load(path)


def test_a_file_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="smoke"):
        load(tmp_path / "nothing.toml")


def test_scaled_times_and_rates_keep_their_proportions() -> None:
    scenario = load(SHIPPED / "soak.toml").scenario
    small = scenario.scaled(seconds=18.0, scale=0.1)
    assert (small.seconds, small.devices.count, small.arrival.rate) == (18.0, 200, 50.0)
    kill = small.events[-1]
    assert (kill.do, kill.at_s, kill.lasts_s) == ("kill-gateway", 9.0, 0.01)
    # What it takes the gateway to come back does not get shorter.
    assert kill.excuse_s == scenario.events[-1].excuse_s
