"""A connection that is open when its client's certificate ends is ended with it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.keys.authority import Authority
from gateway.keys.credentials import write_credentials
from tests.support.node import purchase, running_node

_GOOD_FOR_S = 10
T2 = "T0000002"


def test_an_open_connection_ends_with_its_certificate(tmp_path: Path) -> None:
    with running_node(tmp_path / "node", idle_s=300.0) as node:
        authority = Authority.load(node.folder / "certs")
        made = datetime.now(UTC)
        begun = made - timedelta(days=1) + timedelta(seconds=_GOOD_FOR_S)
        short = authority.issue_client(T2, days=1, now=begun)
        write_credentials(tmp_path / "short", [(T2, short)])
        config = ("--config", str(node.config))
        certificate = str(tmp_path / "short" / f"{T2}.crt")
        node.run("terminals", "bind", T2, "--certificate", certificate, *config)
        ending = node.connect_tls(T2, certs=tmp_path / "short")
        lasting = node.connect_tls("T0000001")
        assert lasting.ask(purchase(2)).response_code == "00"
        if datetime.now(UTC) > made + timedelta(seconds=_GOOD_FOR_S - 1):
            pytest.skip("this machine is too slow: the certificate ended before it was used")
        assert ending.ask(purchase(1, T2)).response_code == "00"
        assert ending.ended(within_s=_GOOD_FOR_S + 5)
        assert time.time() > (made + timedelta(seconds=_GOOD_FOR_S - 1)).timestamp()
        told = node.wait_for_event("connection_refused")
        assert told["reason"] == f"certificate has expired: {T2}"
        assert lasting.ask(purchase(3)).response_code == "00"
