"""The codec: a frame's body to a Message and back, under one dialect."""

from __future__ import annotations

from binascii import a2b_hex
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import iso8583

from gateway.errors import EncodeError, ParseError
from gateway.wire.dialect import Dialect
from gateway.wire.layout import Compiler, Reader, Write
from gateway.wire.message import NO_PADS, STAN, Message

# Bitmaps come from peers: at this many layouts all are dropped and learnt again.
_LAYOUTS_MAX = 1_024

_Values = Callable[[dict[int, str]], list[str]]


class Codec:
    """Reads and writes messages of one dialect.

    pyiso8583 decides what a body means and what is wrong with it. Once it has read (or written) a
    set of fields, that set's layout is compiled, and what is perfectly ordinary no longer needs it;
    values, bytes and errors are the same either way.
    """

    __slots__ = (
        "_bitmap_bytes",
        "_bitmap_text",
        "_compiler",
        "_has_second",
        "_mti_bytes",
        "_mti_text",
        "_other_pads",
        "_readers",
        "_spec",
        "_writers",
        "dialect",
    )

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._spec = _complete(dialect.spec)
        self._compiler = Compiler(dialect.spec)
        self._mti_text = _text(dialect.spec["t"]["data_enc"])
        self._mti_bytes = 4 if self._mti_text else 2
        self._bitmap_text = _text(dialect.spec["p"]["data_enc"])
        self._bitmap_bytes = 16 if self._bitmap_text else 8
        self._has_second = _announcing_bytes(self._bitmap_text)
        # Which pads a field may have beside its own, and on which side its pad is.
        self._other_pads = {
            number: (keys["other_pads"], "left_pad" if "left_pad" in keys else "right_pad")
            for number, keys in dialect.spec.items()
            if keys.get("other_pads")
        }
        # By the bytes of the bitmaps: how far the head goes, the fields, and their reader.
        self._readers: dict[bytes, tuple[int, tuple[int, ...], Reader]] = {}
        # By the fields, in the order of the message's dict: its values in the order of the wire,
        # the bitmaps, and the writer.
        self._writers: dict[tuple[int, ...], tuple[_Values, bytes, Write]] = {}

    def decode(self, body: bytes) -> Message:
        """The message in a frame's body; its `raw` is the body.

        Raises ParseError, with the MTI and STAN that could still be read.
        """
        try:
            first = self._mti_bytes
            end = first + self._bitmap_bytes
            if self._has_second[body[first]]:
                end += self._bitmap_bytes
            start, numbers, reader = self._readers[body[first:end]]
            pads: dict[int, str] = {}
            values = reader.read(body, start, pads)
            head = body[:first]
            mti = head.decode(self._mti_text) if self._mti_text else head.hex().upper()
        except (ValueError, LookupError):
            pass  # Left before the reference is asked: as a context it would carry card data on.
        else:
            # Of one length by the layout's making; to check it would cost a twentieth of it all.
            return Message(mti, dict(zip(numbers, values, strict=False)), body, pads or NO_PADS)
        message = self.reference_decode(body)
        self._learn_to_read(body)
        return message

    def encode(self, message: Message) -> bytes:
        """The body of a message. Raises EncodeError where the dialect cannot write it."""
        mti, fields = message.mti, message.fields
        if message.pads and self._other_pads:
            return self.reference_encode(message)
        try:
            values, bitmaps, write = self._writers[tuple(fields)]
            head = mti.encode(self._mti_text) if self._mti_text else a2b_hex(mti)
            if len(head) == self._mti_bytes:
                return head + bitmaps + write(values(fields))
        except (ValueError, LookupError, TypeError):
            pass
        body = self.reference_encode(message)
        self._learn_to_write(tuple(fields))
        return body

    # --- the reference -------------------------------------------------------------------------

    def reference_decode(self, body: bytes) -> Message:
        """What `decode` returns or raises, by pyiso8583 alone.

        That library knows one pad of each field. Where a dialect allows others, it is asked again
        with the pad that the field has: at most once for every field.
        """
        message, error, _ = self._by_reference(body)
        if error is None:
            return message
        # Raised out here: as its context the library's error would carry the card data on.
        raise _parse_error(error, known=error.field in self.dialect.spec)

    def decode_part(self, body: bytes) -> Message:
        """What can be read of a body before its first error; for those who look into messages."""
        message, error, _ = self._by_reference(body)
        if error is not None and _in_part(error):
            return message.without([int(error.field)]) if _is_field(error.field) else message
        return message

    def spans(self, body: bytes) -> list[tuple[str, int, int, str]]:
        """Of each part that can be read before the first error, in order: its key in the spec,
        where it begins and ends with its length, and its value."""
        error, read = self._by_reference(body)[1:]
        found: list[tuple[str, int, int, str]] = []
        start = 0
        for key, parts in read.items():
            if error is not None and key == error.field:
                break
            end = start + len(parts["len"]) + len(parts["data"])
            found.append((key, start, end, parts["value"]))
            start = end
        return found

    def _by_reference(
        self, body: bytes
    ) -> tuple[Message, iso8583.DecodeError | None, dict[str, dict[str, Any]]]:
        """What pyiso8583 reads of a body, the error that it stops at, and the bytes it took."""
        spec, pads = self._spec, dict[int, str]()
        error: iso8583.DecodeError | None = None
        while True:
            try:
                decoded, encoded = iso8583.decode(body, spec)
            except iso8583.DecodeError as caught:
                error = caught
                decoded, encoded = caught.doc_dec, caught.doc_enc
                pad = self._other_pad(caught)
                if pad and int(caught.field) not in pads:
                    pads[int(caught.field)] = pad
                    spec = self._with_pads(spec, {int(caught.field): pad})
                    continue
            else:
                error = None
            fields = {int(key): value for key, value in decoded.items() if _is_field(key)}
            read = {key: {**parts, "value": decoded.get(key, "")} for key, parts in encoded.items()}
            return Message(decoded.get("t", ""), fields, body, pads or NO_PADS), error, read

    def reference_encode(self, message: Message) -> bytes:
        """What `encode` returns or raises, by pyiso8583 alone."""
        for number in sorted(message.fields):
            if number not in self.dialect.fields:
                raise EncodeError("is not in the dialect", field=str(number))
        document = {"t": message.mti}
        document |= {str(number): value for number, value in message.fields.items()}
        spec = self._with_pads(self._spec, message.pads) if message.pads else self._spec
        try:
            body, _ = iso8583.encode(document, spec)
        except iso8583.EncodeError as caught:
            error = caught
        else:
            return bytes(body)
        raise EncodeError(error.msg, field=error.field)

    def _other_pad(self, error: iso8583.DecodeError) -> str:
        """The pad that the field which could not be read has, if the dialect allows it."""
        if error.field not in self._other_pads:
            return ""
        pads, side = self._other_pads[error.field]
        digits = error.doc_enc[error.field]["data"].hex().upper()
        pad = digits[:1] if side == "left_pad" else digits[-1:]
        return pad if pad and pad in pads else ""

    def _with_pads(
        self, spec: dict[str, dict[str, Any]], pads: Mapping[int, str]
    ) -> dict[str, dict[str, Any]]:
        """The spec with these pads instead of the fields' own, as far as the dialect has them."""
        changed = {}
        for number, pad in pads.items():
            allowed, side = self._other_pads.get(str(number), ("", ""))
            if pad and pad in allowed:
                changed[str(number)] = spec[str(number)] | {side: pad}
        return spec | changed

    # --- learning ------------------------------------------------------------------------------

    def _learn_to_read(self, body: bytes) -> None:
        """Compiles the layout of a body that the reference has read."""
        first = self._mti_bytes
        count = 2 if self._has_second[body[first]] else 1
        end = first + count * self._bitmap_bytes
        key = body[first:end]
        if key in self._readers:
            return
        try:
            bits = a2b_hex(key.decode(self._bitmap_text)) if self._bitmap_text else key
        except ValueError:
            # Hex text with blanks in it, which the reference takes: it stays with the reference.
            return
        numbers = tuple(
            number
            for number in range(2, 8 * len(bits) + 1)
            if bits[(number - 1) // 8] >> (7 - (number - 1) % 8) & 1
        )
        # A third bitmap, and fields of it, stay with the reference.
        reader = None if 65 in numbers else self._compiler.reader(numbers)
        if reader is not None:
            if len(self._readers) >= _LAYOUTS_MAX:
                self._readers.clear()
            self._readers[key] = (end, numbers, reader)

    def _learn_to_write(self, key: tuple[int, ...]) -> None:
        """Compiles the layout of fields that the reference has written."""
        if key in self._writers or not key:
            return
        numbers = tuple(sorted(key))
        write = self._compiler.writer(numbers)
        if write is not None:
            if len(self._writers) >= _LAYOUTS_MAX:
                self._writers.clear()
            self._writers[key] = (_values(numbers), self._bitmaps(numbers), write)

    def _bitmaps(self, numbers: tuple[int, ...]) -> bytes:
        width = 128 if numbers[-1] > 64 else 64
        bits = sum(1 << (width - number) for number in numbers)
        if width == 128:
            bits |= 1 << 127
        raw = bits.to_bytes(width // 8, "big")
        return raw.hex().upper().encode(self._bitmap_text) if self._bitmap_text else raw


def _values(numbers: tuple[int, ...]) -> _Values:
    """What takes the values of these fields out of a message, in this order."""
    if len(numbers) == 1:
        return lambda fields: [fields[numbers[0]]]
    getter = itemgetter(*numbers)
    return lambda fields: [*getter(fields)]


def _text(encoding: str) -> str:
    """The encoding, or empty where it is raw bytes."""
    return "" if encoding == "b" else encoding


def _announcing_bytes(encoding: str) -> bytes:
    """For each first byte of a bitmap, 1 where it says that a second bitmap follows."""
    if not encoding:
        return bytes(byte >> 7 for byte in range(256))
    announcing = "89ABCDEFabcdef".encode(encoding)
    return bytes(byte in announcing for byte in range(256))


def _complete(spec: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The spec with an entry for every field that a bitmap can name.

    A field that the dialect lacks asks for more bytes than any frame has, so that pyiso8583 says
    where it stopped and what it had read, rather than fail at a missing key.
    """
    absent = {"data_enc": "b", "len_enc": "b", "len_type": 1 << 30, "max_len": 0, "desc": ""}
    return {str(number): absent for number in range(2, 193)} | spec


def _is_field(key: str) -> bool:
    return key.isdigit() and key != "1"


def _in_part(error: iso8583.DecodeError) -> bool:
    """Whether the field at which reading stopped was not read whole."""
    return "Extra" not in error.msg


def _parse_error(error: iso8583.DecodeError, *, known: bool) -> ParseError:
    read = error.doc_dec
    # The value of the field that failed may be there in part.
    stan = "" if error.field == str(STAN) and _in_part(error) else read.get(str(STAN), "")
    return ParseError(
        error.msg if known else "is not in the dialect",
        field=error.field,
        position=error.pos,
        mti=read.get("t", ""),
        stan=stan,
    )
