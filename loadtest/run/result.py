"""Result: a run as figures, judged; what `--json` prints and an earlier run is compared by."""

from __future__ import annotations

import hashlib
import json
import platform
import ssl
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.clock import iso_time
from loadtest.run.board import Board
from loadtest.run.conductor import Ran, RunOptions
from loadtest.run.events import lasted, occurrences, windows
from loadtest.run.histogram import Histogram
from loadtest.run.samples import machine
from loadtest.run.tally import Ending, Windows
from loadtest.run.thresholds import Value, judged

FORMAT = 1
LATE_MAX_MS = 25.0  # at the 99th percentile; later, and the tool is part of what it measures
_FLAT_FDS = 5
_PERCENTS = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0)
_POINTS_MAX = 600  # of a curve over time
_PACKAGES = ("trio", "pyiso8583", "cryptography", "apsw", "pydantic", "structlog", "orjson")

Result = dict[str, Any]


class NotAResult(ValueError):
    """The file is not what `loadtest run --json` prints."""


def read_result(path: Path) -> Result:
    """An earlier run's result; raises NotAResult."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise NotAResult(f"{path}: {error}") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise NotAResult(f"{path}: not what `python -m loadtest run --json` prints")
    return result


def result_of(options: RunOptions, ran: Ran) -> Result:
    """Everything about a run that is worth keeping, as JSON."""
    scenario = options.scenario
    ran.board.tally.lay(Windows(windows(scenario) + lasted(ran.board.happened)))
    figures = _figures(options, ran)
    verdicts = judged(scenario.judged_by, figures)
    board = ran.board
    whole = board.tally.whole()
    percents = whole.latency.percentiles_ms(_PERCENTS)
    return {
        "format": FORMAT,
        "passed": not any(one.passed is False for one in verdicts),
        "when": iso_time(ran.began_ms),
        "scenario": {
            "name": scenario.name,
            "title": scenario.title,
            "seconds": scenario.seconds,
            "devices": scenario.devices.count,
            "processes": scenario.devices.processes,
            "security": scenario.devices.security,
            "connection": scenario.devices.connection,
            "arrival": scenario.arrival.kind,
            "rate_max": scenario.rate_max(),
            "mix": {mixed.kind: mixed.weight for mixed in scenario.mix},
            "seed": scenario.seed,
            "file": options.file.path.name,
            "sha256": options.file.sha256,
        },
        "against": _against(options),
        "machine": machine(),
        "versions": _versions(),
        "configuration_sha256": hashlib.sha256(ran.configuration.encode()).hexdigest()
        if ran.configuration
        else "",
        "figures": figures,
        "thresholds": [one.to_json() for one in verdicts],
        "percentiles_ms": [list(pair) for pair in zip(_PERCENTS, percents, strict=True)],
        "kinds": {
            kind: {
                "transactions": one.count,
                **dict(zip(("p50_ms", "p99_ms"), one.percentiles_ms((50, 99)), strict=True)),
                "max_ms": one.max_ms,
            }
            for kind, one in sorted(board.tally.kinds.items())
        },
        "codes": dict(board.tally.codes.most_common()),
        "counts": dict(sorted(_plain_counts(board).items())),
        "troubles": dict(board.tally.troubles.most_common(20)),
        "ledgers": None if ran.books is None else ran.books.to_json(),
        "disagreements": [] if ran.books is None else ran.books.lines,
        "settled_s": ran.settled_s,
        "events": [one.to_json() for one in board.happened],
        "processors_s": {
            name: round(samples.cpu_s(), 2) for name, samples in board.samples.items()
        },
        "series": _series(board, scenario.seconds),
    }


def notes(result: Result) -> list[str]:
    """What has to be known to read the figures rightly."""
    figures = result["figures"]
    found = []
    if figures.get("late_p99_ms", 0.0) > LATE_MAX_MS:
        found.append(
            f"the tool itself was late ({figures['late_p99_ms']:g} ms at the 99th percentile):"
            " latencies are partly the machine's"
        )
    missing = [one["threshold"] for one in result["thresholds"] if one["passed"] is None]
    if missing:
        found.append(f"not measured in this kind of run: {', '.join(missing)}")
    return found


# --- figures -------------------------------------------------------------------------------------


def _figures(options: RunOptions, ran: Ran) -> dict[str, Value]:
    board, scenario = ran.board, options.scenario
    tally = board.tally
    whole = tally.whole()
    counts = whole.counts
    # Whoever came and has not been served even now is an error, if one without a latency.
    unserved = max(0, tally.late.count - whole.latency.count)
    transactions = whole.latency.count + unserved
    errors = counts["error"] + unserved
    percents = whole.latency.percentiles_ms((50, 90, 95, 99, 99.9))
    figures: dict[str, Value] = {
        "transactions": transactions,
        "rate": round(transactions / scenario.seconds, 2),
        "approved": counts[Ending.APPROVED],
        "approved_percent": _percent(counts[Ending.APPROVED], transactions),
        "declined": counts[Ending.DECLINED],
        "errors": errors,
        "error_percent": _percent(errors, transactions),
        "disturbed": counts["disturbed"],
        "unanswered": counts[Ending.UNANSWERED] + unserved,
        "unsent": counts[Ending.UNSENT],
        "faults": counts[Ending.FAULT],
        "queued": sum(crew.queued for crew in board.crews.values()),
        **dict(zip(("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms"), percents, strict=True)),
        "max_ms": whole.latency.max_ms,
        "repeats": tally.counts["repeats"],
        "repeats_differing": tally.counts["repeats_differing"],
        "reversed": tally.counts["reversed"],
        "late_p99_ms": tally.late.percentile_ms(99),
        "tool_cpu_us_per_txn": _each_us(
            sum(crew.busy_s for crew in board.crews.values()), transactions
        ),
    }
    figures |= _connection_figures(board, resume=scenario.devices.security == "mutual-tls")
    if scenario.devices.close_batch and not options.direct:
        figures["batches_unbalanced"] = tally.counts["batches_unbalanced"]
    if ran.books is not None:
        figures |= {
            "ledgers": "equal" if ran.books.agree else "different",
            "lost": ran.books.lost,
            "doubled": ran.books.doubled,
            "unexplained": ran.books.unexplained,
            "for_an_operator": ran.books.for_an_operator,
            "store_bytes_per_txn": round(ran.store_bytes / max(1, ran.books.attempts), 1),
        }
    if ran.restarts_s:
        figures["restart_s"] = max(ran.restarts_s)
    return figures | _gateway_figures(ran, transactions)


def _connection_figures(board: Board, *, resume: bool) -> dict[str, Value]:
    connecting = Histogram()
    connecting.add(board.opening)
    connecting.add(board.tally.connecting)
    figures: dict[str, Value] = {"connect_p99_ms": connecting.percentile_ms(99)}
    again = board.tally.counts["connections"]
    if resume and again:
        # Of the calls after the first: that one cannot resume anything.
        figures["resumed_percent"] = _percent(board.tally.counts["resumed"], again)
    back_ms = [
        int(name.partition(":")[2]) for name in board.tally.counts if name.startswith("back_ms:")
    ]
    if back_ms:
        figures["back_s"] = max(back_ms) / 1000
    return figures


def _gateway_figures(ran: Ran, transactions: int) -> dict[str, Value]:
    samples = ran.board.samples.get("gateway")
    if samples is None or not samples.taken:
        return {}
    figures: dict[str, Value] = {
        "rss_mb": samples.rss_mb_max(),
        "cpu_us_per_txn": _each_us(samples.cpu_s(), transactions),
    }
    growth_mb = samples.rss_growth_mb()
    if growth_mb is not None:
        figures["rss_growth_mb"] = growth_mb
    if ran.idle_fds is not None:
        before, after = ran.idle_fds
        figures["fds_growth"] = after - before
        figures["fds"] = "flat" if after - before <= _FLAT_FDS else "growing"
    return figures


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 3) if whole else 0.0


def _each_us(seconds: float, count: int) -> float:
    return round(1e6 * seconds / count, 1) if count else 0.0


def _plain_counts(board: Board) -> dict[str, int]:
    return {
        name: count for name, count in board.tally.counts.items() if not name.startswith("back_ms:")
    }


# --- what was run --------------------------------------------------------------------------------


def _against(options: RunOptions) -> str:
    if options.target is not None:
        return f"a gateway that was running, {options.target}"
    return "a simulated acquirer, without a gateway" if options.direct else "a gateway of its own"


def _versions() -> dict[str, str]:
    found = {
        "gateway": __version__,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "implementation": sys.implementation.name,
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


# --- over time -----------------------------------------------------------------------------------


def _series(board: Board, seconds: float) -> dict[str, Any]:
    """Curves over the run, in steps of whole seconds, so that there are at most 600 points."""
    step_s = max(1, -(-round(seconds) // _POINTS_MAX))
    steps = max(1, -(-round(seconds) // step_s))
    merged = [Histogram() for _ in range(steps)]
    endings = [dict.fromkeys((*Ending, "error", "disturbed"), 0) for _ in range(steps)]
    for second, one in board.tally.seconds.items():
        step = min(max(second // step_s, 0), steps - 1)
        merged[step].add(one.latency)
        for name, count in one.counts.items():
            endings[step][name] += count
    percents = [one.percentiles_ms((50, 90, 99)) for one in merged]
    gateway = board.samples.get("gateway")
    return {
        "step_s": step_s,
        "at_s": [step * step_s for step in range(steps)],
        "rate": [round(one.count / step_s, 1) for one in merged],
        "p50_ms": [p[0] for p in percents],
        "p90_ms": [p[1] for p in percents],
        "p99_ms": [p[2] for p in percents],
        "max_ms": [one.max_ms for one in merged],
        **{
            name: [round(step[name] / step_s, 2) for step in endings]
            for name in ("error", "disturbed", Ending.DECLINED, Ending.BLOCKED)
        },
        "gateway": {
            "at_s": [round(one.at_s, 1) for one in gateway.taken] if gateway else [],
            "rss_mb": [round(one.rss_bytes / 1e6, 1) for one in gateway.taken] if gateway else [],
            "fds": [one.fds for one in gateway.taken] if gateway else [],
            "cpu": [[round(at_s, 1), used] for at_s, used in gateway.cpu_percent()]
            if gateway
            else [],
        },
        "upstreams": {
            name: [
                [round(to_s, 1), round(max(0, after - before) / (to_s - from_s), 1)]
                for (from_s, before), (to_s, after) in pairwise(readings)
                if to_s > from_s
            ]
            for name, readings in sorted(board.received.items())
        },
    }


def planned(options: RunOptions) -> list[str]:
    """What a run would do, a line each, for `--plan`."""
    scenario = options.scenario
    devices = scenario.devices
    mix = ", ".join(f"{mixed.kind} {mixed.weight:g}" for mixed in scenario.mix)
    count, seconds, rate = devices.count, scenario.seconds, scenario.rate_max()
    lines = [f"{scenario.name}: {scenario.title}"]
    lines.append(f"{count:,} devices in {devices.processes} processes, {devices.security}")
    lines.append(f"connections {devices.connection}, arrival {scenario.arrival.kind}; {mix}")
    lines.append(f"{seconds:g} s, at most {rate:g}/s, against {_against(options)}")
    lines += [f"at {at_s:.1f} s: {event.do}" for at_s, event in occurrences(scenario)]
    lines += [f"must hold: {threshold}" for threshold in scenario.judged_by]
    return lines
