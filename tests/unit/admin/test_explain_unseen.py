"""What `gateway explain` says it did not look at, so that nobody takes "allowed" for the whole."""

from __future__ import annotations

import pytest

from gateway.admin.explain import _unseen
from gateway.settings.schema_keys_use import ProfileKeys
from gateway.settings.schema_terminals import Listener
from gateway.wire.message import Kind, Message

ALL = ProfileKeys(sign_on=True, batch_checked=True, mac="x9.19")


def listener(macs: str | None) -> Listener:
    return Listener.model_validate(
        {
            "name": "shops",
            "listen": "127.0.0.1:9443",
            "dialect": "iso87_ascii",
            "security": "plain",
            "macs": macs,
            "code_set": "unionpay",
        }
    )


def unseen(
    keys: ProfileKeys,
    kind: Kind = Kind.PURCHASE,
    *,
    macs: str | None = None,
    fields: dict[int, str] | None = None,
    with_address: bool = True,
) -> dict[str, str]:
    found = _unseen(
        Message("0200", fields or {}),
        kind,
        listener(macs),
        keys=keys,
        with_address=with_address,
    )
    return dict(one.split(": ", 1) for one in found)


def test_what_the_profile_asks_of_a_message_is_named_with_its_code() -> None:
    found = unseen(ALL, fields={52: "00" * 8}, with_address=False)
    assert list(found) == [
        "the connection",
        "its address",
        "the MAC",
        "the session",
        "the batch",
        "the PIN",
        "repeats",
        "the acquirer",
    ]
    assert found["the MAC"] == "its profile wants x9.19 (A0)"
    assert "(77)" in found["the session"]
    assert "(77)" in found["the batch"]
    assert "(99)" in found["the PIN"]
    assert "(A7)" in found["the PIN"]


def test_what_is_not_asked_of_it_is_not_named() -> None:
    found = unseen(ProfileKeys())
    assert found["the MAC"] == "the listener wants one (A0)"
    assert set(found) == {"the connection", "the MAC", "repeats", "the acquirer"}
    assert "the MAC" not in unseen(ProfileKeys(), Kind.ECHO)
    assert "the MAC" not in unseen(ProfileKeys(), macs="by_profile")


@pytest.mark.parametrize("kind", [Kind.REVERSAL, Kind.VOID])
def test_what_follows_something_depends_on_that(kind: Kind) -> None:
    assert "(25)" in unseen(ALL, kind)["its original"]


def test_a_settlement_may_be_exempt_from_the_mac() -> None:
    keys = ProfileKeys(mac="x9.19", mac_exempt=["settlement"])
    assert "the MAC" not in unseen(keys, Kind.SETTLEMENT)
    assert "the MAC" in unseen(keys, Kind.REVERSAL)
