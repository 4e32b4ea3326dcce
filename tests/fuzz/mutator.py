"""Frames that are almost right: a good one, changed in a few places, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

_INTERESTING = (0x00, 0x01, 0x02, 0x03, 0x0A, 0x0F, 0x20, 0x30, 0x39, 0x3D, 0x40, 0x60, 0x7F, 0x80)
_INTERESTING += (0x99, 0xC0, 0xD0, 0xF0, 0xF9, 0xFE, 0xFF)
_BYTES_MAX = 5_000
_CHANGES_MAX = 6


class Mutator:
    """Changes to seeds; each frame is decided by the generator that it is given."""

    def __init__(self, data: Sequence[bytes]) -> None:
        self._seeds = data
        self._changes: tuple[Callable[[bytearray, Random], None], ...] = (
            _flip,
            _set,
            _set,
            _nibble,
            _insert,
            _delete,
            _repeat,
            _truncate,
            _count,
            self._splice,
        )

    def changed(self, number: int, random: Random) -> bytes:
        """The seed of this number, changed in a few places."""
        data = bytearray(self._seeds[number])
        for _ in range(random.randint(1, _CHANGES_MAX)):
            random.choice(self._changes)(data, random)
        return bytes(data[:_BYTES_MAX])

    def _splice(self, data: bytearray, random: Random) -> None:
        """The rest comes from another message, perhaps of another dialect."""
        other = random.choice(self._seeds)
        at = random.randint(0, len(data))
        data[at:] = other[random.randint(0, len(other)) :]


def _at(data: bytearray, random: Random) -> int:
    return random.randrange(len(data)) if data else 0


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[_at(data, random)] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        value = random.choice(_INTERESTING) if random.random() < 0.6 else random.randrange(256)
        data[_at(data, random)] = value


def _nibble(data: bytearray, random: Random) -> None:
    if data:
        at = _at(data, random)
        shift = random.choice((0, 4))
        data[at] = data[at] & ~(0xF << shift) & 0xFF | random.randrange(16) << shift


def _insert(data: bytearray, random: Random) -> None:
    at = random.randint(0, len(data))
    data[at:at] = random.randbytes(random.choice((1, 1, 2, 4, 40)))


def _delete(data: bytearray, random: Random) -> None:
    at = _at(data, random)
    del data[at : at + random.choice((1, 1, 2, 5, 30))]


def _repeat(data: bytearray, random: Random) -> None:
    at = _at(data, random)
    data[at:at] = data[at : at + random.choice((1, 4, 20, 200))] * random.choice((1, 2, 8))


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _count(data: bytearray, random: Random) -> None:
    """A length somewhere becomes another one, as text, packed or binary."""
    length = random.choice((0, 1, 19, 37, 99, 100, 255, 256, 999, 1_000, 9_999, 65_535))
    forms = (
        b"%02d" % (length % 100),
        b"%03d" % (length % 1_000),
        bytes.fromhex(f"{length % 10_000:04d}"),
        length.to_bytes(2, "big"),
        bytes((length % 256,)),
    )
    at, form = _at(data, random), random.choice(forms)
    data[at : at + len(form)] = form
