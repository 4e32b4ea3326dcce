"""Blocked: lists of 100,000 entries, none of which is anybody who buys."""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Iterator
from pathlib import Path
from random import Random

# 100,000 in all. Every list has some, so that every look-up is made.
COUNTS = {
    "cards": 60_000,
    "bins": 30_000,
    "terminals": 7_000,
    "merchants": 2_000,
    "networks": 900,
    "certificates": 100,
}


def write(folder: Path) -> int:
    """Writes the lists where they are not there in full; returns their entries."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in COUNTS.items():
        lines = list(_entries(name, count))
        text = "".join(f"{line}\n" for line in lines)
        file = folder / name
        if not file.exists() or file.read_text(encoding="ascii") != text:
            file.write_text(text, encoding="ascii")
    return sum(COUNTS.values())


def _entries(name: str, count: int) -> Iterator[str]:
    random = Random(name)
    for number in range(count):
        match name:
            case "cards":  # tokens: what the keyring makes of a card's number
                yield "h1:" + b32encode(random.randbytes(16)).decode().rstrip("=")
            case "bins":  # terminals' cards begin with 4761
                yield f"888{number:06d}"
            case "terminals":
                yield f"B{number:07d}"
            case "merchants":
                yield f"BLOCKED{number:08d}"
            case "networks":  # of the range that is kept for measuring: RFC 2544
                yield f"198.18.{number // 256}.{number % 256}/32"
            case _:
                yield f"sha256:{random.randbytes(32).hex()}"
