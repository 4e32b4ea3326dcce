"""Layouts: one set of fields of a dialect, compiled so that reading and writing are mostly slices.

A layout reads and writes only what is perfectly ordinary. At anything else it raises ValueError,
LookupError or TypeError, and the codec asks pyiso8583 for the value or for the error.
"""

from __future__ import annotations

import codecs
from binascii import a2b_hex
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

Keys = dict[str, Any]
_Name = tuple[str, int, int]  # what a table of length prefixes depends on
Cut = Callable[[str], tuple[str, ...]]
# Reads from a body at a position, appends the values, returns the position after them. A pad that
# is not the field's first choice is noted by its number in the last argument.
Pads = dict[int, str]
Step = Callable[[bytes, int, list[str], Pads], int]
# Values of neighbouring fields to their bytes.
Write = Callable[[list[str]], bytes]

# Every byte is one character, and the other way round; all but ASCII define all 256.
_ONE_BYTE = frozenset(("ascii", "iso8859-1", "cp037", "cp500", "cp1140"))

# A table of lengths to a field is worth its memory up to here; longer fields go to pyiso8583.
_TABLE_MAX = 9_999


class Reader(Protocol):
    """Reads the fields of one layout."""

    def read(self, body: bytes, start: int, pads: Pads) -> list[str]:
        """The values of all fields, from `start` to exactly the end of the body.

        Unusual pads are added to `pads`, by field.
        """
        ...


class Compiler:
    """Makes the layouts of one dialect; tables that fields have in common are made once."""

    __slots__ = ("_byte_tables", "_spec", "_text_tables")

    def __init__(self, spec: dict[str, Keys]) -> None:
        self._spec = spec
        self._byte_tables: dict[_Name, tuple[tuple[bytes, ...], dict[bytes, int]]] = {}
        self._text_tables: dict[tuple[str, int, int, str], tuple[tuple[str, ...], dict[str, int]]]
        self._text_tables = {}

    def reader(self, numbers: Sequence[int]) -> Reader | None:
        """A reader of these fields, in this order; None where only pyiso8583 can read them."""
        fields = [self._spec[str(number)] for number in numbers]
        if not all(map(_compilable, fields)):
            return None
        encoding = _common_text(fields)
        if encoding:
            return _TextReader(self._text_steps(fields, encoding), encoding)
        steps: list[Step] = []
        for kind, group in groupby(zip(numbers, fields, strict=True), lambda f: _run_kind(f[1])):
            run = list(group)
            if kind is None:
                steps += [self._variable_step(number, keys) for number, keys in run]
            elif kind == "odd":
                steps += [_odd_step(number, keys) for number, keys in run]
            else:
                steps.append(_fixed_step([keys for _, keys in run], kind))
        return _StepReader(tuple(steps))

    def writer(self, numbers: Sequence[int]) -> Write | None:
        """A writer of these fields, in this order; None where only pyiso8583 can write them."""
        fields = [self._spec[str(number)] for number in numbers]
        if not all(map(_compilable, fields)):
            return None
        parts: list[tuple[int, int, Write]] = []
        start = 0
        for encoding, group in groupby(fields, lambda keys: _common_text([keys])):
            run = list(group)
            stop = start + len(run)
            if encoding:
                parts.append((start, stop, self._text_writer(run, encoding)))
            else:
                parts += [
                    (start + index, start + index + 1, self._single_writer(keys))
                    for index, keys in enumerate(run)
                ]
            start = stop
        if len(parts) == 1:
            return parts[0][2]
        return _joined(tuple(parts))

    # --- length prefixes ---------------------------------------------------------------------

    def _byte_table(self, keys: Keys) -> tuple[tuple[bytes, ...], dict[bytes, int]]:
        """A variable field's prefix for each length up to its longest, and the other way round."""
        name = _table_name(keys)
        if name not in self._byte_tables:
            lengths = range(keys["max_len"] + 1)
            prefixes = tuple(_prefix(name[0], name[1], length) for length in lengths)
            self._byte_tables[name] = (prefixes, {p: length for length, p in enumerate(prefixes)})
        return self._byte_tables[name]

    def _text_table(self, keys: Keys, encoding: str) -> tuple[tuple[str, ...], dict[str, int]]:
        """The same with prefixes as text."""
        name = (*_table_name(keys), encoding)
        if name not in self._text_tables:
            prefixes = tuple(prefix.decode(encoding) for prefix in self._byte_table(keys)[0])
            self._text_tables[name] = (prefixes, {p: length for length, p in enumerate(prefixes)})
        return self._text_tables[name]

    # --- fields that are all text in one encoding ----------------------------------------------

    def _text_steps(self, fields: list[Keys], encoding: str) -> tuple[_TextStep, ...]:
        """Each a run of fixed fields and the variable field after it; either may be absent."""
        steps: list[_TextStep] = []
        run: list[int] = []
        for keys in fields:
            if keys["len_type"] == 0:
                run.append(keys["max_len"])
                continue
            counts = self._text_table(keys, encoding)[1]
            steps.append((_cut(run), sum(run), keys["len_type"], counts))
            run = []
        if run or not steps:
            steps.append((_cut(run), sum(run), 0, {}))
        return tuple(steps)

    def _text_writer(self, fields: list[Keys], encoding: str) -> Write:
        expected = [0 if keys["len_type"] else keys["max_len"] for keys in fields]
        variable = tuple(
            (index, self._text_table(keys, encoding)[0])
            for index, keys in enumerate(fields)
            if keys["len_type"]
        )
        join = "".join

        def write(values: list[str]) -> bytes:
            lengths = [*map(len, values)]
            for index, prefixes in variable:
                values[index] = prefixes[lengths[index]] + values[index]
                lengths[index] = 0
            if lengths != expected:
                raise ValueError
            return join(values).encode(encoding)

        return write

    # --- all others ----------------------------------------------------------------------------

    def _variable_step(self, number: int, keys: Keys) -> Step:
        counts: dict[bytes, int] = self._byte_table(keys)[1]
        width: int = keys["len_type"]
        nibbles = keys.get("len_count") == "nibbles"
        if nibbles:
            return _packed_step(number, keys, counts)
        encoding = keys["data_enc"]

        def step(body: bytes, position: int, values: list[str], _pads: Pads) -> int:
            start = position + width
            end = start + counts[body[position:start]]
            data = body[start:end]
            values.append(data.hex().upper() if encoding == "b" else data.decode(encoding))
            return end

        return step

    def _single_writer(self, keys: Keys) -> Write:
        variable, longest = keys["len_type"] > 0, keys["max_len"]
        prefixes = self._byte_table(keys)[0] if variable else ()
        nibbles, binary = keys.get("len_count") == "nibbles", keys["data_enc"] == "b"
        left, right = _pads(keys)
        encoding = keys["data_enc"]

        def write(values: list[str]) -> bytes:
            value = values[0]
            if not binary:
                data = value.encode(encoding)
            elif nibbles and len(value) & 1:
                data = a2b_hex(left + value + right)
            else:
                data = a2b_hex(value)
            length = len(value) if nibbles else len(data)
            if variable:
                return prefixes[length] + data
            if length != longest:
                raise ValueError
            return data

        return write


