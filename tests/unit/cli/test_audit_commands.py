"""`gateway audit`, `gateway approve` and `gateway reload`, as they are called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.main import build_app
from gateway.telemetry.audit import opened
from gateway.telemetry.audit_chain import Head
from gateway.telemetry.audit_files import chain_files
from tests.support.admin_thread import AdminThread, admin_thread
from tests.support.audit_logs import ANNA, audit_log
from tests.support.small_config import CONFIG


@pytest.fixture
def config() -> Iterator[Path]:
    with TemporaryDirectory(prefix="gw") as name:
        file = Path(name) / "gateway.toml"
        file.write_text(CONFIG)
        yield file


@pytest.fixture
def folder(config: Path) -> Path:
    return config.parent / "var" / "audit"


@pytest.fixture
def head(folder: Path) -> Head:
    """Of a log with three records."""

    async def fill() -> Head:
        async with opened(audit_log(folder)) as log:
            await log.record("terminals.enrol", who=ANNA, subject="T1", new={"state": "pending"})
            await log.record(
                "terminals.suspend",
                who=ANNA,
                subject="T1",
                old={"state": "active", "place": "x"},
                new={"state": "suspended", "place": "x"},
            )
            await log.record("config.load", who=ANNA, outcome="refused: \x1b[31m")
            return log.head

    return trio.run(fill)


@pytest.fixture
def daemon(config: Path) -> Iterator[AdminThread]:
    with admin_thread(config.parent / "admin") as thread:
        yield thread


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


@pytest.mark.usefixtures("head")
class TestList:
    def test_a_table(self, config: Path) -> None:
        result = invoke("audit", "list", "--config", config)
        assert result.exit_code == 0, result.output
        assert "state: active > suspended" in result.stdout
        assert "place" not in result.stdout
        assert "\x1b[31m" not in result.stdout

    def test_chosen(self, config: Path) -> None:
        def numbers(*options: str) -> list[int]:
            result = invoke("audit", "list", "--json", "--config", config, *options)
            return [one["seq"] for one in json.loads(result.stdout)["records"]]

        assert numbers() == [1, 2, 3]
        assert numbers("--action", "terminals.") == [1, 2]
        assert numbers("--subject", "T1", "--limit", "1") == [2]
        assert numbers("--who", "ben") == []
        assert numbers("--since", "2200-01-01") == numbers("--until", "2000-01-01") == []

    def test_an_export_can_be_verified(self, config: Path, folder: Path, tmp_path: Path) -> None:
        exported = invoke("audit", "export", "--config", config).stdout
        assert exported == chain_files(folder)[0].read_text()
        (tmp_path / "audit-000000000001.jsonl").write_text(exported)
        result = invoke("audit", "verify", "--folder", tmp_path, "--json", "--config", config)
        verdict = json.loads(result.stdout)
        assert verdict["records"] == 3
        assert [one["problem"] for one in verdict["problems"]] == ["is missing"]  # head.json

    def test_a_configuration_that_is_being_written(self, config: Path) -> None:
        config.write_text(CONFIG.replace("[[routes]]", "[[rowts]]"))
        assert invoke("audit", "verify", "--config", config).exit_code == 0


class TestVerify:
    def test_whole(self, config: Path, head: Head) -> None:
        result = invoke("audit", "verify", "--config", config)
        assert result.exit_code == 0
        assert result.stdout == f"{head.seq}:{head.hash}\n"
        anchored = invoke(
            "audit", "verify", "--anchor", f"{head.seq}:{head.hash}", "--config", config
        )
        assert anchored.exit_code == 0

    def test_changed(self, config: Path, folder: Path, head: Head) -> None:
        file = chain_files(folder)[0]
        file.write_text(file.read_text().replace("suspended", "activated"))
        result = invoke("audit", "verify", "--json", "--config", config)
        assert result.exit_code == 1
        verdict = json.loads(result.stdout)
        assert not verdict["ok"]
        assert verdict["problems"][0] == {
            "file": file.name,
            "line": 2,
            "sequence": 2,
            "problem": "changed: this is not what the gateway wrote",
        }
        assert f"{file}:2" in invoke("audit", "verify", "--config", config).stderr

    def test_an_anchor_that_is_none(self, config: Path) -> None:
        assert invoke("audit", "verify", "--anchor", "x", "--config", config).exit_code == 2


@pytest.mark.usefixtures("daemon")
class TestApprove:
    def test_nothing_waits(self, config: Path) -> None:
        result = invoke("approve", "--list", "--json", "--config", config)
        assert json.loads(result.stdout) == {"pending": []}
        assert "0 wait" in invoke("approve", "--config", config).stderr

    def test_a_number_that_is_none(self, config: Path) -> None:
        result = invoke("approve", "7", "--config", config)
        assert result.exit_code == 1
        assert "nothing waits under 7" in result.stderr
        assert invoke("approve", "7", "--reject", "--config", config).exit_code == 1
        assert invoke("approve", "7", "--list", "--config", config).exit_code == 2


@pytest.mark.usefixtures("daemon")
class TestReload:
    def test_the_outcomes(self, config: Path, daemon: AdminThread) -> None:
        def report(result: str, **more: object) -> None:
            daemon.report = {
                "result": result,
                "version": "c0ffee",
                "candidate": "beef",
                "findings": [],
                "notes": [],
                "files": ["terminals"],
                **more,
            }  # type: ignore[typeddict-item]

        report("loaded")
        loaded = invoke("reload", "--config", config)
        assert (loaded.exit_code, "c0ffee is in force (terminals)" in loaded.stderr) == (0, True)
        report("waits", notes=["blocklist terminals goes from 20 entries to 1"])
        waits = invoke("reload", "--config", config)
        assert waits.exit_code == 1
        assert "from 20 entries to 1" in waits.stderr
        finding = {"file": "f", "line": 3, "path": "", "problem": "is bad", "remedy": "mend it"}
        report("refused", findings=[finding])
        refused = invoke("reload", "--config", config)
        assert refused.exit_code == 1
        assert "f:3: is bad; mend it" in refused.stderr
        report("would_load")
        dry = invoke("reload", "--dry-run", "--json", "--config", config)
        assert json.loads(dry.stdout)["result"] == "would_load"
        assert invoke("reload", "--confirm", "--config", config).exit_code == 0
        assert daemon.looks == [
            {"again": True},
            {"again": True},
            {"again": True},
            {"dry_run": True},
            {"confirm": True, "again": True},
        ]
        assert invoke("reload", "--confirm", "--dry-run", "--config", config).exit_code == 2
