"""What a message looks like to one upstream, and its answer to the terminal again (no I/O).

What is kept of a request is as its terminal sent it, since it may yet move to another upstream, and
beside it what each of them would be told otherwise. Whatever is made of it later (a reversal, an
advice sent again, the reference of a void) bears the values that were sent, though the rules or the
terminals file say something else by then: the acquirer would find no original under others.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Final, Literal
from zoneinfo import ZoneInfo

from gateway.errors import NotSent
from gateway.settings.boarding import BoardedTerminal, BoardedTerminals
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.wire.dialect_meaning import NATIVE
from gateway.wire.dialect_spec import Dialect
from gateway.wire.field_forms import Untranslatable
from gateway.wire.id_patterns import MERCHANT_ID_CHARS_MAX, padded
from gateway.wire.message import (
    LOCAL_DATE,
    LOCAL_TIME,
    MERCHANT_ID,
    ORIGINAL_DATA,
    RESPONSE_CODE,
    TERMINAL_ID,
    TRANSMISSION_TIME,
    Kind,
    Message,
    kind_of,
)
from gateway.wire.translation import Translation

_ANY_VALUE = "*"
_PRIVATE = 60  # UnionPay: message type 2, batch 6, network management code 3 …
_ORIGINAL = 61  # UnionPay: original batch 6, original STAN 6, original date 4
_PRIVATE_BATCH = slice(2, 8)
_BATCH_DIGITS = 6
_READ_AS = {NATIVE + 56: ORIGINAL_DATA}  # of 1993, where the number differs


# The values that an upstream gets otherwise than the terminal sent them; None: it does not get it.
# Under MESSAGE_TYPE stands the message type, where that is another one.
Changes = Mapping[int, str | None]
MESSAGE_TYPE: Final = 0
NO_CHANGES: Final[Changes] = MappingProxyType({})

# What may be kept of what an upstream is told otherwise, beside values of the configuration: no
# field that holds, or may hold, data of a card.
_MAY_BE_KEPT: Final = frozenset(
    (
        *(MESSAGE_TYPE, 3, 4, 7, 11, 12, 13, 15, 18, 19, 22, 23, 24, 25, 26, 32, 33, 37, 38, 41),
        *(42, 43, 49, 56, 60, 61, 90),
    )
)


NO_DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType({})


class CannotAdapt(NotSent):
    """A message cannot be made what this upstream wants; no byte of it left."""


class Adaptation:
    """The field rules and identities of one upstream, and its dialect for terminals of others."""

    def __init__(
        self,
        settings: UpstreamSettings,
        terminals: BoardedTerminals,
        dialects: Mapping[str, Dialect] = NO_DIALECTS,
    ) -> None:
        """`dialects` are all there are, by name: terminals may speak any of them."""
        rules = settings.fields
        self._name = settings.name
        self._terminals = terminals if settings.knows_terminals == "one_by_one" else None
        self._fixed = dict(rules.set)
        if settings.terminal_id:
            self._fixed[TERMINAL_ID] = padded(settings.terminal_id)
        if settings.merchant_id:
            self._fixed[MERCHANT_ID] = settings.merchant_id.ljust(MERCHANT_ID_CHARS_MAX)
        self._maps = rules.map
        self._copies = rules.copy_from
        self._drop = tuple(rules.drop)
        self._codes = rules.codes
        self._message_types = {Kind(kind): mti for kind, mti in rules.message_types.items()}
        self._zone = ZoneInfo(rules.time_zone) if rules.time_zone is not None else None
        self._require = tuple(number for number in rules.require if number not in self._fixed)
        self._takes_all = not self._require and self._terminals is None
        self._ruled = frozenset((*self._drop, *self._fixed, *self._copies))
        self._changes_nothing = not (
            self._terminals is not None
            or self._fixed
            or self._maps
            or self._copies
            or self._drop
            or self._message_types
            or rules.time_zone is not None
        )
        self._dialects = dialects
        self._own = dialects.get(settings.dialect)
        self._batch = settings.network.batch
        self._named_by = settings.reversal_original
        # By the dialect of a terminal: to this upstream and back; None where nothing differs.
        self._translations: dict[str, tuple[Translation, Translation] | None] = {
            "": None,
            settings.dialect: None,
        }

    def original_named_by(self, dialect: str) -> Literal["de90", "de56", "de61"] | None:
        """The element in which this upstream wants an original named, where terminals that speak
        this dialect may use another; else None."""
        if self._translation(dialect) is None and self._named_by != "de56":
            return None
        return self._named_by

    def refusal(self, request: Message, dialect: str = "") -> str:
        """Why a request of a terminal that speaks this dialect cannot go to this upstream, in
        words; empty where it can."""
        translation = self._translation(dialect)
        if self._takes_all and translation is None:
            return ""  # as mostly
        for number in self._require:
            if number not in request.fields:
                return f"upstream {self._name} requires DE{number}, which is absent"
        if self._terminals is not None and request.terminal_id not in self._terminals:
            return self._not_boarded(request)
        if translation is not None:
            try:
                translation[0].request(request, without=self._ruled)
            except Untranslatable as error:
                return self._untranslatable(error)
        return ""

    def outgoing(
        self,
        message: Message,
        dialect: str = "",
        pointing: Changes = NO_CHANGES,
        *,
        at_ms: int = 0,
    ) -> Message:
        """A message of a terminal as this upstream gets it.

        `dialect` is the terminal's; `pointing` are fields that name an original as this upstream
        knows it; `at_ms` is when it came, for a DE7 that the terminal's dialect lacks. Raises
        CannotAdapt where it knows the terminals one by one, and not this one, and where a value
        has no place in its dialect.
        """
        translation = self._translation(dialect)
        if translation is None and self._changes_nothing and not pointing:
            return message
        translated = message
        if translation is not None:
            try:
                translated = translation[0].request(message, without=self._ruled)
            except Untranslatable as error:
                raise CannotAdapt(self._untranslatable(error)) from None
        mti, fields = translated.mti, dict(translated.fields)
        if translation is not None and translation[0].lacks_transmission_time and at_ms:
            fields[TRANSMISSION_TIME] = _stamp(at_ms, UTC)
        if self._zone is not None and at_ms and LOCAL_TIME not in fields:
            stamp = _stamp(at_ms, self._zone)
            fields[LOCAL_TIME] = stamp[4:]
            fields.setdefault(LOCAL_DATE, stamp[:4])
        _lay_over(fields, pointing)
        if self._message_types:
            mti = self._message_types.get(kind_of(message), mti[:3] + "0")[:3] + mti[3]
        if self._terminals is not None:
            boarded = self._terminals.get(fields.get(TERMINAL_ID, ""))
            if boarded is None:
                raise CannotAdapt(self._not_boarded(message))
            _identify(fields, boarded)
        self._rule(fields)
        return Message(mti, fields)

    def _rule(self, fields: dict[int, str]) -> None:
        """Copy, map, set and drop, as the rules say."""
        for target, source in self._copies.items():
            copied = fields.get(source)
            if copied is not None:
                fields[target] = copied
        for number, values in self._maps.items():
            value = fields.get(number)
            if value is not None:
                fields[number] = values.get(value, values.get(_ANY_VALUE, value))
        fields.update(self._fixed)
        for number in self._drop:
            fields.pop(number, None)
            fields.pop(NATIVE + number, None)  # as a terminal of 1993 wrote it

    def changes(
        self,
        message: Message,
        dialect: str = "",
        pointing: Changes = NO_CHANGES,
        *,
        at_ms: int = 0,
    ) -> Changes:
        """What `outgoing` makes of a message, as far as it may be kept; raises CannotAdapt."""
        if self._changes_nothing and not pointing and self._translation(dialect) is None:
            return {}
        sent = self.outgoing(message, dialect, pointing, at_ms=at_ms)
        own = message.fields
        dropped: dict[int, str | None] = dict.fromkeys(self._drop)
        dropped |= dict.fromkeys(own.keys() - sent.fields.keys())
        changed: dict[int, str | None] = {
            number: value
            for number, value in sent.fields.items()
            if number in self._fixed
            or (
                own.get(number) != value
                and (number in _MAY_BE_KEPT or self._maps_to(number, value))
            )
        }
        if sent.mti != message.mti:
            changed[MESSAGE_TYPE] = sent.mti
        return dropped | changed

    def _maps_to(self, number: int, value: str) -> bool:
        """Whether it is the configuration's word; what no row names may be of a card."""
        values = self._maps.get(number)
        return values is not None and value in values.values()

    def again(self, message: Message, changes: Changes | None) -> Message:
        """A message that this upstream got before, as it got it then; where that is not known
        (None), as it would get it now. Raises CannotAdapt."""
        if changes is None:
            return self.outgoing(message)
        if not changes:
            return message
        fields = dict(message.fields)
        _lay_over(fields, changes)
        return Message(fields.pop(MESSAGE_TYPE, message.mti), fields)

    def made(self, message: Message) -> Message:
        """A message that the gateway itself makes for this upstream, less what its dialect has no
        place for and can do without."""
        if self._own is None:
            return message
        lacking = self._own.meaning.may_lack - self._own.fields.keys()
        found = [number for number in message.fields if number in lacking]
        return message.without(found) if found else message

    def incoming(
        self, answer: Message, *, request: Message, sent: Message, dialect: str = ""
    ) -> Message:
        """The answer in the terminal's own terms.

        Where it echoes what was `sent` in place of what the `request` had, it says again what the
        request did, or nothing. Whatever else the upstream says is its own, and stays.
        """
        translation = self._translation(dialect)
        if sent.fields is request.fields and translation is None and not self._codes:
            return answer
        echoed: dict[int, str] = {}
        said: dict[int, str] = {}
        for number, value in answer.fields.items():
            own = request.fields.get(number)
            if number == ORIGINAL_DATA and own is not None:
                echoed[number] = own  # However it is named there, it is the terminal's original.
            elif number == RESPONSE_CODE:
                said[number] = value  # Never an echo, though a reversal or an advice has one too.
            elif value != sent.fields.get(number) or (own == value and translation is None):
                said[number] = value
            elif own is not None:
                echoed[number] = own
            elif number in (LOCAL_TIME, LOCAL_DATE):
                said[number] = value  # The time of day is news to a terminal that sent none.
        code = said.get(RESPONSE_CODE)
        if code is not None and code in self._codes:
            said[RESPONSE_CODE] = self._codes[code]
        if translation is not None:
            said = translation[1].answer(said)
            # With a value goes what a terminal of 1993 wrote it as.
            native = [
                number
                for number in request.fields
                if number >= NATIVE and _READ_AS.get(number, number - NATIVE) in echoed
            ]
            native += [
                number
                for number in translation[1].echoed
                if number in request.fields and number not in said
            ]
            echoed |= {number: request.fields[number] for number in native}
        return Message(answer.mti, said | echoed)

    def _translation(self, dialect: str) -> tuple[Translation, Translation] | None:
        try:
            return self._translations[dialect]
        except KeyError:
            pass
        found = None
        terminal = self._dialects.get(dialect)
        if terminal is not None and self._own is not None:
            there = Translation(terminal, self._own, batch=self._batch)
            back = Translation(self._own, terminal)
            if not (there.changes_nothing and back.changes_nothing):
                found = (there, back)
        self._translations[dialect] = found
        return found

    def _untranslatable(self, error: Untranslatable) -> str:
        number = error.number
        return (
            f"upstream {self._name} cannot get {error}; drop, set or copy DE{number} in its fields"
        )

    def _not_boarded(self, message: Message) -> str:
        terminal = message.terminal_id.rstrip()
        return f"terminal {terminal} is not in the terminals_file of upstream {self._name}"


