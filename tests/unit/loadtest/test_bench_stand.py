"""What the benchmark measures with: its configuration's variant, its lists, its load, its rows."""

import tomllib
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.policy.blockfiles import parse
from gateway.policy.blocklists import ListName
from loadtest.addresses import HostPort
from loadtest.bench import blocked, runner
from loadtest.bench.command import app
from loadtest.bench.figures import Figure, Measured
from loadtest.bench.load import Load, read
from loadtest.bench.rows import EACH_RESUMED, STEADY
from loadtest.bench.runner import ROWS, Options
from loadtest.bench.stand import CONFIG, NotAsExpected, transactions_of, variant
from loadtest.bench.work import Bench, Row
from loadtest.processes import ChildFailed
from loadtest.run.line import TlsFolder

PORTS = {"9000": 1, "9443": 2, "9101": 3, "9102": 4, "9465": 5}


def test_the_variant_touches_nobodys_ports_and_files(tmp_path: Path) -> None:
    text = variant(
        CONFIG.read_text(encoding="utf-8"),
        folder=tmp_path,
        admin_socket=Path("/short/1.sock"),
        ports=PORTS,
    )
    settings = tomllib.loads(text)
    assert [one["listen"] for one in settings["listeners"]] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert [one["addresses"] for one in settings["upstreams"]] == [["127.0.0.1:3"], ["127.0.0.1:4"]]
    assert settings["metrics"]["listen"] == "127.0.0.1:5"
    assert settings["node"]["admin_socket"] == "/short/1.sock"
    assert Path(settings["store"]["path"]) == tmp_path / "bench.db"
    assert settings["blocklists"]["folder"].endswith("var/bench-blocklists")
    assert "../" not in "".join(line.partition("#")[0] for line in text.splitlines())


def test_a_configuration_that_lacks_what_is_replaced_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAsExpected, match="reads 127"):
        variant("[node]\n", folder=tmp_path, admin_socket=tmp_path, ports=PORTS)


def test_every_guarantee_is_asked_for() -> None:
    settings = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    profile = settings["profiles"][0]
    assert profile["amounts"]
    assert any("amount_max_minor" in limit for limit in profile["limits"])
    assert any("count_max" in limit for limit in profile["limits"])
    assert settings["log"]["level"] == "info"
    assert settings["metrics"]["listen"]


def test_the_blocklists_are_whole_and_name_nobody_who_buys(tmp_path: Path) -> None:
    assert blocked.write(tmp_path) == 100_000
    for name in ListName:
        content = (tmp_path / name.value).read_bytes()
        parsed = parse(name, content, file=name.value, zone=UTC)
        assert parsed.problems == ()
        assert parsed.count == blocked.COUNTS[name.value]
    # What isoload's terminals are: T0000001, MERCHANT0000001, cards of 4761, 127.0.0.1.
    text = "".join((tmp_path / name).read_text() for name in ("terminals", "merchants", "bins"))
    lines = text.splitlines()
    assert not any(line.startswith(("T0", "MERCHANT", "4")) for line in lines)
    before = (tmp_path / "cards").stat().st_mtime_ns
    blocked.write(tmp_path)
    assert (tmp_path / "cards").stat().st_mtime_ns == before


def test_isoload_is_told_what_a_load_is() -> None:
    tls = TlsFolder(Path("/c/terminals"), Path("/c/ca.crt"))
    command = EACH_RESUMED.command(Path("isoload"), HostPort("127.0.0.1", 9443), tls=tls, pid=7)
    line = " ".join(command)
    assert "-per-conn 1 -resume" in line
    assert "-tls -certdir /c/terminals -ca /c/ca.crt" in line
    assert "-pid 7 -json" in line
    plain = Load(terminals=3, rate=0.5).command(
        Path("isoload"), HostPort("::1", 9000), tls=tls, pid=7
    )
    assert "-tls" not in plain
    assert "[::1]:9000" in plain


def test_a_glance_is_short_and_small() -> None:
    glance = STEADY.quick()
    assert (glance.terminals, glance.rate, glance.tls) == (20, 50.0, True)
    assert glance.seconds < 2
    assert replace(STEADY, rate=0).quick().rate == 0  # a closed loop stays one


def test_a_report_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match="report has no"):
        read('{"ok": 1}')
    with pytest.raises(ValueError, match="Expecting value"):
        read("isoload: cannot connect")


def test_transactions_are_summed_over_labels() -> None:
    text = """\
# HELP gateway_transactions_total Finished.
gateway_transactions_total{kind="purchase",response_code="00",upstream="a"} 12.0
gateway_transactions_total{kind="purchase",response_code="00",upstream="b"} 1e+06
gateway_transaction_seconds_count{kind="purchase"} 99
"""
    assert transactions_of(text) == 1_000_012


def test_rows_have_names_of_their_own() -> None:
    keys = [row.key for row in ROWS]
    assert len(keys) == len(set(keys))
    assert [row.key for row in Options(only=("crowd", "million")).rows] == ["crowd", "million"]
    assert not any(row.long for row in Options().rows)
    assert Options(long=True).rows == list(ROWS)
    assert Options().bound_s == 480
    assert Options(long=True).bound_s == 2_400


def test_a_row_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(app, ["--only", "plane"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2
    assert "there is no row plane" in done.output


class Quiet(Bench):
    """A bench on no stand."""

    def __init__(self) -> None:
        self.said: list[str] = []
        super().__init__(stand=None, quick=True, say=self.said.append)  # type: ignore[arg-type]


async def test_a_row_that_fails_does_not_keep_the_next_from_running() -> None:
    async def broken(bench: Bench, found: Measured) -> None:
        raise ChildFailed("the gateway ended with -9")

    async def good(bench: Bench, found: Measured) -> None:
        found.figures.append(Figure(name="CPU", unit="us", value=1.0))

    rows = [Row("broken", "Broken", broken), Row("good", "Good", good)]
    bench = Quiet()
    found: list[Measured] = []
    await runner.measure_rows(bench, rows, found)
    assert [one.failure for one in found] == ["the gateway ended with -9", ""]
    assert "    the gateway ended with -9" in bench.said
    runner.mark_missing([*rows, Row("late", "Late", good)], found, bound_s=480)
    assert found[2].failure == "not measured: the 480 s of a run were over"
