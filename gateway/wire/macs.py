"""Where a message's MAC stands: what it covers, its bytes on the wire, and a body with it."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable
from typing import NamedTuple

from gateway.errors import EncodeError
from gateway.wire.codec import Codec
from gateway.wire.message import Message

PRIMARY, SECONDARY = 64, 128  # DE64; DE128 where a message has a second bitmap
_BYTES = 8
_BLANK = "0" * 2 * _BYTES


class Covered(NamedTuple):
    """The bytes that a MAC is over, from the message type to the field before it, and the MAC."""

    data: bytes
    mac: bytes


class MacPlace:
    """How one dialect writes MACs: 8 bytes, or as many pairs of hexadecimal digits.

    The MAC is the last field of its message: DE64, or DE128 where there is any field above 64
    (ISO 8583:1987, clause 4.4.40; Q/CUP 009).
    """

    __slots__ = ("_codec", "_text", "_width")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        spec = codec.dialect.spec.get(str(PRIMARY), {})
        encoding = str(spec.get("data_enc", "b"))
        self._text = "" if encoding == "b" else encoding
        self._width = _BYTES if not self._text else 2 * _BYTES

    def covered(self, message: Message) -> Covered | None:
        """What the MAC of a received message is over, byte for byte; None where it has none.

        It is the last that was received: a DE64 that other fields follow is none, and what stands
        in its place verifies as little as any other bytes.
        """
        fields, raw = message.fields, message.raw
        if (PRIMARY not in fields and SECONDARY not in fields) or len(raw) <= self._width:
            return None
        mac = raw[-self._width :]
        if self._text:
            try:
                mac = unhexlify(mac.decode(self._text))
            except ValueError:
                return None
        return Covered(raw[: -self._width], mac)

    def sealed(self, message: Message, compute: Callable[[bytes], bytes]) -> bytes:
        """The body of a message with its MAC: `compute` makes 8 bytes of those before it.

        Raises EncodeError where the dialect cannot write the message, or has no such field.
        """
        fields = {n: v for n, v in message.fields.items() if n not in (PRIMARY, SECONDARY)}
        place = SECONDARY if fields and max(fields) > PRIMARY else PRIMARY
        fields[place] = _BLANK
        body = self._codec.encode(Message(message.mti, fields, pads=message.pads))
        covered = body[: -self._width]
        mac = compute(covered)
        if len(mac) != _BYTES:
            raise EncodeError(f"a MAC of {len(mac)} bytes", field=str(place))
        return covered + (mac.hex().upper().encode(self._text) if self._text else mac)
