"""What can be asked of `python -m loadtest run`, and how it says no."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.__main__ import app
from loadtest.run.board import Board
from loadtest.run.progress import line_of, view_of
from loadtest.run.samples import Sample, Samples, machine, sample
from loadtest.run.scenario import Devices, Scenario

PLAIN = 'name = "plain"\nseconds = 5.0\n[devices]\ncount = 2\nsecurity = "plain"\n'


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "plain.toml"
    path.write_text(PLAIN)
    return str(path)


def told(*arguments: str, status: int) -> str:
    # Wide, so that nothing is broken in two.
    done = CliRunner().invoke(app, ["run", *arguments], env={"COLUMNS": "400", "TERM": "dumb"})
    assert done.exit_code == status, done.output
    return done.output


def test_a_target_beyond_this_machine_is_refused_unless_told_openly(scenario: str) -> None:
    refused = told(scenario, "--target", "192.0.2.1:9000", "--plan", status=2)
    assert "192.0.2.1:9000 is not on this machine" in refused
    assert "--allow-remote" in refused
    allowed = told(scenario, "--target", "192.0.2.1:9000", "--allow-remote", "--plan", status=0)
    assert "192.0.2.1:9000" in allowed


@pytest.mark.parametrize("target", ["nonsense", "127.0.0.1:99999", "127.0.0.1:"])
def test_a_target_that_is_no_address_is_refused(scenario: str, target: str) -> None:
    assert "is not an address" in told(scenario, "--target", target, "--plan", status=2)


def test_events_need_a_gateway_of_the_runs_own() -> None:
    certs = str(Path(__file__).parent)
    answer = told("smoke", "--target", "127.0.0.1:9", "--certs", certs, "--plan", status=2)
    assert "events" in answer


def test_mutual_tls_needs_certificates() -> None:
    assert "name their --certs" in told("soak", "--target", "127.0.0.1:9", "--plan", status=2)


def test_direct_and_target_exclude_each_other(scenario: str) -> None:
    assert "leave --target out" in told(
        scenario, "--direct", "--target", "127.0.0.1:9", "--plan", status=2
    )


def test_a_scenario_that_is_wrong_is_status_2(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(PLAIN.replace("5.0", '"5"') + "colour = 1\n")
    answer = told(str(path), status=2)
    assert f"{path}:2: seconds:" in answer
    assert f"{path}:6: devices.colour:" in answer


def test_an_earlier_run_that_is_none_is_told_before_anything_runs(
    scenario: str, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text("{}")
    assert "not what" in told(scenario, "--compare", str(earlier), status=2)


def test_a_report_that_cannot_be_written_is_told_before_anything_runs(
    scenario: str, tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "none" / "report.html"):
        assert "no file can be written there" in told(scenario, "--report", str(path), status=2)


def test_the_shipped_ones_are_listed() -> None:
    assert "steady-5000" in told("list", status=0)
    names = [one["name"] for one in json.loads(told("list", "--json", status=0))]
    assert "smoke" in names


def test_a_plan_is_shown_scaled() -> None:
    answer = told("soak", "--seconds", "60", "--scale", "0.1", "--plan", status=0)
    assert "200 devices" in answer
    assert "at 30.0 s: kill-gateway" in answer
    assert "must hold: ledgers == equal" in answer


# --- what it shows and samples -------------------------------------------------------------------


async def test_progress_can_be_shown_from_the_first_moment() -> None:
    board = Board(Scenario(name="test", seconds=10.0, devices=Devices(count=1)))
    assert "0 s of 10" in line_of(board)
    board.samples["gateway"] = Samples([Sample(0.0, 1, 0.0, 5_000_000, 7)])
    board.received["acquirer-1"] = [(0.0, 0), (2.0, 90)]
    assert board.per_second("acquirer-1") == 45
    assert view_of(board).renderables


def test_this_process_can_be_sampled() -> None:
    found = sample(os.getpid(), at_s=1.5)
    assert found is not None
    assert (found.at_s, found.pid) == (1.5, os.getpid())
    assert found.rss_bytes > 1_000_000
    assert found.fds >= 3
    assert sample(2**22 + 1, at_s=0.0) is None
    assert machine()["processors"]


def test_growth_is_that_of_the_longest_life_once_it_has_settled() -> None:
    first = [Sample(float(s), 1, 0.1 * s, 50_000_000, 20) for s in range(5)]
    second = [
        Sample(float(s), 2, 0.1 * s, (60 if s < 20 else 80) * 1_000_000 + s * 100_000, 20)
        for s in range(100)
    ]
    samples = Samples(first + second)
    assert samples.rss_growth_mb() == pytest.approx(7.0, abs=0.01)
    assert samples.cpu_s() == pytest.approx(0.4 + 9.9)
    assert samples.rss_mb_max() == pytest.approx(89.9)
    assert {used for _, used in samples.cpu_percent()} == {10.0}
    assert Samples(first[:3]).rss_growth_mb() is None
