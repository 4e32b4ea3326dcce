"""Network messages: what ours hold, and what those of the acquirer are for."""

from __future__ import annotations

import pytest

from gateway.settings.schema_upstreams import Network
from gateway.upstreams.network import STYLES, NetworkMessages, accepted
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.message import Kind, Message

KINDS = (Kind.SIGN_ON, Kind.SIGN_OFF, Kind.KEY_CHANGE, Kind.ECHO)
ISO_CODES = {"001": Kind.SIGN_ON, "002": Kind.SIGN_OFF, "161": Kind.KEY_CHANGE, "301": Kind.ECHO}


def test_an_iso_echo_holds_time_stan_and_its_code() -> None:
    messages = NetworkMessages(Network(fields=["41=GATEWAY1", "32=00000000001"]))
    echo = messages.request(Kind.ECHO, stan=17, transmitted="1122093000")
    assert echo == Message(
        "0800", {7: "1122093000", 11: "000017", 32: "00000000001", 41: "GATEWAY1", 70: "301"}
    )


def test_unionpay_says_it_in_de60_and_has_no_de7() -> None:
    messages = NetworkMessages(
        Network(style="unionpay", batch="000042", sign_on_code="003", fields=["63=01 "])
    )
    sign_on = messages.request(Kind.SIGN_ON, stan=1, transmitted="1122093000")
    assert sign_on == Message("0800", {11: "000001", 60: "00000042003", 63: "01 "})
    echo = messages.request(Kind.ECHO, stan=2, transmitted="1122093000")
    assert (echo.mti, echo.get(60)) == ("0820", "00000042301")
    assert messages.request(Kind.SIGN_OFF, stan=3, transmitted="").get(60).endswith("002")


def test_what_an_operator_sets_goes_before_the_style() -> None:
    messages = NetworkMessages(Network(style="unionpay", fields=["60=00000007001", "62=a=b"]))
    request = messages.request(Kind.ECHO, stan=1, transmitted="")
    assert (request.get(60), request.get(62)) == ("00000007001", "a=b")


@pytest.mark.parametrize("style", list(STYLES))
def test_both_sides_mean_the_same_by_a_message(style: str) -> None:
    messages = NetworkMessages(Network.model_validate({"style": style}))
    for kind in KINDS:
        request = messages.request(kind, stan=1, transmitted="1122093000")
        same = Kind.SIGN_ON if style == "unionpay" and kind is Kind.KEY_CHANGE else kind
        assert messages.purpose_of(request) is same
        assert request.is_request


@pytest.mark.parametrize(("code", "kind"), ISO_CODES.items())
def test_the_purpose_of_what_an_acquirer_starts(code: str, kind: Kind) -> None:
    messages = NetworkMessages(Network())
    assert messages.purpose_of(Message("0800", {70: code})) is kind
    assert messages.purpose_of(Message("0800", {70: "999"})) is Kind.NETWORK
    assert messages.purpose_of(Message("0800", {})) is Kind.NETWORK
    assert messages.purpose_of(Message("0200", {70: code})) is Kind.UNKNOWN


def test_the_purpose_in_unionpay_style() -> None:
    messages = NetworkMessages(Network(style="unionpay"))
    for code in ("001", "003", "004"):
        assert messages.purpose_of(Message("0800", {60: f"00000001{code}"})) is Kind.SIGN_ON
    assert messages.purpose_of(Message("0820", {60: "00000001301"})) is Kind.ECHO
    assert messages.purpose_of(Message("0820", {60: "00"})) is Kind.NETWORK
    assert messages.purpose_of(Message("0200", {60: "00000001301"})) is Kind.UNKNOWN


def test_other_kinds_are_not_made() -> None:
    with pytest.raises(KeyError):
        NetworkMessages(Network()).request(Kind.PURCHASE, stan=1, transmitted="")


def test_only_00_is_yes() -> None:
    assert accepted(Message("0810", {39: "00"}))
    assert not accepted(Message("0810", {39: "91"}))
    assert not accepted(Message("0810", {}))


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_dialect_can_write_them(kind: Kind) -> None:
    for name, dialect in shipped_dialects().items():
        style = "unionpay" if "unionpay" in name or "cup" in name else "iso"
        messages = NetworkMessages(Network.model_validate({"style": style}))
        request = messages.request(kind, stan=5, transmitted="1122093000")
        assert Codec(dialect).decode(Codec(dialect).encode(request)) == request
