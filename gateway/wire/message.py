"""Message: an ISO 8583 message as values, its type, and the kind of transaction it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

PAN = 2
PROCESSING_CODE = 3
AMOUNT = 4
TRANSMISSION_TIME = 7
STAN = 11
LOCAL_TIME = 12
LOCAL_DATE = 13
EXPIRY = 14
ENTRY_MODE = 22
CONDITION_CODE = 25
TRACK_2 = 35
TRACK_3 = 36
RRN = 37
APPROVAL_CODE = 38
RESPONSE_CODE = 39
TERMINAL_ID = 41
MERCHANT_ID = 42
TRACK_1 = 45
CURRENCY = 49
PIN_BLOCK = 52
EMV_DATA = 55
NETWORK_CODE = 70
ORIGINAL_DATA = 90
REPLACEMENT_AMOUNTS = 95

# Values that say nothing about a card or a customer; only these are ever shown as they are.
_SHOWN = frozenset(
    (3, 4, 7, 11, 12, 13, 15, 18, 19, 22, 23, 24, 25, 32, 33, 37, 38, 39, 41, 42, 49, 70)
)


class Kind(StrEnum):
    """What a message asks for; permissions, routes and time-outs are set by it."""

    PURCHASE = "purchase"
    CASH = "cash"
    CASHBACK = "cashback"
    VOID = "void"
    REFUND = "refund"
    BALANCE = "balance"
    PREAUTHORISATION = "preauthorisation"
    PREAUTHORISATION_VOID = "preauthorisation_void"
    COMPLETION = "completion"
    COMPLETION_VOID = "completion_void"
    OFFLINE = "offline"
    ADJUSTMENT = "adjustment"
    REVERSAL = "reversal"
    SETTLEMENT = "settlement"
    BATCH_UPLOAD = "batch_upload"
    SIGN_ON = "sign_on"
    SIGN_OFF = "sign_off"
    KEY_CHANGE = "key_change"
    ECHO = "echo"
    NETWORK = "network"
    UNKNOWN = "unknown"


NETWORK_KINDS = frozenset((Kind.SIGN_ON, Kind.SIGN_OFF, Kind.KEY_CHANGE, Kind.ECHO, Kind.NETWORK))

# The kinds that move or hold money and may be undone by a reversal ("What a transaction is").
REVERSIBLE_KINDS = frozenset(
    (
        Kind.PURCHASE,
        Kind.CASH,
        Kind.CASHBACK,
        Kind.VOID,
        Kind.PREAUTHORISATION,
        Kind.PREAUTHORISATION_VOID,
        Kind.COMPLETION,
        Kind.COMPLETION_VOID,
    )
)

# Reports of what was done already: never reversed in doubt, but repeated until answered.
ADVICE_KINDS = frozenset((Kind.OFFLINE, Kind.ADJUSTMENT))

# What undoes an earlier transaction as a whole.
VOID_KINDS = frozenset((Kind.VOID, Kind.PREAUTHORISATION_VOID, Kind.COMPLETION_VOID))

# What is done about an earlier transaction, and goes to the acquirer that got that one.
FOLLOWING_KINDS = frozenset(
    (
        Kind.VOID,
        Kind.PREAUTHORISATION_VOID,
        Kind.COMPLETION,
        Kind.COMPLETION_VOID,
        Kind.ADJUSTMENT,
        Kind.REFUND,
    )
)


NO_PADS: Mapping[int, str] = MappingProxyType({})


class Message:
    """The message type and the fields of one ISO 8583 message, as text.

    Values are those of pyiso8583's decoded form: text fields as they read, binary fields as
    upper-case hex. `raw` is the body exactly as it was received (empty for a message made here);
    a MAC is checked over it. `pads` holds, by field, a pad that was read and is not the dialect's
    first choice: written again, such a field ends as it came. A message is a value: what changes it
    makes a new one.
    """

    __slots__ = ("fields", "mti", "pads", "raw")

    def __init__(
        self,
        mti: str,
        fields: dict[int, str],
        raw: bytes = b"",
        pads: Mapping[int, str] = NO_PADS,
    ) -> None:
        self.mti = mti
        self.fields = fields
        self.raw = raw
        self.pads = pads

    def get(self, number: int, default: str = "") -> str:
        """The value of a field, or `default` where it is absent."""
        return self.fields.get(number, default)

    def __contains__(self, number: int) -> bool:
        return number in self.fields

    @property
    def stan(self) -> str:
        return self.fields.get(STAN, "")

    @property
    def terminal_id(self) -> str:
        return self.fields.get(TERMINAL_ID, "")

    @property
    def merchant_id(self) -> str:
        return self.fields.get(MERCHANT_ID, "")

    @property
    def rrn(self) -> str:
        return self.fields.get(RRN, "")

    @property
    def response_code(self) -> str:
        return self.fields.get(RESPONSE_CODE, "")

    @property
    def amount_minor(self) -> int | None:
        """DE4 in minor units of DE49; None where it is absent or not a number."""
        text = self.fields.get(AMOUNT, "")
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def pan(self) -> str:
        """The card number, from DE2 or, where that is absent, from track 2; empty if neither."""
        number = self.fields.get(PAN)
        if number:
            return number
        track = self.fields.get(TRACK_2, "")
        for separator in ("=", "D", "d"):
            head, found, _ = track.partition(separator)
            if found:
                return head
        return ""

    @property
    def is_request(self) -> bool:
        """Whether the third digit of the MTI says request or advice, not response."""
        return len(self.mti) == 4 and self.mti[2] in "024"

    @property
    def is_repeat(self) -> bool:
        """Whether the sender says so openly: an odd last digit of the MTI (0201, 0421)."""
        return self.mti[3:] in ("1", "3", "5")

    def changed(self, changes: Mapping[int, str], *, mti: str | None = None) -> Message:
        """A new message with some values set and, if given, another MTI."""
        return Message(self.mti if mti is None else mti, {**self.fields, **changes}, pads=self.pads)

    def without(self, numbers: Iterable[int]) -> Message:
        """A new message that lacks the fields named."""
        drop = set(numbers)
        fields = {n: v for n, v in self.fields.items() if n not in drop}
        return Message(self.mti, fields, pads=self.pads)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self.mti == other.mti and self.fields == other.fields

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = " ".join(f"{n}={self._masked(n)}" for n in sorted(self.fields))
        return f"<Message {printable(self.mti)} {shown}>"

    def _masked(self, number: int) -> str:
        value = self.fields[number]
        if number == PAN:
            return printable(mask_pan(value))
        return printable(value) if number in _SHOWN else f"[{len(value)}]"


@lru_cache(maxsize=64)
def response_mti(mti: str) -> str:
    """The MTI that answers a request: 0200 and 0201 -> 0210, 0420 and 0421 -> 0430.

    ISO 8583:1987, clause 4.1: the third digit goes up by one; a repeat is answered like its
    original. Only for a request (`is_request`); what its last character is does not matter.
    """
    origin = str(int(mti[3]) - 1) if mti[3] in "135" else mti[3]
    return f"{mti[:2]}{int(mti[2]) + 1}{origin}"


def is_mti(mti: str) -> bool:
    """Whether this looks like a message type: a version, class and origin that occur (ISO 8583:1987
    to 2021, and private versions)."""
    return (
        len(mti) == 4 and mti.isascii() and mti.isdigit() and mti[0] not in "3456" and mti[1] > "0"
    )


def repeat_mti(mti: str) -> str:
    """The MTI that says openly "this is a repeat": 0420 -> 0421."""
    return mti[:3] + "1"


def mask_pan(pan: str) -> str:
    """A card number with at most its first six and last four digits left (PCI DSS 3.4.1)."""
    if len(pan) < 13:
        return "*" * len(pan)
    return pan[:6] + "*" * (len(pan) - 10) + pan[-4:]


def printable(text: str) -> str:
    """Text from a peer with every character that could break a line or a terminal escaped."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("ascii", "backslashreplace").decode().translate(_CONTROLS)


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}

