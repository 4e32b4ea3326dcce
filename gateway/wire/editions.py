"""Editions: a link of ISO 8583:1993, read and written in the terms of 1987, which the gateway uses.

Message types, times, action codes and references to originals differ between the editions; all that
judges a message knows those of 1987. What was read otherwise stays with the message under its
number plus 1,000, so that towards another link of 1993 nothing is lost. A field of which only the
number is the same stays where it is, for `translation` to leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.clock import utc
from gateway.errors import EncodeError
from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect
from gateway.wire.dialect_meaning import EDITION_1993, NATIVE, mapped
from gateway.wire.message import (
    AMOUNT,
    CONDITION_CODE,
    LOCAL_DATE,
    LOCAL_TIME,
    NETWORK_CODE,
    ORIGINAL_DATA,
    REPLACEMENT_AMOUNTS,
    RESPONSE_CODE,
    Kind,
    Message,
    kind_of,
)

_SETTLEMENT_DATE = 15
_FUNCTION = 24
_ORIGINAL_AMOUNTS = 30
_ORIGINAL = 56
_COMPLETING = ("201", "202")  # functions: what was authorised before, of the same or another amount
_PREAUTHORISED = "06"  # DE25 of 1987
_NETWORK_KINDS = {
    "001": Kind.SIGN_ON,
    "002": Kind.SIGN_OFF,
    "061": Kind.SIGN_ON,
    "062": Kind.SIGN_OFF,
    "161": Kind.KEY_CHANGE,
    "301": Kind.ECHO,
}
_NETWORK_CODES = {
    Kind.SIGN_ON: "001",
    Kind.SIGN_OFF: "002",
    Kind.KEY_CHANGE: "161",
    Kind.ECHO: "301",
}
# DE25 of a reversal: why (ISO 8583:1993, table of message reason codes); late and absent answers.
_NO_ANSWER_REASON = "4021"
_OTHER_REASON = "4000"
_NO_ANSWER_CODES = ("68", "98")
_PARTIAL_REVERSAL = "401"
_DAYS_AHEAD_MAX = 7  # a date further ahead than this belongs to last year


def codec_of(dialect: Dialect, wall_ms: Callable[[], int]) -> Codec:
    """The codec of a link of this dialect: messages are in the terms of 1987 on the inside.

    `wall_ms` gives the time, in milliseconds since 1970: dates of 1987 have no year.
    """
    if dialect.meaning.edition == EDITION_1993:
        return EditionCodec(dialect, wall_ms)
    return Codec(dialect)


class EditionCodec(Codec):
    """Reads and writes messages of a dialect of ISO 8583:1993."""

    __slots__ = ("_functions", "_kinds", "_meaning", "_wall_ms")

    def __init__(self, dialect: Dialect, wall_ms: Callable[[], int]) -> None:
        super().__init__(dialect)
        self._meaning = dialect.meaning
        self._wall_ms = wall_ms
        self._functions = dialect.meaning.functions
        self._kinds = {code: kind for kind, code in dialect.meaning.functions.items()}

    def decode(self, body: bytes) -> Message:
        """As `Codec.decode`, in the terms of 1987."""
        return self.read(super().decode(body))

    def encode(self, message: Message) -> bytes:
        """As `Codec.encode`, of a message in the terms of 1987."""
        return super().encode(self.written(message))

    # --- reading --------------------------------------------------------------------------------

    def read(self, message: Message) -> Message:
        """A message of 1993 in the terms of 1987."""
        mti = "0" + message.mti[1:] if message.mti[:1] == "1" else message.mti
        fields = dict(message.fields)
        _lift(fields, (LOCAL_TIME, LOCAL_DATE, _SETTLEMENT_DATE, CONDITION_CODE, RESPONSE_CODE))
        _lift(fields, (_ORIGINAL, ORIGINAL_DATA, REPLACEMENT_AMOUNTS))
        fields.update(_times(fields))
        code = fields.get(NATIVE + RESPONSE_CODE)
        if code is not None:
            fields[RESPONSE_CODE] = self._code_read(code)
        original = _original_read(fields.get(NATIVE + _ORIGINAL, ""))
        if original:
            fields[ORIGINAL_DATA] = original
        function = fields.get(_FUNCTION, "")
        group = mti[1:2]
        if group == "8":
            self._network_read(fields, function)
        elif group == "4" and function != self._functions.get(Kind.REVERSAL, "400"):
            _amounts_read(fields)  # In a full reversal DE30 only says DE4 again.
        elif group == "2" and function in _COMPLETING:
            fields[CONDITION_CODE] = _PREAUTHORISED
        return Message(mti, fields, message.raw, message.pads)

    def _code_read(self, code: str) -> str:
        return mapped(self._meaning.codes, code) or code

    def _network_read(self, fields: dict[int, str], function: str) -> None:
        """What an 1804 is for, in DE70 as well."""
        if NETWORK_CODE in fields:
            fields[NATIVE + NETWORK_CODE] = fields[NETWORK_CODE]
            return
        kind = self._kinds.get(function)
        if kind in _NETWORK_CODES:
            fields[NETWORK_CODE] = _NETWORK_CODES[Kind(kind)]

    # --- writing --------------------------------------------------------------------------------

    def written(self, message: Message) -> Message:
        """A message in the terms of 1987 as one of 1993. Raises EncodeError."""
        mti = "1" + message.mti[1:] if message.mti[:1] == "0" else message.mti
        fields = {n: text for n, text in message.fields.items() if n < NATIVE}
        native = {n - NATIVE: text for n, text in message.fields.items() if n >= NATIVE}
        is_request = message.is_request
        self._times_written(fields, native)
        self._code_written(fields, native, is_request=is_request)
        fields.pop(CONDITION_CODE, None)
        if CONDITION_CODE in native:
            fields[CONDITION_CODE] = native[CONDITION_CODE]
        group = mti[1:2]
        if group == "8":
            self._network_written(fields, native, is_request=is_request)
        elif is_request:
            self._function_written(message, fields)
        if group == "4" and is_request:
            code = message.response_code
            if CONDITION_CODE not in fields and code:
                timed_out = code in _NO_ANSWER_CODES
                fields[CONDITION_CODE] = _NO_ANSWER_REASON if timed_out else _OTHER_REASON
        self._original_written(message, fields, native)
        if group == "4":
            _amounts_written(fields)
        if REPLACEMENT_AMOUNTS in native:
            fields[REPLACEMENT_AMOUNTS] = native[REPLACEMENT_AMOUNTS]
        return Message(mti, fields, pads=message.pads)

    def _times_written(self, fields: dict[int, str], native: Mapping[int, str]) -> None:
        time, day = fields.get(LOCAL_TIME), fields.pop(LOCAL_DATE, None)
        own = native.get(LOCAL_TIME, "")
        if own and (time, day) in ((own[6:], own[2:6]), (None, None)):
            fields[LOCAL_TIME] = own
        elif time is not None and len(time) == 6:
            fields[LOCAL_TIME] = self._dated(day or "") + time
        if LOCAL_DATE in native:
            fields[LOCAL_DATE] = native[LOCAL_DATE]
        settled, own = fields.get(_SETTLEMENT_DATE), native.get(_SETTLEMENT_DATE, "")
        if settled is not None and len(settled) == 4:
            fields[_SETTLEMENT_DATE] = own if own[2:] == settled else self._dated(settled)
        elif settled is None and own:
            fields[_SETTLEMENT_DATE] = own

    def _dated(self, month_day: str) -> str:
        """MMDD with its year, as YYMMDD: the one that puts it nearest before a week from now."""
        today = utc(self._wall_ms())
        if len(month_day) != 4 or not (month_day.isascii() and month_day.isdigit()):
            return today.strftime("%y%m%d")
        year = today.year
        ahead = (int(month_day[:2]) - today.month) * 31 + int(month_day[2:]) - today.day
        if ahead > _DAYS_AHEAD_MAX:
            year -= 1
        elif ahead < -12 * 31 + 31 + _DAYS_AHEAD_MAX:
            year += 1
        return f"{year % 100:02d}{month_day}"

    def _code_written(
        self, fields: dict[int, str], native: Mapping[int, str], *, is_request: bool
    ) -> None:
        code, own = fields.get(RESPONSE_CODE), native.get(RESPONSE_CODE, "")
        if own and code in (None, self._code_read(own)):
            fields[RESPONSE_CODE] = own
        elif code is None:
            return
        elif is_request:
            del fields[RESPONSE_CODE]  # in 1993 DE25 of a request says why
        else:
            action = mapped(self._meaning.codes_written, code)
            if action is None:
                raise EncodeError("has a response code without an action code", field="39")
            fields[RESPONSE_CODE] = action

    def _network_written(
        self, fields: dict[int, str], native: Mapping[int, str], *, is_request: bool
    ) -> None:
        code = fields.pop(NETWORK_CODE, "")
        if NETWORK_CODE in native:
            fields[NETWORK_CODE] = native[NETWORK_CODE]
        elif _FUNCTION not in fields and is_request:
            function = self._functions.get(_NETWORK_KINDS.get(code, Kind.UNKNOWN))
            if function is not None:
                fields[_FUNCTION] = function
            elif code:
                fields[NETWORK_CODE] = code

    def _function_written(self, message: Message, fields: dict[int, str]) -> None:
        if message.mti[1:2] == "4":
            if not fields.get(_FUNCTION, "").startswith("4"):
                partial = REPLACEMENT_AMOUNTS in fields
                whole = self._functions.get(Kind.REVERSAL, "400")
                fields[_FUNCTION] = _PARTIAL_REVERSAL if partial else whole
        elif _FUNCTION not in fields:
            function = self._functions.get(kind_of(message))
            if function is not None:
                fields[_FUNCTION] = function

    def _original_written(
        self, message: Message, fields: dict[int, str], native: Mapping[int, str]
    ) -> None:
        """The reference to an original: DE56 for DE90."""
        own, original = native.get(_ORIGINAL), fields.pop(ORIGINAL_DATA, "")
        if _ORIGINAL in fields:
            named = fields[_ORIGINAL]
            fields[_ORIGINAL] = "1" + named[1:] if named[:1] == "0" else named
        elif own is not None and original == _original_read(own):
            fields[_ORIGINAL] = own
        elif len(original) == 42 and original.isascii() and original.isdigit():
            transmitted = original[10:20]
            if transmitted.strip("0"):
                moment = self._dated(transmitted[:4]) + transmitted[4:]
            else:
                moment = self._dated(message.get(LOCAL_DATE)) + "000000"
            acquirer = original[20:31].lstrip("0")
            fields[_ORIGINAL] = f"1{original[1:10]}{moment}{len(acquirer):02d}{acquirer}"
        elif own is not None:
            fields[_ORIGINAL] = own
        if ORIGINAL_DATA in native:
            fields[ORIGINAL_DATA] = native[ORIGINAL_DATA]


def _lift(fields: dict[int, str], numbers: tuple[int, ...]) -> None:
    """Put fields under their own number plus NATIVE."""
    for number in numbers:
        value = fields.pop(number, None)
        if value is not None:
            fields[NATIVE + number] = value


def _times(fields: Mapping[int, str]) -> dict[int, str]:
    """DE12, DE13 and DE15 of 1987."""
    found: dict[int, str] = {}
    time = fields.get(NATIVE + LOCAL_TIME, "")
    if len(time) == 12:
        found |= {LOCAL_TIME: time[6:], LOCAL_DATE: time[2:6]}
    settled = fields.get(NATIVE + _SETTLEMENT_DATE, "")
    if len(settled) == 6:
        found[_SETTLEMENT_DATE] = settled[2:]
    return found


def _original_read(original: str) -> str:
    """DE56 (MTI 4, STAN 6, local date and time 12, length 2, acquirer) as DE90 of 1987.

    What names the original there is its transmission time, of which 1993 says nothing: zeros.
    """
    if len(original) < 22 or not (original.isascii() and original.isdigit()):
        return ""
    acquirer = original[24 : 24 + int(original[22:24] or "0")] if len(original) >= 24 else ""
    if len(acquirer) > 11:
        return ""
    return f"0{original[1:10]}{'0' * 10}{acquirer:0>11}{'0' * 11}"


def _amounts_read(fields: dict[int, str]) -> None:
    """A partial reversal: in 1993 DE4 is what is left, and DE30 what it was."""
    before = fields.get(_ORIGINAL_AMOUNTS, "")
    left = fields.get(AMOUNT, "")
    if len(before) == 24 and len(left) == 12 and before[:12].strip("0"):
        fields[NATIVE + AMOUNT] = left
        fields[AMOUNT] = before[:12]
        fields[REPLACEMENT_AMOUNTS] = left.ljust(42, "0")


def _amounts_written(fields: dict[int, str]) -> None:
    replaced = fields.pop(REPLACEMENT_AMOUNTS, "")
    amount = fields.get(AMOUNT, "")
    if len(replaced) == 42 and len(amount) == 12:
        fields[AMOUNT] = replaced[:12]
        own = fields.get(_ORIGINAL_AMOUNTS, "")
        fields[_ORIGINAL_AMOUNTS] = own if own[:12] == amount else amount + "0" * 12