_TextStep = tuple[Cut, int, int, dict[str, int]]


class _TextReader:
    """All fields in one text encoding: the whole body is decoded once, and then sliced."""

    __slots__ = ("_encoding", "_steps")

    def __init__(self, steps: tuple[_TextStep, ...], encoding: str) -> None:
        self._steps = steps
        self._encoding = encoding

    def read(self, body: bytes, start: int, pads: Pads) -> list[str]:
        text = body[start:].decode(self._encoding)
        values: list[str] = []
        position = 0
        for cut, width, prefix, counts in self._steps:
            if width:
                end = position + width
                values += cut(text[position:end])
                position = end
            if prefix:
                end = position + prefix
                position = end + counts[text[position:end]]
                values.append(text[end:position])
        # Slices past the end are short, not errors; this finds them all.
        if position != len(text):
            raise ValueError
        return values


class _StepReader:
    """Fields of several encodings, run by run."""

    __slots__ = ("_steps",)

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps

    def read(self, body: bytes, start: int, pads: Pads) -> list[str]:
        values: list[str] = []
        position = start
        for step in self._steps:
            position = step(body, position, values, pads)
        if position != len(body):
            raise ValueError
        return values


def _joined(parts: tuple[tuple[int, int, Write], ...]) -> Write:
    def write(values: list[str]) -> bytes:
        return b"".join([part(values[start:stop]) for start, stop, part in parts])

    return write


