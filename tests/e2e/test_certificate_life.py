"""Certificates in a running gateway: renewed with both working, revoked and cut off, told of."""

from __future__ import annotations

import json
import re
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import Peer, RunningNode, purchase, running_node, wait_for

T2 = "T0000002"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path / "node", idle_s=300.0) as running:
        yield running


def test_a_certificate_is_renewed_and_then_revoked(node: RunningNode) -> None:
    certs = str(node.folder / "certs")
    config = ("--config", str(node.config))
    old, new = node.folder / "certs/terminals", node.folder / "certs/renewed"
    node.run("terminals", "bind", T2, "--certificate", str(old / f"{T2}.crt"), *config)
    first = node.connect_tls(T2)
    assert first.ask(purchase(1, T2)).response_code == "00"

    node.run("certs", "renew", T2, "--ca", certs)
    renewed = ("terminals", "renew", T2, "--certificate", str(new / f"{T2}.crt"), "--overlap", "1h")
    view = json.loads(node.run(*renewed, "--json", *config))
    assert view["activation"] == 2
    assert view["old_certificate_sha256"]
    second = node.connect_tls(T2, certs=new)
    # Both work, the connection that was open among them; a repeat on the other is one.
    assert first.ask(purchase(2, T2)).response_code == "00"
    answer = second.ask(purchase(3, T2))
    assert answer.response_code == "00"
    again = first.ask(purchase(3, T2).changed({}, mti="0201"))
    assert (again.response_code, again.rrn) == ("00", answer.rrn)

    # The old one alone is taken back: who uses it is cut off within a look at the files.
    serials = {
        row["sha256"]: row["serial"]
        for row in json.loads(node.run("certs", "list", "--ca", certs, "--json"))
    }
    serial = serials[view["old_certificate_sha256"]]
    node.run("certs", "revoke", "--serial", serial, "--ca", certs, "--yes")
    with node.own_time() as took_s:
        assert first.ended(within_s=10)
    assert sum(took_s) < 2
    assert not admitted(node, old)
    assert second.ask(purchase(4, T2)).response_code == "00"
    assert admitted(node, new)


def test_what_ends_is_in_the_metrics_and_told(node: RunningNode) -> None:
    certs = str(node.folder / "certs")
    node.connect_tls("T0000001").ask(purchase(1))
    text = scraped(node)
    for what, days in (("listener", "82[45]"), ("revocation_list", "(30|29)")):
        line = f'gateway_certificate_days_left{{name="shops",what="{what}"}} {days}'
        assert re.search(line, text), line
    assert "gateway_device_certificate_days_left 82" in text
    assert 'gateway_device_certificates_ending{days="30"} 0.0' in text
    # A listener's certificate that ends in five days is told of once it is in use.
    node.run("certs", "server", "--ca", certs, "--days", "5", "--force")
    told = node.wait_for_event("certificate_expiring", certificate="listener shops")
    assert told["days"] == 7
    node.run("certs", "server", "--ca", certs, "--force")
    node.wait_for_event("certificate_renewed", certificate="listener shops")


def admitted(node: RunningNode, certs: Path) -> bool:
    """Whether a purchase gets through with the certificate in a folder."""
    peer: Peer | None = None
    try:
        peer = node.connect_tls(T2, certs=certs)
        return peer.ask(purchase(90 + len(certs.name), T2)).response_code == "00"
    except (ssl.SSLError, EOFError, ConnectionError):
        return False
    finally:
        if peer is not None:
            peer.close()


def scraped(node: RunningNode) -> str:
    url = f"http://127.0.0.1:{node.metrics}/metrics"
    texts: list[str] = []

    def there() -> bool:
        with urllib.request.urlopen(url, timeout=5) as answer:
            texts.append(answer.read().decode())
        return "gateway_certificate_days_left{" in texts[-1]

    wait_for(there, "the ends of certificates among the metrics")
    return texts[-1]
