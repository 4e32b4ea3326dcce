"""`gateway archive`: what left the store is listed, verified and found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import build_app
from gateway.transactions.archive import DayFile
from tests.support.small_config import CONFIG
from tests.support.stores import a_transaction

DAY_MS = 86_400_000
FIRST = 1_780_272_000_000  # 2026-06-01


class Gateway:
    def __init__(self, config: Path) -> None:
        self.config = config
        self.archive = config.parent / "var" / "archive"

    def __call__(self, *arguments: object) -> Result:
        return CliRunner().invoke(
            build_app(),
            ["archive", *map(str, arguments)],
            env={"GATEWAY_CONFIG": str(self.config)},
        )

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)
    made = Gateway(config)
    for day in (1, 2, 3):
        file = DayFile(made.archive, f"2026-06-{day:02}")
        numbers = range(day * 10, day * 10 + 4)
        file.write(
            a_transaction(
                number,
                created_ms=FIRST + (day - 1) * DAY_MS + number,
                terminal_id=f"T{number % 2}",
                rrn=f"RRN{number}",
                card_masked=f"622848******{number:04}",
            )
            for number in numbers
        )
        file.finish(last_id=numbers[-1], kept=[])
    return made


def test_the_files_are_listed(gateway: Gateway) -> None:
    result = gateway("list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[:3] == [
        "2026-06-01",
        "transactions-2026-06-01.jsonl.gz",
        "4",
    ]
    assert result.stderr == f"3 days and 0 devices in {gateway.archive}\n"
    listed = gateway.json("list")
    assert [one["last_id"] for one in listed["files"]] == [13, 23, 33]
    assert listed["files"][0]["left_in_store"] == 0


def test_all_is_well(gateway: Gateway) -> None:
    result = gateway("verify")
    assert (result.exit_code, result.stderr) == (0, "3 files, 0 damaged\n")


def test_damage_is_found(gateway: Gateway) -> None:
    name = "transactions-2026-06-02.jsonl.gz"
    content = bytearray((gateway.archive / name).read_bytes())
    content[len(content) // 2] ^= 1
    (gateway.archive / name).write_bytes(content)
    result = gateway("verify")
    assert result.exit_code == 1
    assert f"{name}: its checksum" in result.stderr
    assert list(gateway.json("verify")["faults"]) == [name]
    broken = gateway("find", "--rrn", "RRN33")
    assert broken.exit_code == 1
    assert "gateway archive verify" in broken.stderr


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ((), [10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33]),
        (("--limit", "3"), [10, 11, 12]),
        (("--terminal", "T1", "--from", "2026-06-02"), [21, 23, 31, 33]),
        (("--until", "2026-06-02"), [10, 11, 12, 13]),
        (("--rrn", "RRN22"), [22]),
        (("--stan", "31"), [31]),
        (("--amount", "1012"), [12]),
        (("--last-four", "0023"), [23]),
        (("--from", "2027-01-01"), []),
    ],
)
def test_what_can_be_looked_for(gateway: Gateway, wanted: tuple[str, ...], ids: list[int]) -> None:
    found = gateway.json("find", *wanted)["transactions"]
    assert [one["transaction_id"] for one in found] == ids


def test_as_csv_and_as_a_table(gateway: Gateway) -> None:
    assert len(gateway("find", "--csv").stdout.splitlines()) == 13
    assert gateway("find", "--csv", "--json").exit_code == 2
    assert "622848******0010" in gateway("find", "--limit", "1").stdout


def test_nothing_is_archived_yet(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)
    assert Gateway(config).json("list")["files"] == []
    assert Gateway(config)("verify").exit_code == 0


def test_the_folder_is_the_one_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG + '[retention]\narchive_folder = "kept"\n')
    assert Gateway(config).json("list")["folder"] == str(tmp_path / "kept")