# --- the kind of a message ---------------------------------------------------------------------

# UnionPay: DE3, DE25, MTI and the first two digits of DE60 say it together.
_UNIONPAY_KINDS = {
    ("310000", "00", "0200", "01"): Kind.BALANCE,
    ("030000", "06", "0100", "10"): Kind.PREAUTHORISATION,
    ("200000", "06", "0100", "11"): Kind.PREAUTHORISATION_VOID,
    ("000000", "06", "0200", "20"): Kind.COMPLETION,
    ("200000", "06", "0200", "21"): Kind.COMPLETION_VOID,
    ("000000", "00", "0200", "22"): Kind.PURCHASE,
    ("200000", "00", "0200", "23"): Kind.VOID,
    ("200000", "00", "0220", "25"): Kind.REFUND,
    ("000000", "00", "0220", "30"): Kind.OFFLINE,
    ("000000", "00", "0220", "32"): Kind.ADJUSTMENT,
    ("000000", "00", "0220", "34"): Kind.ADJUSTMENT,
}

# ISO: class and function of the MTI with the first two digits of DE3.
_ISO_KINDS = {
    ("10", "00"): Kind.PREAUTHORISATION,
    ("10", "01"): Kind.PREAUTHORISATION,
    ("10", "02"): Kind.PREAUTHORISATION_VOID,
    ("10", "20"): Kind.REFUND,
    ("10", "30"): Kind.BALANCE,
    ("10", "31"): Kind.BALANCE,
    ("20", "00"): Kind.PURCHASE,
    ("20", "01"): Kind.CASH,
    ("20", "02"): Kind.VOID,
    ("20", "09"): Kind.CASHBACK,
    ("20", "20"): Kind.REFUND,
    ("20", "30"): Kind.BALANCE,
    ("20", "31"): Kind.BALANCE,
    ("22", "00"): Kind.OFFLINE,
    ("22", "02"): Kind.ADJUSTMENT,
    ("22", "20"): Kind.REFUND,
}

