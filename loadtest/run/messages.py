"""Messages: what devices send, encoded once for each kind and patched for each customer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.errors import EncodeError
from gateway.wire.framing import encode_frame
from gateway.wire.message import (
    AMOUNT,
    CONDITION_CODE,
    CURRENCY,
    ENTRY_MODE,
    EXPIRY,
    LOCAL_DATE,
    LOCAL_TIME,
    MERCHANT_ID,
    ORIGINAL_DATA,
    PAN,
    PROCESSING_CODE,
    RESPONSE_CODE,
    STAN,
    TERMINAL_ID,
    TRANSMISSION_TIME,
    Message,
    repeat_mti,
)
from loadtest.host import REFERENCE
from loadtest.wire import Wire

_EXPIRY = "4912"
_CHIP_WITHOUT_PIN = "052"
_REVERSAL, _SETTLEMENT = "0400", "0500"
_CREDITS, _DEBITS, _CREDITS_MINOR, _DEBITS_MINOR = 74, 76, 86, 88

# MTI, DE3 and DE25 of each kind, in ISO style ("What a transaction is").
_ASKED = {
    "purchase": ("0200", "000000", "00"),
    "void": ("0200", "020000", "00"),
    "refund": ("0200", "200000", "00"),
    "preauthorisation": ("0100", "000000", "06"),
    "completion": ("0200", "000000", "06"),
    "balance": ("0200", "310000", "00"),
}
# What moves no money, or none of a customer's: no ledger is held against another about it.
MONEYLESS = frozenset(("balance", "settlement"))
# In doubt, these are repeated until answered; all others are reversed.
NOT_REVERSIBLE = frozenset(("balance", "refund"))


@dataclass(slots=True)
class Deal:
    """One transaction of a device, and how it stands."""

    kind: str
    sequence: int
    stan: str
    transmitted: str  # DE7
    reference: str
    pan: str = field(repr=False)
    amount_minor: int
    started_ms: int
    original: str = ""  # DE90 of what follows another
    response_code: str = ""
    approval_code: str = ""
    rrn: str = ""
    reversal_code: str = ""
    reversals_sent: int = 0

    @property
    def mti(self) -> str:
        return _ASKED[self.kind][0]

    @property
    def named(self) -> str:
        """How DE90 names it: MTI, STAN, DE7, and DE32 and DE33 as zeros (ISO 8583:1987)."""
        return f"{self.mti}{self.stan}{self.transmitted}{'0' * 22}"


class Template:
    """A frame in which some fields change and none changes its length.

    Where the dialect writes one of them otherwise than as plain characters, the codec encodes each
    message.
    """

    def __init__(
        self, wire: Wire, mti: str, fields: Mapping[int, str], changing: Sequence[int]
    ) -> None:
        """`fields` has an example of each field; `changing` names those that are patched."""
        self._wire = wire
        self._mti = mti
        self._fields = dict(fields)
        self._changing = tuple(changing)
        self._pattern = self._compiled()

    @property
    def is_patched(self) -> bool:
        """Whether filling it in needs no codec."""
        return self._pattern is not None

    def fill(self, values: tuple[str, ...]) -> bytes:
        """The frame with these values, in the order of `changing`; raises EncodeError."""
        if self._pattern is not None:
            return (self._pattern % values).encode("latin-1")
        changes = dict(zip(self._changing, values, strict=True))
        return self._wire.pack(Message(self._mti, {**self._fields, **changes}))

    def _compiled(self) -> str | None:
        spans = []
        frame = self._packed({})
        for number in self._changing:
            value = self._fields[number]
            other = "".join("1" if character != "1" else "2" for character in value)
            changed = self._packed({number: other})
            if changed is None or frame is None or len(changed) != len(frame):
                return None
            differing = [at for at, (a, b) in enumerate(zip(frame, changed, strict=True)) if a != b]
            if not differing:
                return None
            start, end = differing[0], differing[-1] + 1
            if frame[start:end] != value.encode("latin-1"):
                return None
            spans.append((start, end))
        if frame is None or spans != sorted(spans):
            return None
        pattern, at = "", 0
        for start, end in spans:
            pattern += frame[at:start].decode("latin-1").replace("%", "%%") + "%s"
            at = end
        return pattern + frame[at:].decode("latin-1").replace("%", "%%")

    def _packed(self, changes: Mapping[int, str]) -> bytes | None:
        try:
            return self._wire.pack(Message(self._mti, {**self._fields, **changes}))
        except EncodeError:
            return None


class Requests:
    """The requests of all devices of a worker under one dialect."""

    def __init__(self, wire: Wire, *, currency: str) -> None:
        self._wire = wire
        self._currency = currency
        self._templates: dict[tuple[str, bool, bool], Template] = {}

    def message(self, deal: Deal, terminal_id: str, merchant_id: str) -> Message:
        """The request of a deal."""
        mti, processing_code, condition = _ASKED[deal.kind]
        fields = {
            PAN: deal.pan,
            PROCESSING_CODE: processing_code,
            AMOUNT: f"{deal.amount_minor:012d}",
            TRANSMISSION_TIME: deal.transmitted,
            STAN: deal.stan,
            LOCAL_TIME: deal.transmitted[4:],
            LOCAL_DATE: deal.transmitted[:4],
            EXPIRY: _EXPIRY,
            ENTRY_MODE: _CHIP_WITHOUT_PIN,
            CONDITION_CODE: condition,
            TERMINAL_ID: terminal_id,
            MERCHANT_ID: merchant_id,
            REFERENCE: deal.reference,
            CURRENCY: self._currency,
        }
        if deal.original:
            fields[ORIGINAL_DATA] = deal.original
        return Message(mti, fields)

    def frame(
        self, deal: Deal, terminal_id: str, merchant_id: str, *, repeated: bool = False
    ) -> bytes:
        """The same as a frame, patched; `repeated` says openly that it was sent before."""
        key = (deal.kind, bool(deal.original), repeated)
        template = self._templates.get(key)
        if template is None:
            message = self.message(deal, terminal_id, merchant_id)
            changing = [PAN, AMOUNT, TRANSMISSION_TIME, STAN, LOCAL_TIME, LOCAL_DATE]
            changing += [TERMINAL_ID, MERCHANT_ID, REFERENCE]
            changing += [ORIGINAL_DATA] if deal.original else []
            mti = repeat_mti(message.mti) if repeated else message.mti
            template = Template(self._wire, mti, message.fields, changing)
            self._templates[key] = template
        transmitted = deal.transmitted
        values = (
            deal.pan,
            f"{deal.amount_minor:012d}",
            transmitted,
            deal.stan,
            transmitted[4:],
            transmitted[:4],
            terminal_id,
            merchant_id,
            deal.reference,
        )
        return template.fill((*values, deal.original) if deal.original else values)

    def reversal(
        self, deal: Deal, terminal_id: str, merchant_id: str, *, reason: str, now: str
    ) -> Message:
        """The device's reversal: the original's DE11 and name, marked once it was sent before."""
        fields = self.message(deal, terminal_id, merchant_id).fields
        fields = {n: v for n, v in fields.items() if n not in (ENTRY_MODE, REFERENCE)}
        fields |= {TRANSMISSION_TIME: now, RESPONSE_CODE: reason, ORIGINAL_DATA: deal.named}
        mti = repeat_mti(_REVERSAL) if deal.reversals_sent else _REVERSAL
        return Message(mti, fields)

    def settlement(
        self, totals: Totals, terminal_id: str, merchant_id: str, *, stan: str, now: str
    ) -> Message:
        """The close of the open batch, with the device's own totals (DE74, 76, 86, 88)."""
        return Message(
            _SETTLEMENT,
            {
                PROCESSING_CODE: "920000",
                TRANSMISSION_TIME: now,
                STAN: stan,
                LOCAL_TIME: now[4:],
                LOCAL_DATE: now[:4],
                TERMINAL_ID: terminal_id,
                MERCHANT_ID: merchant_id,
                _CREDITS: f"{totals.credits:010d}",
                _DEBITS: f"{totals.debits:010d}",
                _CREDITS_MINOR: f"{totals.credits_minor:016d}",
                _DEBITS_MINOR: f"{totals.debits_minor:016d}",
            },
        )


@dataclass(slots=True)
class Totals:
    """What a device holds to be in its batch: voided and reversed ones do not count."""

    debits: int = 0
    debits_minor: int = 0
    credits: int = 0
    credits_minor: int = 0

    def count(self, kind: str, amount_minor: int, *, sign: int = 1) -> None:
        """Count an approval, or with `sign` -1 that it was undone."""
        if kind in ("purchase", "completion"):
            self.debits += sign
            self.debits_minor += sign * amount_minor
        elif kind == "refund":
            self.credits += sign
            self.credits_minor += sign * amount_minor


def framed(wire: Wire, body: bytes) -> bytes:
    """A body that is encoded already, as one frame; raises EncodeError."""
    return encode_frame(wire.framing, body, wire.tpdu, wire.header)
