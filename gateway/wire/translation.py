"""Messages of one dialect in the terms of another: what changes, what is left out, what cannot be.

A translation is compiled once for a pair of dialects. Both sides are as `editions` gives them, in
the terms of ISO 8583:1987 but for DE22 and for fields of which only the number is the same.

- A field is written in the other's form: numbers by value, text by character set, tracks with the
  other separator, signs in the other's byte.
- A field for which the other dialect has no place is an error, unless a rule leaves it out.
- DE3, DE25, DE60 and the message type say the kind of transaction as the other side asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.wire.dialect_meaning import EDITION_1993, NATIVE, mapped
from gateway.wire.dialect_spec import Dialect
from gateway.wire.field_forms import Convert, Untranslatable, conversion, forms_of
from gateway.wire.message import (
    CONDITION_CODE,
    ENTRY_MODE,
    ORIGINAL_DATA,
    PROCESSING_CODE,
    RESPONSE_CODE,
    TRANSMISSION_TIME,
    Kind,
    Message,
    kind_of,
)

_PRIVATE: Final = 60
_MACS: Final = (64, 128)  # of one side only
_BATCH: Final = slice(2, 8)
_NO_NETWORK_CODE: Final = "000"  # DE60.3 of what is no network message
_POSITIONS: Final = 12
_PIN_ROW: Final = "pin "
_NOT_YET_KNOWN: Final = "09"  # an action code of 1993 that no row names: it may be an approval
_ACTION_CODE_CHARS: Final = 3

Effect = Literal["written otherwise", "left out", "cannot be carried"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What a translation does to one field of a request; `why` names the rule."""

    number: int
    effect: Effect
    why: str


class Translation:
    """One direction: messages of `source` as `target` has them."""

    def __init__(self, source: Dialect, target: Dialect, *, batch: str = "000001") -> None:
        """`batch` is that of DE60 towards a network that has one, for terminals without."""
        self._source = source.fields.keys()
        self._target = target.name
        self._batch = batch
        one, other = source.meaning, target.meaning
        same_edition = one.edition == other.edition
        self._entry = None if same_edition else _entry_modes(source, target)
        newer = other if other.edition == EDITION_1993 else one
        to_1993 = not same_edition and other.edition == EDITION_1993
        self._copies: Mapping[int, int] = newer.copies if to_1993 else {}
        # Left to the codec, since what a message asks for rests on it.
        self._said_otherwise = {CONDITION_CODE: "DE24 says it there"} if to_1993 else {}
        self._left_out = dict.fromkeys(_MACS, "each side computes its own")
        if not same_edition:
            why = f"only its number is the same in {one.edition} and {other.edition}"
            self._left_out |= dict.fromkeys(newer.differs, why)
        if ORIGINAL_DATA not in target.fields:
            # Whoever names an original for that side does so in its own element.
            self._left_out[ORIGINAL_DATA] = f"{target.name} has another element for it"
        self._foreign = one.network != other.network
        # What terminals of the other network expect of every answer.
        self.echoed = other.echoed if self._foreign else frozenset[int]()
        if self._foreign:
            owner = source.name if one.network else target.name
            self._left_out |= dict.fromkeys(one.private | other.private, f"private to {owner}")
        self._kinds = (
            {}
            if one.kinds == other.kinds
            else {kind: form for kind, form in other.kinds.items() if one.kinds.get(kind) != form}
        )
        # Kinds that both ask for alike, and what is no kind at all: that goes on as it is.
        self._asked_alike = (one.kinds.keys() & other.kinds.keys()) | {Kind.UNKNOWN}
        self._codes = other_codes(source, target)
        forms, targets = forms_of(source), forms_of(target)
        code = targets.get(RESPONSE_CODE)
        # A link of 1993 gets its own action code back, whatever it was read as.
        if code is None or other.edition == EDITION_1993:
            self._code_chars = _ACTION_CODE_CHARS
        else:
            self._code_chars = code.size
        if not same_edition:
            # What stands in DE22 is translated as a whole.
            forms.pop(ENTRY_MODE, None)
        self._convert: dict[int, Convert | None] = {}
        self.lacking: set[int] = set()
        for number in source.fields.keys() | forms.keys():
            if number in self._left_out or (number >= NATIVE and number not in targets):
                continue
            if number not in targets:
                if number in other.may_lack:
                    self._left_out[number] = f"{target.name} can do without it (may_lack)"
                else:
                    self.lacking.add(number)
            elif number in forms:
                self._convert[number] = conversion(forms[number], targets[number], number)
        if not same_edition and ENTRY_MODE in targets:
            self._convert[ENTRY_MODE] = self._entry
        time = TRANSMISSION_TIME
        self._lacks_time = time in target.fields and time not in source.fields
        # What no terminal of this dialect can have sent is the gateway's own word, in its form.
        own = targets.keys() - source.fields.keys() - forms.keys() - self._left_out.keys()
        self._convert |= dict.fromkeys(own - {ENTRY_MODE}, None)

    @property
    def lacks_transmission_time(self) -> bool:
        """Whether only the other side knows a DE7: then it is the gateway's own to say."""
        return self._lacks_time

    @property
    def changes_nothing(self) -> bool:
        """Whether every message stays as it is, but for what the codec does."""
        return not (
            self.lacking
            or self._kinds
            or self._codes
            or self._copies
            or self._left_out.keys() - set(_MACS)
            or any(self._convert.values())
        )

    def asks_for(self, kind: Kind) -> bool:
        """Whether the other side can be asked for this kind of transaction."""
        return not self._foreign or kind in self._kinds or kind in self._asked_alike

    def differences(self) -> list[Difference]:
        """What it does to fields of requests, by number."""
        found = [
            Difference(target, "written otherwise", f"filled from DE{source}")
            for target, source in self._copies.items()
        ]
        found += [
            Difference(number, "left out", why)
            for number, why in (self._left_out | self._said_otherwise).items()
            if number in self._source
        ]
        found += [
            Difference(number, "cannot be carried", f"{self._target} has no DE{number}")
            for number in self.lacking
        ]
        otherwise = {
            number: "the same value in another form"
            for number, convert in self._convert.items()
            if convert is not None and number in self._source
        }
        if self._kinds:
            otherwise |= {PROCESSING_CODE: "it says the kind"}
            if CONDITION_CODE not in self._said_otherwise:
                otherwise |= {CONDITION_CODE: "it says the kind"}
        found += [Difference(number, "written otherwise", why) for number, why in otherwise.items()]
        return sorted(found, key=lambda one: (one.number, one.why))

    def request(self, message: Message, *, without: Iterable[int] = ()) -> Message:
        """A request as the other side has it; `without` are fields that are dropped in any case.

        Raises Untranslatable where a value cannot be carried.
        """
        fields = self._fields(message, frozenset(without), strict=True)
        mti = message.mti
        for target, source in self._copies.items():
            if source in fields:
                fields[target] = fields[source]
        if self._kinds and mti[1:2] in "12":
            mti = self._styled(message, fields)
        return Message(mti, fields, pads=message.pads)

    def answer(self, fields: Mapping[int, str]) -> dict[int, str]:
        """Fields of an answer as the other side has them.

        What it has no place for is left out, since nobody there can read it, and so is what cannot
        be written there: the outcome stands without it.
        """
        translated = self._fields(Message("", dict(fields)), frozenset(), strict=False)
        code = translated.get(RESPONSE_CODE)
        if code is not None:
            code = mapped(self._codes, code) or code
            known = len(code) <= self._code_chars
            translated[RESPONSE_CODE] = code if known else _NOT_YET_KNOWN
        return translated

    def _fields(self, message: Message, without: frozenset[int], *, strict: bool) -> dict[int, str]:
        fields: dict[int, str] = {}
        converters, left_out = self._convert, self._left_out
        for number, value in message.fields.items():
            try:
                convert = converters[number]
            except KeyError:
                if strict and number < NATIVE and number not in left_out and number not in without:
                    raise Untranslatable(
                        number, f"dialect {self._target} has no such field"
                    ) from None
                continue
            if convert is not None and number % NATIVE not in without:
                try:
                    value = convert(value)
                except ValueError as error:
                    if strict:
                        raise Untranslatable(number % NATIVE, str(error)) from None
                    continue
            fields[number] = value
        return fields

    def _styled(self, message: Message, fields: dict[int, str]) -> str:
        """Say the kind as the other side does; returns the message type."""
        kind = kind_of(message)
        form = self._kinds.get(kind)
        if form is None:
            if self._foreign and kind not in self._asked_alike:
                raise Untranslatable(PROCESSING_CODE, f"dialect {self._target} has no {kind}")
            return message.mti
        code = message.get(PROCESSING_CODE)
        fields[PROCESSING_CODE] = form.code + code[len(form.code) :]
        if form.condition:
            fields[CONDITION_CODE] = form.condition
        if form.private_type:
            batch = message.get(_PRIVATE)[_BATCH]
            if not (len(batch) == 6 and batch.isdigit()):
                batch = self._batch
            fields[_PRIVATE] = form.private_type + batch + _NO_NETWORK_CODE
        mti = message.mti
        original = mti[:3] + "0"
        return mti if original in form.mtis else form.mtis[0][:3] + mti[3]


