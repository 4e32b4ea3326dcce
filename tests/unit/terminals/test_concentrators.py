"""A concentrator is known by its certificate's name, or by its address where it has none."""

from __future__ import annotations

from gateway.settings.schema_terminals import Concentrator
from gateway.terminals.concentrators import Concentrators

FOUND = Concentrators(
    [
        Concentrator(name="mall", networks=["10.1.0.0/16"], terminals=["M00*"]),
        Concentrator(name="chain", certificate_name="chain-1", terminals=["C0000001-C0000099"]),
        Concentrator(
            name="bank",
            certificate_name="bank-1",
            networks=["10.2.0.0/16"],
            terminals=["B0000001"],
        ),
    ]
)


def name_of(common_name: str, address: str) -> str:
    rule = FOUND.find(common_name, address)
    return rule.name if rule is not None else ""


def test_by_address_where_it_has_no_certificate() -> None:
    assert name_of("", "10.1.2.3") == "mall"
    assert name_of("", "10.9.2.3") == ""


def test_by_certificate_where_it_has_one_and_by_nothing_less() -> None:
    assert name_of("chain-1", "192.0.2.1") == "chain"
    assert name_of("someone", "10.1.2.3") == ""
    assert name_of("", "10.2.0.1") == ""


def test_networks_narrow_a_certificate() -> None:
    assert name_of("bank-1", "10.2.0.1") == "bank"
    assert name_of("bank-1", "10.3.0.1") == ""


def test_it_may_speak_for_its_terminals_only() -> None:
    rule = FOUND.find("chain-1", "192.0.2.1")
    assert rule is not None
    assert "C0000050" in rule.terminals
    assert "C0000100" not in rule.terminals
