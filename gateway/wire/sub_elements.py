"""Sub-elements: what is inside a field, parsed on demand by a layout that its dialect gives.

A layout reads a field's value as messages have it (text, or hex where the field is bytes) into its
sub-elements and writes them again: what no layout names is kept, so that the same bytes come out.
Nothing of this is asked for by the codec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.errors import PeerError

_DEPTH_MAX: Final = 8
_COUNT_MAX: Final = 512
_HEX: Final = re.compile("(?:[0-9A-Fa-f]{2})*")
# Of EMV: track 1 and 2 data under their several tags, the card number, its holder's name, PIN data.
NEVER_SHOWN: Final = frozenset(
    ("56", "57", "5A", "5F20", "9F0B", "9F1F", "9F20", "9F6B", "99", "DF01", "9F6C")
)


class Form(StrEnum):
    """How sub-elements are told apart."""

    POSITIONAL = "positional"
    BER_TLV = "ber_tlv"  # ISO/IEC 8825-1, as EMV has it
    TLV = "tlv"  # tag and length of so many characters or bytes each


class SubElementError(PeerError):
    """A field cannot be taken apart; `position` is the byte (or character) in it, from 0."""

    def __init__(self, number: int, element: str, position: int, why: str) -> None:
        self.number = number
        self.element = element
        self.position = position
        where = f"DE{number}" + (f", sub-element {element}" if element else "")
        super().__init__(f"{where}, byte {position}: {why}")


@dataclass(frozen=True, slots=True)
class ElementName:
    """What a layout says of one sub-element; of a positional one `length` is 0 for all the rest."""

    id: str
    name: str = ""
    length: int = 0
    shown: bool = False  # holds nothing of a card, a customer or a key


@dataclass(frozen=True, slots=True)
class SubElement:
    """One part of a field: `head` and `value` are text, or hex digits, just as they stand in it."""

    id: str
    name: str
    value: str
    position: int
    shown: bool = False
    head: str = ""  # tag and length as they were written
    children: tuple[SubElement, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How one field is taken apart.

    It is for message types that begin with one of `mtis` (any where there is none) and, where
    `sizes` says so, for values of these lengths only. `is_hex`: two characters are a byte.
    """

    number: int
    form: Form
    is_hex: bool
    elements: Mapping[str, ElementName] = field(default_factory=dict)
    mtis: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    repeats: bool = False  # positional: the same again until the end
    tag_size: int = 2
    length_size: int = 2
    numbers: str = "text"  # of a length: "text", "bcd" or "binary"

    def fits(self, mti: str, value: str) -> bool:
        """Whether this layout is meant for a value in a message of this type."""
        if self.mtis and not mti.startswith(self.mtis):
            return False
        return not self.sizes or len(value) // self._unit in self.sizes

    def parse(self, value: str) -> tuple[SubElement, ...]:
        """The sub-elements of a value, in order. Raises SubElementError."""
        if self.is_hex:
            sound = _HEX.match(value)
            if sound is None or sound.end() < len(value):
                at = 0 if sound is None else sound.end()
                raise SubElementError(self.number, "", at // 2, "is not two hex digits")
        if self.form is Form.POSITIONAL:
            return self._positional(value)
        read = self._ber_head if self.form is Form.BER_TLV else self._tlv_head
        return self._tagged(value, 0, len(value), read, depth=0)

    def write(self, elements: Iterable[SubElement]) -> str:
        """The value that these sub-elements make; what was parsed gives the same again.

        Where a value is not as long as its head says, the head's length is written anew. Raises
        SubElementError where it cannot be.
        """
        return "".join(self._written(one) for one in elements)

    @property
    def _unit(self) -> int:
        return 2 if self.is_hex else 1

    # --- positional -----------------------------------------------------------------------------

    def _positional(self, value: str) -> tuple[SubElement, ...]:
        found: list[SubElement] = []
        at = 0
        while True:
            for known in self.elements.values():
                if at >= len(value):
                    return tuple(found)
                end = at + known.length * self._unit if known.length else len(value)
                if end > len(value):
                    missing = (end - len(value)) // self._unit
                    raise SubElementError(
                        self.number,
                        known.id,
                        at // self._unit,
                        f"{missing} of its {known.length} are missing",
                    )
                found.append(self._element(known.id, value[at:end], at))
                at = end
            if at >= len(value):
                return tuple(found)
            if not self.repeats or len(found) > _COUNT_MAX:
                # What the layout does not know of stays as it is.
                found.append(SubElement("rest", "", value[at:], at // self._unit))
                return tuple(found)

    # --- tag, length, value ---------------------------------------------------------------------

    def _tagged(
        self,
        value: str,
        start: int,
        end: int,
        read: Callable[[str, int, int], tuple[str, int, int]],
        *,
        depth: int,
    ) -> tuple[SubElement, ...]:
        found: list[SubElement] = []
        at = start
        while at < end:
            if len(found) >= _COUNT_MAX:
                raise SubElementError(self.number, "", at // self._unit, "too many sub-elements")
            if self.form is Form.BER_TLV and value[at : at + 2] == "00":
                # Bytes 00 between data objects are filling (ISO/IEC 7816-4, 5.2.2.1).
                found.append(SubElement("filling", "", "00", at // 2, shown=True))
                at += 2
                continue
            tag, head, length = read(value, at, end)
            begins = at + head
            stops = begins + length * self._unit
            if stops > end:
                missing = (stops - end) // self._unit
                raise SubElementError(
                    self.number, tag, at // self._unit, f"{missing} of its {length} are missing"
                )
            inner: tuple[SubElement, ...] = ()
            if self.form is Form.BER_TLV and int(tag[:2], 16) & 0x20:
                if depth >= _DEPTH_MAX:
                    raise SubElementError(self.number, tag, at // 2, "is nested too deeply")
                inner = self._tagged(value, begins, stops, read, depth=depth + 1)
            found.append(
                self._element(tag, value[begins:stops], at, head=value[at:begins], inner=inner)
            )
            at = stops
        return tuple(found)

    def _ber_head(self, value: str, at: int, end: int) -> tuple[str, int, int]:
        """Tag, characters of the head, and the length in bytes."""
        tag_end = at + 2
        if int(value[at:tag_end], 16) & 0x1F == 0x1F:
            while True:
                tag_end += 2
                if tag_end > end or tag_end - at > 8:
                    raise SubElementError(self.number, "", at // 2, "its tag has no end")
                if not int(value[tag_end - 2 : tag_end], 16) & 0x80:
                    break
        tag = value[at:tag_end].upper()
        if tag_end + 2 > end:
            raise SubElementError(self.number, tag, tag_end // 2, "its length is missing")
        first = int(value[tag_end : tag_end + 2], 16)
        if first < 0x80:
            return tag, tag_end + 2 - at, first
        digits = 2 * (first & 0x7F)
        length_end = tag_end + 2 + digits
        if not 2 <= digits <= 6 or length_end > end:
            raise SubElementError(self.number, tag, tag_end // 2, "its length cannot be read")
        return tag, length_end - at, int(value[tag_end + 2 : length_end], 16)

    def _tlv_head(self, value: str, at: int, end: int) -> tuple[str, int, int]:
        unit = self._unit
        tag_end = at + self.tag_size * unit
        head_end = tag_end + self.length_size * unit
        tag = value[at:tag_end]
        if head_end > end:
            raise SubElementError(self.number, tag, at // unit, "its tag and length are cut off")
        if self.is_hex and self.numbers == "text":
            tag = _text(tag)
        try:
            length = self._length(value[tag_end:head_end])
        except ValueError:
            raise SubElementError(
                self.number, tag, tag_end // unit, "its length is no number"
            ) from None
        return tag, head_end - at, length

    def _length(self, written: str) -> int:
        if self.numbers == "binary":
            return int(written, 16)
        if self.is_hex and self.numbers == "text":
            written = _text(written)
        if not (written.isascii() and written.isdigit()):
            raise ValueError
        return int(written)

    # --- both -----------------------------------------------------------------------------------

    def _element(
        self, name: str, value: str, at: int, *, head: str = "", inner: tuple[SubElement, ...] = ()
    ) -> SubElement:
        known = self.elements.get(name)
        shown = known is not None and known.shown and name.upper() not in NEVER_SHOWN
        said = known.name if known is not None else ""
        return SubElement(name, said, value, at // self._unit, shown, head, inner)

    def _written(self, one: SubElement) -> str:
        value = self.write(one.children) if one.children else one.value
        if self.form is Form.POSITIONAL:
            known = self.elements.get(one.id)
            if known is not None and known.length and len(value) != known.length * self._unit:
                raise SubElementError(
                    self.number, one.id, one.position, f"has to be {known.length} long"
                )
            return value
        if one.id == "filling":
            return value
        count = len(value) // self._unit
        return self._head(one, count) + value

    def _head(self, one: SubElement, count: int) -> str:
        """Tag and length: as they were, if that length still holds."""
        if self.form is Form.BER_TLV:
            if one.head and self._ber_head(one.head, 0, len(one.head))[2] == count:
                return one.head
            if count < 0x80:
                return f"{one.id}{count:02X}"
            size = 1 if count < 0x100 else 2
            return f"{one.id}{0x80 | size:02X}{count:0{2 * size}X}"
        tag_characters = self.tag_size * self._unit
        if one.head and self._length(one.head[tag_characters:]) == count:
            return one.head
        size = self.length_size
        binary = self.numbers == "binary"
        limit = 256**size if binary else 10 ** (2 * size if self.numbers == "bcd" else size)
        if count >= limit:
            raise SubElementError(self.number, one.id, one.position, "is too long for its length")
        if binary:
            length = f"{count:0{2 * size}X}"
        elif self.numbers == "bcd":
            length = f"{count:0{2 * size}d}"
        else:
            length = f"{count:0{size}d}"
            length = length.encode("ascii").hex().upper() if self.is_hex else length
        tag = one.head[:tag_characters]
        if not tag:
            text_tag = self.is_hex and self.numbers == "text"
            tag = one.id.encode("ascii").hex().upper() if text_tag else one.id
        return tag + length


def layout_for(layouts: Sequence[Layout], mti: str, value: str) -> Layout | None:
    """The first layout that is meant for this value; None where there is none."""
    return next((one for one in layouts if one.fits(mti, value)), None)


def find(elements: Iterable[SubElement], name: str) -> SubElement | None:
    """The first sub-element of this id, inside others too."""
    for one in elements:
        if one.id == name:
            return one
        inner = find(one.children, name)
        if inner is not None:
            return inner
    return None


def without(elements: Iterable[SubElement], names: frozenset[str]) -> tuple[SubElement, ...]:
    """The sub-elements less those of these ids, inside others too.

    What held nothing else is gone with it.
    """
    kept: list[SubElement] = []
    for one in elements:
        if one.id.upper() in names:
            continue
        if one.children:
            inner = without(one.children, names)
            if not inner:
                continue
            one = SubElement(one.id, one.name, one.value, one.position, one.shown, one.head, inner)
        kept.append(one)
    return tuple(kept)


def _text(written: str) -> str:
    return bytes.fromhex(written).decode("ascii", "replace")