_CONDITION_PREAUTHORISED = "06"
_NETWORK_CODES = {
    "001": Kind.SIGN_ON,
    "002": Kind.SIGN_OFF,
    "061": Kind.SIGN_ON,
    "062": Kind.SIGN_OFF,
    "161": Kind.KEY_CHANGE,
    "301": Kind.ECHO,
}
# UnionPay: the end of DE60, behind message type (2) and batch (6). A sign-on asks for keys: 001
# single-length ones, 003 double-length ones, 004 one for tracks besides.
_UNIONPAY_NETWORK_CODES = {
    "001": Kind.SIGN_ON,
    "002": Kind.SIGN_OFF,
    "003": Kind.SIGN_ON,
    "004": Kind.SIGN_ON,
    "301": Kind.ECHO,
}


def kind_of(message: Message) -> Kind:
    """What a request asks for, in ISO style or, where DE60 says so, in UnionPay style."""
    group = message.mti[1:2]
    if group in "12":
        return _financial_kind(message)
    if group == "4":
        return Kind.REVERSAL
    if group == "8":
        code = message.fields.get(NETWORK_CODE)
        if code is not None:
            return _NETWORK_CODES.get(code, Kind.NETWORK)
        return _UNIONPAY_NETWORK_CODES.get(message.get(60)[8:11], Kind.NETWORK)
    if group == "5":
        return Kind.SETTLEMENT
    if group == "3":
        return Kind.BATCH_UPLOAD
    return Kind.UNKNOWN


def _financial_kind(message: Message) -> Kind:
    fields = message.fields
    code = fields.get(PROCESSING_CODE, "")
    condition = fields.get(CONDITION_CODE, "")
    mti = message.mti
    private = fields.get(60)
    if private is not None:
        original = mti if mti[3:] != "1" else mti[:3] + "0"
        known = _UNIONPAY_KINDS.get((code, condition, original, private[:2]))
        if known is not None:
            return known
    kind = _ISO_KINDS.get((mti[1:3], code[:2]), Kind.UNKNOWN)
    # DE25 06 after a pre-authorisation: the purchase that completes it, and that one's void.
    if condition == _CONDITION_PREAUTHORISED:
        if kind in (Kind.PURCHASE, Kind.OFFLINE):
            return Kind.COMPLETION
        if kind is Kind.VOID:
            return Kind.COMPLETION_VOID
    return kind
