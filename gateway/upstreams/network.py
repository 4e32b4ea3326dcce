"""An upstream's network messages: making them, and telling what those it sends are for (no I/O)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.settings.schema_upstreams import Network
from gateway.wire.message import (
    NETWORK_CODE,
    RESPONSE_CODE,
    STAN,
    TRANSMISSION_TIME,
    Kind,
    Message,
    kind_of,
)


@dataclass(frozen=True, slots=True)
class NetworkStyle:
    """How an acquirer writes its network messages: which type, and where it says what for."""

    name: str
    mti: Mapping[Kind, str]
    code: Mapping[Kind, str]  # the three digits that say what for
    code_field: int
    prefix: str  # before the code: "" or, in DE60, type and batch
    timed: bool  # has DE7


_UNIONPAY_CODE_FIELD = 60

STYLES: dict[str, NetworkStyle] = {
    "iso": NetworkStyle(
        name="iso",
        mti=dict.fromkeys((Kind.SIGN_ON, Kind.SIGN_OFF, Kind.KEY_CHANGE, Kind.ECHO), "0800"),
        code={
            Kind.SIGN_ON: "001",
            Kind.SIGN_OFF: "002",
            Kind.KEY_CHANGE: "161",
            Kind.ECHO: "301",
        },
        code_field=NETWORK_CODE,
        prefix="",
        timed=True,
    ),
    # UnionPay POS: DE60 is the message's type (2 digits), the batch (6) and the code (3). New
    # keys come with a sign-on.
    "unionpay": NetworkStyle(
        name="unionpay",
        mti={
            Kind.SIGN_ON: "0800",
            Kind.KEY_CHANGE: "0800",
            Kind.SIGN_OFF: "0820",
            Kind.ECHO: "0820",
        },
        code={
            Kind.SIGN_ON: "001",
            Kind.KEY_CHANGE: "001",
            Kind.SIGN_OFF: "002",
            Kind.ECHO: "301",
        },
        code_field=_UNIONPAY_CODE_FIELD,
        prefix="00{batch}",
        timed=False,
    ),
}

_UNIONPAY_KINDS = {
    "001": Kind.SIGN_ON,
    "003": Kind.SIGN_ON,
    "004": Kind.SIGN_ON,
    "002": Kind.SIGN_OFF,
    "301": Kind.ECHO,
}


class NetworkMessages:
    """Makes and recognises the network messages of one upstream."""

    def __init__(self, settings: Network) -> None:
        style = STYLES[settings.style]
        self._style = style
        codes = {**style.code, Kind.SIGN_ON: settings.sign_on_code}
        if style.code_field == _UNIONPAY_CODE_FIELD:
            codes[Kind.KEY_CHANGE] = settings.sign_on_code
        prefix = style.prefix.format(batch=settings.batch)
        own = _own_fields(settings.fields)
        self._requests = {
            kind: Message(mti, {style.code_field: prefix + codes[kind], **own})
            for kind, mti in style.mti.items()
        }

    def request(self, kind: Kind, *, stan: int, transmitted: str) -> Message:
        """A sign-on, sign-off, key change or echo.

        `transmitted` is DE7 (MMDDhhmmss, UTC), which is left out where the style has none.
        Raises KeyError for any other kind.
        """
        changes = {STAN: f"{stan:06d}"}
        if self._style.timed:
            changes[TRANSMISSION_TIME] = transmitted
        return self._requests[kind].changed(changes)

    def purpose_of(self, message: Message) -> Kind:
        """What a network message of the acquirer's is for; NETWORK for what is not known."""
        if self._style.code_field == NETWORK_CODE:
            return kind_of(message) if message.mti[1:2] == "8" else Kind.UNKNOWN
        if message.mti[1:2] != "8":
            return Kind.UNKNOWN
        return _UNIONPAY_KINDS.get(message.get(_UNIONPAY_CODE_FIELD)[8:11], Kind.NETWORK)


def accepted(answer: Message) -> bool:
    """Whether an acquirer said yes to a sign-on, a sign-off or a key change."""
    return answer.get(RESPONSE_CODE) == "00"


def _own_fields(written: Iterable[str]) -> dict[int, str]:
    pairs = (entry.split("=", 1) for entry in written)
    return {int(number): text for number, text in pairs}
