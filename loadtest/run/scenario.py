"""Scenario: a load test as a TOML file says it, checked as a whole before anything starts."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from gateway.settings.findings import Findings, SettingsError
from gateway.settings.lines import KeyPath
from gateway.settings.schema_base import Currency, Name, Table
from gateway.settings.shape import Shape
from gateway.settings.wording import report
from loadtest.run.thresholds import BadThreshold, Threshold, parse
from loadtest.switches import BadSwitch, Switches

SHIPPED = Path(__file__).resolve().parent.parent / "scenarios"

DEVICES_MAX = 20_000
SECONDS_MAX = 86_400
TRANSACTIONS_MAX = 20_000_000
EVENTS_MAX = 1_000
_BYTES_MAX = 1 << 20

Share = Annotated[float, Field(ge=0, le=1)]
Moment = Annotated[float, Field(ge=0, le=SECONDS_MAX)]  # seconds from the start
Kind = Literal["purchase", "void", "refund", "preauthorisation", "completion", "balance"]
# They follow a transaction of the same device, which has to be there before them.
FOLLOWS: dict[str, Kind] = {
    "void": "purchase",
    "refund": "purchase",
    "completion": "preauthorisation",
}


class Amount(Table):
    """How much customers pay, in minor units."""

    distribution: Literal["fixed", "uniform", "lognormal", "list"] = "uniform"
    min_minor: int = Field(default=100, ge=1, le=999_999_999)
    max_minor: int = Field(default=25_000, ge=1, le=999_999_999)  # never more
    median_minor: int = Field(default=2_500, ge=1, le=999_999_999)  # fixed, lognormal
    sigma: float = Field(default=0.8, gt=0, le=5)  # lognormal: of the logarithm
    values_minor: list[Annotated[int, Field(ge=1, le=999_999_999)]] = Field(default_factory=list)


class Mixed(Table):
    """One kind of transaction, and how often it is asked for among all."""

    kind: Kind
    weight: float = Field(gt=0, le=1_000_000)
    amount: Amount = Amount()


class Devices(Table):
    """The terminals of the run."""

    count: int = Field(ge=1, le=DEVICES_MAX)
    processes: int = Field(default=1, ge=1, le=64)
    security: Literal["mutual-tls", "plain"] = "mutual-tls"
    resume: bool = True  # TLS sessions
    connection: Literal["kept", "each-time"] = "kept"
    sign_on: bool = True
    secure: bool = False  # MAC and PIN under the device's own keys, as its profile wants
    connects_at_once_max: int = Field(default=50, ge=1, le=DEVICES_MAX)  # of each process
    connect_s: float = Field(default=10.0, gt=0, le=300)
    answer_s: float = Field(default=10.0, gt=0, le=300)  # how long a device waits
    repeats: Share = 0.0  # of answered requests, those that are sent again
    reversals: Share = 0.0  # of approvals, those that the device takes back at once
    close_batch: bool = False  # at the end, with the device's own totals
    currency: Currency = "978"


class Point(Table):
    """A rate at a moment, as a share of the run; straight lines between them."""

    at: Share
    rate: float = Field(ge=0, le=100_000)


class Arrival(Table):
    """When customers come. `closed`: each device asks again once it has thought for a while."""

    kind: Literal["constant", "curve", "closed"] = "constant"
    rate: float = Field(default=100.0, ge=0, le=100_000)  # constant: a second, of all devices
    spread: Literal["even", "random"] = "random"  # random: a Poisson process
    points: list[Point] = Field(default_factory=list, max_length=1_000)
    think_s: float = Field(default=1.0, ge=0, le=3_600)  # closed: the mean, exponential


class AcquirersTable(Table):
    """The simulated acquirers behind the gateway."""

    count: int = Field(default=2, ge=1, le=8)
    # As `python -m loadtest switch` takes them: "delay_ms=5", "decline=51:amount%17=0".
    switches: list[str] = Field(default_factory=list, max_length=50)


class Gateway(Table):
    """The gateway that the run starts."""

    answer_s: float = Field(default=8.0, gt=0, le=300)  # of an acquirer
    late_max_s: float = Field(default=20.0, gt=0, le=3_600)
    links: int = Field(default=2, ge=1, le=64)  # to each acquirer
    blocked_bins: int = Field(default=0, ge=0, le=1_000_000)  # entries of that blocklist
    settle_s: float = Field(default=60.0, gt=0, le=3_600)  # until all ledgers must agree


class Happening(Table):
    """Something that happens to the run at a moment."""

    do: Literal["kill-gateway", "reload", "acquirer", "reconnect-storm", "block-terminals"]
    at_s: Moment
    every_s: float = Field(default=0.0, ge=0, le=SECONDS_MAX)  # 0: once; else again and again
    lasts_s: float = Field(default=0.0, ge=0, le=SECONDS_MAX)  # acquirer, and a killed gateway
    # What fails so long after its end is counted as disturbed, not as an error.
    excuse_s: float = Field(default=0.0, ge=0, le=600)
    acquirer: int = Field(default=1, ge=0, le=8)  # which; 0: all of them
    sickness: Literal["mute", "dead", "slow", "busy", "reset"] = "mute"
    delay_ms: float = Field(default=1_500.0, gt=0, le=600_000)  # of a slow one
    share: Share = 1.0  # of the devices, in a storm
    count: int = Field(default=1, ge=1, le=100)  # of devices to be blocked


class Scenario(Table):
    """A whole scenario file."""

    name: Name
    title: str = Field(default="", max_length=200)
    seconds: float = Field(gt=0, le=SECONDS_MAX)
    seed: int = Field(default=1, ge=1, le=1_000_000)
    transactions_max: int = Field(default=TRANSACTIONS_MAX, ge=1, le=TRANSACTIONS_MAX)
    devices: Devices
    arrival: Arrival = Arrival()
    mix: list[Mixed] = Field(default=[Mixed(kind="purchase", weight=1.0)], min_length=1)
    acquirers: AcquirersTable = AcquirersTable()
    gateway: Gateway = Gateway()
    events: list[Happening] = Field(default_factory=list, max_length=100)
    thresholds: list[str] = Field(default_factory=list, max_length=100)

    @property
    def judged_by(self) -> list[Threshold]:
        return [parse(text) for text in self.thresholds]

    def rate_max(self) -> float:
        """The highest rate a second that customers come at; 0 where devices set it themselves."""
        if self.arrival.kind == "curve":
            return max(point.rate for point in self.arrival.points)
        return self.arrival.rate if self.arrival.kind == "constant" else 0.0

    def scaled(self, *, seconds: float = 0.0, scale: float = 1.0) -> Scenario:
        """The same in another time (0: as it is), with so many times the devices and the rate."""
        stretch = (seconds or self.seconds) / self.seconds
        arrival = self.arrival.model_copy(
            update={
                "rate": self.arrival.rate * scale,
                "points": [
                    point.model_copy(update={"rate": point.rate * scale})
                    for point in self.arrival.points
                ],
            }
        )
        events = [
            event.model_copy(
                update={
                    "at_s": event.at_s * stretch,
                    "every_s": event.every_s * stretch,
                    "lasts_s": event.lasts_s * stretch,
                }
            )
            for event in self.events
        ]
        count = min(DEVICES_MAX, max(self.devices.processes, round(self.devices.count * scale)))
        return self.model_copy(
            update={
                "seconds": self.seconds * stretch,
                "devices": self.devices.model_copy(update={"count": count}),
                "arrival": arrival,
                "events": events,
            }
        )


@dataclass(frozen=True, slots=True)
class ScenarioFile:
    """A scenario and where it stands."""

    path: Path
    scenario: Scenario
    sha256: str  # of the file


def find(name: str) -> Path:
    """The file of a scenario: a path, or the name of one that is shipped."""
    path = Path(name)
    shipped = SHIPPED / f"{name}.toml"
    return shipped if not path.exists() and path.name == name and shipped.exists() else path


def load(path: Path) -> ScenarioFile:
    """The scenario in a file; raises SettingsError with all that is wrong, each at its line."""
    findings = Findings(path)
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
        source = content.decode("utf-8-sig")
        if len(content) > _BYTES_MAX:
            findings.error_at(1, f"is longer than {_BYTES_MAX} bytes", "name a scenario's file")
            raise SettingsError(findings.in_order())
        document = tomllib.loads(source)
    except OSError as error:
        shipped = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.toml")))
        remedy = f"name a file, or one that is shipped: {shipped}"
        findings.error_at(1, f"cannot be read: {error.strerror}", remedy)
        raise SettingsError(findings.in_order()) from None
    except UnicodeDecodeError:
        findings.error_at(1, "is not UTF-8 text", "save the file as UTF-8")
        raise SettingsError(findings.in_order()) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        findings.error_at(1, f"not TOML: {error}", "see toml.io for the syntax")
        raise SettingsError(findings.in_order()) from None
    findings.locate_in(source)
    scenario = None
    try:
        scenario = Scenario.model_validate(document)
    except ValidationError as error:
        report(findings, error.errors(include_url=False), Shape.of(Scenario))
    _check_texts(document, findings)
    if scenario is not None:
        _check(scenario, findings)
    if scenario is None or findings.has_errors:
        raise SettingsError(findings.in_order())
    return ScenarioFile(path, scenario, hashlib.sha256(content).hexdigest())


# --- what the schema cannot say ------------------------------------------------------------------


def _check_texts(document: dict[str, object], findings: Findings) -> None:
    """Thresholds and switches have a syntax of their own, wrong or right whatever else is."""
    thresholds = document.get("thresholds")
    for number, text in enumerate(thresholds if isinstance(thresholds, list) else []):
        if isinstance(text, str):
            try:
                parse(text)
            except BadThreshold as error:
                findings.error(("thresholds", number), *_halves(error))
    acquirers = document.get("acquirers")
    switches = acquirers.get("switches") if isinstance(acquirers, dict) else None
    if isinstance(switches, list) and all(isinstance(text, str) for text in switches):
        pairs = [text.partition("=") for text in switches]
        for number, (name, equals, _) in enumerate(pairs):
            if not equals:
                path = ("acquirers", "switches", number)
                findings.error(path, f"{name!r} is not a switch", "NAME=VALUE would be")
        try:
            # All at once: some go only together.
            Switches().changed({name: value for name, _, value in pairs})
        except BadSwitch as error:
            findings.error(("acquirers", "switches"), *_halves(error))


def _halves(error: ValueError) -> tuple[str, str]:
    problem, _, remedy = str(error).partition("; ")
    return problem, remedy


def _check(scenario: Scenario, findings: Findings) -> None:
    for number, mixed in enumerate(scenario.mix):
        _check_amount(mixed.amount, partial(findings.error, ("mix", number, "amount")))
    _check_arrival(scenario, findings)
    if scenario.devices.processes > scenario.devices.count:
        findings.error(
            ("devices", "processes"),
            f"{scenario.devices.processes} processes for {scenario.devices.count} devices",
            "write at most one to a device",
        )
    if scenario.devices.answer_s <= scenario.gateway.answer_s:
        findings.error(
            ("devices", "answer_s"),
            f"a device gives up after {scenario.devices.answer_s:g} s, no later than its gateway"
            f" after gateway.answer_s = {scenario.gateway.answer_s:g} s",
            "let devices wait longer, or they never hear of it",
        )
    for number, event in enumerate(scenario.events):
        _check_event(event, ("events", number), scenario, findings)
    times = sum(
        1 + (int((scenario.seconds - event.at_s) / event.every_s) if event.every_s else 0)
        for event in scenario.events
    )
    if times > EVENTS_MAX:
        findings.error(("events",), f"come to {times} in all", f"at most {EVENTS_MAX} may happen")


def _check_amount(amount: Amount, error: partial[None]) -> None:
    if amount.distribution == "list" and not amount.values_minor:
        error("a list without values", "add values_minor = [1000, 2500]")
    if amount.values_minor and amount.distribution != "list":
        error("values_minor are for a list only", 'write distribution = "list"')
    if amount.min_minor > amount.max_minor:
        error(
            f"min_minor {amount.min_minor} is above max_minor {amount.max_minor}",
            "let min_minor be the smaller one",
        )


def _check_arrival(scenario: Scenario, findings: Findings) -> None:
    arrival = scenario.arrival
    path: KeyPath = ("arrival",)
    expected = 0.0
    if arrival.kind == "constant":
        expected = arrival.rate * scenario.seconds
        if not arrival.rate:
            findings.error((*path, "rate"), "nobody comes", "write a rate above 0")
    if arrival.kind == "curve":
        moments = [point.at for point in arrival.points]
        if len(moments) < 2 or moments[0] != 0 or moments[-1] != 1 or moments != sorted(moments):
            findings.error(
                (*path, "points"),
                "a curve needs at least two points in order, the first at 0, the last at 1",
                "write points = [{ at = 0.0, rate = 10.0 }, { at = 1.0, rate = 100.0 }]",
            )
            return
        expected = scenario.seconds * sum(
            (later.at - point.at) * (point.rate + later.rate) / 2
            for point, later in pairwise(arrival.points)
        )
        if not expected:
            findings.error((*path, "points"), "nobody comes", "write rates above 0")
    elif arrival.points:
        findings.error((*path, "points"), "are for a curve only", 'write kind = "curve"')
    if expected > scenario.transactions_max:
        findings.error(
            path,
            f"{expected:,.0f} transactions would come in {scenario.seconds:g} s",
            f"transactions_max allows {scenario.transactions_max:,}",
        )


def _check_event(event: Happening, path: KeyPath, scenario: Scenario, findings: Findings) -> None:
    if event.at_s >= scenario.seconds:
        findings.error(
            (*path, "at_s"),
            f"{event.at_s:g} s is not within the run",
            f"it ends after {scenario.seconds:g} s",
        )
    if event.every_s and event.every_s < event.lasts_s:
        findings.error(
            (*path, "every_s"),
            f"comes again every {event.every_s:g} s and lasts {event.lasts_s:g} s",
            "let it end before it comes again",
        )
    if event.do == "acquirer" and not event.lasts_s:
        findings.error(path, "an acquirer that is sick for no time", "add lasts_s = 5.0")
    if event.do == "acquirer" and event.acquirer > scenario.acquirers.count:
        findings.error(
            (*path, "acquirer"),
            f"there is no acquirer {event.acquirer}",
            f"there are {scenario.acquirers.count}; 0 is all of them",
        )
    if event.do == "reconnect-storm" and scenario.devices.connection == "each-time":
        findings.error(
            path, "no connection is kept that could be lost", 'write connection = "kept"'
        )
