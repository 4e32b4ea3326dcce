from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.certs import app
from gateway.keys.authority import Authority
from gateway.keys.credentials import read_certificate, read_credential, read_crl, signed_by
from gateway.terminals import roster


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def certs(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def answer(*arguments: str) -> list[dict[str, str]]:
    result = certs(*arguments, "--json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, str]] = json.loads(result.stdout)
    return rows


@pytest.fixture
def site() -> Path:
    assert certs("init").exit_code == 0
    return Path("certs")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_init_makes_what_a_listener_needs_and_keeps_it() -> None:
    first = answer("init")
    assert [row["state"] for row in first] == ["made", "made", "made"]
    contents = {path: path.read_bytes() for path in Path("certs").iterdir()}
    second = answer("init")
    assert [row["state"] for row in second] == ["there", "there", "there"]
    assert {path: path.read_bytes() for path in Path("certs").iterdir()} == contents
    server = read_credential(Path("certs"), "server").certificate
    assert signed_by(server, read_certificate(Path("certs/ca.crt")))


def test_init_signs_a_list_that_is_about_to_end_again(site: Path) -> None:
    now = datetime.now(UTC)
    Authority.load(site).write_crl(now=now, days=3)
    assert [row["state"] for row in answer("init")] == ["there", "made", "there"]
    end = read_crl(site / "ca.crl").next_update_utc
    assert end is not None
    assert end > now + timedelta(days=20)


def test_init_replaces_an_authority_only_on_demand(site: Path) -> None:
    key = (site / "ca.key").read_bytes()
    unasked = certs("init", "--force")
    assert unasked.exit_code == 2
    assert "--yes" in unasked.stderr
    assert (site / "ca.key").read_bytes() == key
    assert certs("init", "--force", "--yes").exit_code == 0
    assert [path.read_bytes() for path in site.glob("replaced-*/ca.key")] == [key]
    server = read_credential(site, "server").certificate
    assert signed_by(server, read_certificate(site / "ca.crt"))


def test_a_server_certificate_has_its_names(site: Path) -> None:
    result = certs("server", "--name", "gw1", "--san", "gw1.example", "--san", "192.0.2.7")
    assert result.stdout == "certs/gw1.crt\n"
    again = certs("server", "--name", "gw1")
    assert again.exit_code == 1
    assert "--force replaces them" in again.stderr
    assert len(answer("list")) == 2  # nothing was issued for the one refused
    assert certs("server", "--name", "gw1", "--force").exit_code == 0


def test_a_range_is_issued_where_the_load_generator_and_the_registry_look(site: Path) -> None:
    result = certs("issue", "--range", "T0000001-T0000012", "--out", "dir", "--merchant", "M1")
    assert result.exit_code == 0, result.output
    assert result.stdout == "dir/devices.csv\n"
    names = [f"T{number:07d}" for number in range(1, 13)]
    files = {f"{name}.{suffix}" for name in names for suffix in ("crt", "key")}
    assert {path.name for path in Path("dir").iterdir()} == files | {"devices.csv"}
    rows = rows_of(Path("dir/devices.csv"))
    assert [row["terminal_id"] for row in rows] == names
    issued = {row["name"]: row["sha256"] for row in answer("list")}
    assert all(row["certificate_sha256"] == issued[row["terminal_id"]] for row in rows)
    problems: list[roster.Problem] = []
    parsed = list(roster.parse(Path("dir/devices.csv").read_text(), problems))
    assert problems == []
    assert parsed[0].values["merchant_id"] == "M1"


def test_names_go_beside_the_authority_and_into_one_roster(site: Path) -> None:
    assert certs("issue", "T0000002").exit_code == 0
    assert certs("issue", "T0000001", "T0000001").exit_code == 0
    rows = rows_of(site / "terminals" / "devices.csv")
    assert [row["terminal_id"] for row in rows] == ["T0000001", "T0000002"]
    assert len(answer("list")) == 3


def test_a_repeated_run_keeps_what_is_there(site: Path) -> None:
    certs("issue", "T0000001")
    before = (site / "terminals" / "T0000001.key").read_bytes()
    result = certs("issue", "--range", "T0000001-T0000003")
    assert "2 issued, 1 there already" in result.stderr
    assert (site / "terminals" / "T0000001.key").read_bytes() == before
    assert len(rows_of(site / "terminals" / "devices.csv")) == 3
    assert certs("issue", "T0000001", "--force").exit_code == 0
    assert (site / "terminals" / "T0000001.key").read_bytes() != before


def test_what_is_there_and_not_good_is_not_replaced_unasked(site: Path) -> None:
    certs("issue", "T0000001", "T0000002")
    certs("revoke", "T0000001", "--yes")
    (site / "terminals" / "T0000002.key").unlink()
    result = certs("issue", "--range", "T0000001-T0000009")
    assert result.exit_code == 1
    assert "T0000001.crt: not a valid certificate of this authority (2 such" in result.stderr
    assert not (site / "terminals" / "T0000003.crt").exists()


def test_a_revocation_is_in_the_list_at_once(site: Path) -> None:
    certs("issue", "T0000001", "T0000002")
    serial = next(row["serial"] for row in answer("list") if row["name"] == "T0000001")
    unasked = certs("revoke", "T0000001")
    assert unasked.exit_code == 2
    assert len(read_crl(site / "ca.crl")) == 0
    revoked = answer("revoke", "T0000001", "--reason", "key_compromise", "--yes")
    assert [(row["serial"], row["reason"]) for row in revoked] == [(serial, "key_compromise")]
    assert [f"{entry.serial_number:x}" for entry in read_crl(site / "ca.crl")] == [serial]
    assert answer("revoke", "T0000001", "--yes") == []
    assert [row["name"] for row in answer("list", "--state", "revoked")] == ["T0000001"]


def test_one_certificate_is_revoked_by_its_serial_number(site: Path) -> None:
    certs("issue", "T0000001")
    certs("issue", "T0000001", "--force")
    old = answer("list")[1]["serial"]
    colons = ":".join(old.zfill(40)[at : at + 2] for at in range(0, 40, 2))
    revoked = answer("revoke", "--serial", colons.upper(), "--yes")
    assert [row["serial"] for row in revoked] == [old]
    assert [row["state"] for row in answer("list")] == ["valid", "revoked", "valid"]


def test_the_list_is_read_by_people_too(site: Path) -> None:
    certs("issue", "T0000001")
    lines = certs("list").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["localhost", "valid", "server"],
        ["T0000001", "valid", "client"],
    ]


def test_the_revocation_list_is_signed_again(site: Path) -> None:
    assert certs("crl", "--days", "5").exit_code == 0
    end = read_crl(site / "ca.crl").next_update_utc
    assert end is not None
    assert end < datetime.now(UTC) + timedelta(days=6)


@pytest.mark.parametrize(
    "arguments",
    [
        ("issue",),
        ("issue", "--range", "T0000009-T0000001"),
        ("issue", "--range", "T1-T9"),
        ("revoke", "--yes"),
        ("revoke", "T0000001", "--serial", "7", "--yes"),
        ("revoke", "--serial", "xyz", "--yes"),
        ("revoke", "T0000001", "--reason", "mood"),
        ("list", "--state", "odd"),
        ("init", "--days", "0"),
    ],
)
@pytest.mark.usefixtures("site")
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    assert certs(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("issue", "T0000001", "--ca", "nowhere"), "`gateway certs init --out nowhere` makes one"),
        (("issue", "../T0000001"), "not a name for certificate files"),
        (("revoke", "T0000001", "--yes"), "no such certificate was issued"),
        (("server",), "certs/server.crt, .key: there already"),
    ],
)
@pytest.mark.usefixtures("site")
def test_what_cannot_be_done_exits_1_and_says_why(arguments: tuple[str, ...], text: str) -> None:
    result = certs(*arguments)
    assert result.exit_code == 1
    assert text in result.stderr
    assert result.stdout == ""
