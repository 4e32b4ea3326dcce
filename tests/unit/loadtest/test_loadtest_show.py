"""What `make run` would start for a configuration, and what it says of a sale."""

from pathlib import Path

import pytest

from loadtest.addresses import HostPort, NotLoopback
from loadtest.ledger import Attempt, Outcome
from loadtest.show import CannotShow, plan_of, sale_line
from loadtest.terminal import Sale

EXAMPLE = Path(__file__).parents[3] / "config" / "gateway.toml"


def test_the_shipped_example_can_be_played() -> None:
    plan = plan_of(EXAMPLE)
    root = EXAMPLE.parent.parent
    assert plan.target == HostPort("127.0.0.1", 8443)
    assert plan.acquirers == {
        "acquirer-a": HostPort("127.0.0.1", 8101),
        "acquirer-b": HostPort("127.0.0.1", 8102),
    }
    assert (plan.authority, plan.certs) == (root / "certs/ca.crt", root / "certs/terminals")
    assert plan.var == root / "var"


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "gateway.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_acquirers_elsewhere_are_not_played(tmp_path: Path) -> None:
    with pytest.raises(NotLoopback):
        plan_of(changed(tmp_path, "127.0.0.1:8102", "192.0.2.7:8102"))


def test_acquirers_over_tls_are_not_played(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        "plain = true\n\n# An acquirer over TLS",
        'tls = { ca = "ca.crt", server_name = "x" }\n\n# An acquirer over TLS',
    )
    with pytest.raises(CannotShow, match="acquirer-b"):
        plan_of(path)


def test_a_sale_is_one_readable_line() -> None:
    attempt = Attempt(
        terminal_id="T0000001",
        sequence=1,
        stan="000001",
        transmitted="1121203000",
        reference="T0000001-0000000001",
        merchant_id="MERCHANT0000001",
        kind="purchase",
        amount_minor=1205,
        currency="978",
        outcome=Outcome.DECLINED,
        response_code="51",
        started_ms=1_795_293_234_000,
    )
    line = sale_line(Sale(attempt, due_s=1.0, started_s=1.0, ended_s=1.0042, told_s=1.0042))
    assert line.split() == ["20:33:54", "T0000001", "12.05", "declined", "51", "4.2", "ms"]
