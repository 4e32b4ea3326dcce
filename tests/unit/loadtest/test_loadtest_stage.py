"""The configuration that a stage writes is one that the gateway itself finds right."""

import csv
from datetime import UTC, datetime
from pathlib import Path

from gateway.settings.check import check
from loadtest.addresses import HostPort
from loadtest.fleet import terminal_names
from loadtest.stage import make_certificates, write_configuration
from tests.support.ports import own_ports


async def test_the_written_configuration_passes_the_check(tmp_path: Path) -> None:
    names = terminal_names(2)
    terminals = await make_certificates(tmp_path / "certs", names)
    first, second, third = (HostPort("127.0.0.1", port) for port in own_ports(3))
    config = write_configuration(
        tmp_path,
        name="demo",
        listen=first,
        upstreams={"acquirer-a": second, "acquirer-b": third},
        answer_s=5,
        drain_s=5,
    )
    report = check(config, now=datetime.now(UTC), addresses_in_use=[])
    assert report.ok, report.findings

    with (terminals / "devices.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["terminal_id"]: row for row in csv.DictReader(file)}
    for name in names:
        assert (terminals / f"{name.terminal_id}.key").exists()
        assert rows[name.terminal_id]["merchant_id"] == name.merchant_id
        assert len(rows[name.terminal_id]["certificate_sha256"]) == 64