def _fixed_step(run: list[Keys], encoding: str) -> Step:
    """Neighbouring fixed fields of one encoding: unpacked together, then cut."""
    widths = [_bytes_of(keys) for keys in run]
    width = sum(widths)
    if encoding == "b":
        cut_hex = _cut([2 * each for each in widths])

        def step(body: bytes, position: int, values: list[str], _pads: Pads) -> int:
            end = position + width
            values += cut_hex(body[position:end].hex().upper())
            return end
    else:
        cut = _cut(widths)

        def step(body: bytes, position: int, values: list[str], _pads: Pads) -> int:
            end = position + width
            values += cut(body[position:end].decode(encoding))
            return end

    return step


def _odd_step(number: int, keys: Keys) -> Step:
    """A fixed field that is not simply cut: an odd count of nibbles, or an unusual encoding."""
    encoding = keys["data_enc"]
    if encoding == "b":
        return _packed_step(number, keys, None)
    width = _bytes_of(keys)

    def step(body: bytes, position: int, values: list[str], _pads: Pads) -> int:
        end = position + width
        values.append(body[position:end].decode(encoding))
        return end

    return step


def _packed_step(number: int, keys: Keys, counts: dict[bytes, int] | None) -> Step:
    """A field counted in nibbles, of which an odd count has a pad; `counts` where it varies."""
    width: int = keys["len_type"]
    fixed: int = keys["max_len"]
    left, right = _pads(keys)
    others = keys.get("other_pads", "")

    def step(body: bytes, position: int, values: list[str], pads: Pads) -> int:
        start = position + width
        count = fixed if counts is None else counts[body[position:start]]
        end = start + (count + 1) // 2
        digits = body[start:end].hex().upper()
        if count & 1:
            pad = digits[:1] if left else digits[-1:]
            if pad != (left or right):
                if not pad or pad not in others:
                    raise ValueError
                pads[number] = pad
            digits = digits[1:] if left else digits[:-1]
        values.append(digits)
        return end

    return step


def _cut(widths: list[int]) -> Cut:
    """Cuts a text into pieces of these widths."""
    if len(widths) < 2:
        # itemgetter gives no tuple for one.
        return lambda text: (text,)
    ends = [sum(widths[: index + 1]) for index in range(len(widths))]
    pieces = zip(widths, ends, strict=True)
    return itemgetter(*(slice(end - width, end) for width, end in pieces))


def _table_name(keys: Keys) -> _Name:
    return (keys["len_enc"], keys["len_type"], keys["max_len"])


def _prefix(encoding: str, width: int, length: int) -> bytes:
    if encoding == "b":
        return length.to_bytes(width, "big")
    if encoding == "bcd":
        return a2b_hex(f"{length:0{2 * width}d}")
    return f"{length:0{width}d}".encode(encoding)


def _pads(keys: Keys) -> tuple[str, str]:
    """The pad on the left and on the right; pyiso8583 writes the left one where both are given."""
    left, right = keys.get("left_pad", "")[:1], keys.get("right_pad", "")[:1]
    return (left, "") if left else ("", right)


def _bytes_of(keys: Keys) -> int:
    """Bytes of a fixed field."""
    longest: int = keys["max_len"]
    return (longest + 1) // 2 if keys.get("len_count") == "nibbles" else longest


def _compilable(keys: Keys) -> bool:
    if keys.get("len_count") == "nibbles" and keys["data_enc"] != "b":
        return False
    return bool(keys["len_type"] == 0 or keys["max_len"] <= _TABLE_MAX)


def _run_kind(keys: Keys) -> str | None:
    """What may be cut together: the encoding, "odd" for what stands alone, None for variable."""
    if keys["len_type"]:
        return None
    if keys["data_enc"] == "b":
        odd = keys.get("len_count") == "nibbles" and keys["max_len"] & 1
        return "odd" if odd else "b"
    name = codecs.lookup(keys["data_enc"]).name
    return name if name in _ONE_BYTE else "odd"


def _common_text(fields: list[Keys]) -> str:
    """The one-byte text encoding of all these fields and their lengths; empty if there is none."""
    names = {keys["data_enc"] for keys in fields}
    if len(names) != 1 or "b" in names:
        return ""
    encoding = codecs.lookup(names.pop()).name
    if encoding not in _ONE_BYTE:
        return ""
    for keys in fields:
        len_enc = keys["len_enc"]
        if keys["len_type"] and (
            len_enc in ("b", "bcd") or "0123456789".encode(len_enc) != "0123456789".encode(encoding)
        ):
            return ""
    return encoding