def _stamp(at_ms: int, zone: tzinfo) -> str:
    """MMDDhhmmss."""
    return datetime.fromtimestamp(at_ms / 1000, zone).strftime("%m%d%H%M%S")


def _lay_over(fields: dict[int, str], changes: Changes) -> None:
    for number, value in changes.items():
        if value is None:
            fields.pop(number, None)
        else:
            fields[number] = value


def _identify(fields: dict[int, str], boarded: BoardedTerminal) -> None:
    """Name the terminal, its merchant and its batch as the upstream does."""
    fields[TERMINAL_ID] = boarded.terminal_id
    if boarded.merchant_id:
        fields[MERCHANT_ID] = boarded.merchant_id
    if not boarded.batch:
        return
    private = fields.get(_PRIVATE, "")
    if _is_number(private[_PRIVATE_BATCH]):
        fields[_PRIVATE] = private[:2] + boarded.batch + private[8:]
    original = fields.get(_ORIGINAL, "")
    if len(original) >= 2 * _BATCH_DIGITS and _is_number(original[: 2 * _BATCH_DIGITS]):
        fields[_ORIGINAL] = boarded.batch + original[_BATCH_DIGITS:]


def _is_number(text: str) -> bool:
    return len(text) >= _BATCH_DIGITS and text.isascii() and text.isdigit()