def other_codes(source: Dialect, target: Dialect) -> Mapping[str, str]:
    """DE39 of one network as others say it; nothing where both have the same codes.

    Codes of ISO 8583:1993 are no concern here: `editions` reads and writes them.
    """
    if source.meaning.edition == EDITION_1993 or source.meaning.codes == target.meaning.codes:
        return {}
    return source.meaning.codes


def _entry_modes(source: Dialect, target: Dialect) -> Convert:
    """DE22 of one edition as that of the other."""
    if target.meaning.edition == EDITION_1993:
        return _to_positions(target.meaning.entry_modes)
    reading = [
        (re.compile(pattern, re.DOTALL), code)
        for pattern, code in source.meaning.entry_modes_read.items()
    ]
    own = forms_of(target).get(ENTRY_MODE)
    size = own.size if own is not None else 3

    def convert(value: str) -> str:
        if len(value) != _POSITIONS:
            raise ValueError(f"has {len(value)} positions, and not {_POSITIONS}")
        code = next((code for pattern, code in reading if pattern.fullmatch(value)), None)
        if code is None:
            raise ValueError("no entry_modes_read of the dialect fits it")
        pin = {"0": "2", "1": "0"}.get(value[-1], "1")
        return (code + pin).ljust(size, "0")[:size]

    return convert


def _to_positions(modes: Mapping[str, str]) -> Convert:
    def convert(value: str) -> str:
        template = mapped(modes, value[:2])
        if template is None:
            raise ValueError(f"the dialect's entry_modes have no row for {value[:2]!a}")
        pin = modes.get(_PIN_ROW + value[2:3], "01")
        return template.replace("p", pin[0]).replace("q", pin[1])

    return convert
