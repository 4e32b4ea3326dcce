"""Sets of terminal and merchant ids, as people write them in a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TERMINAL_ID_CHARS = 8  # ISO 8583:1987, DE41: ans 8, fixed
MERCHANT_ID_CHARS_MAX = 15  # ISO 8583:1987, DE42: ans 15, padded with blanks
RANGE_CHARS = 2 * TERMINAL_ID_CHARS + 1


def padded(terminal_id: str) -> str:
    """A terminal id as DE41 carries it: with blanks up to eight characters."""
    return terminal_id.ljust(TERMINAL_ID_CHARS)


@dataclass(frozen=True, slots=True)
class TerminalRange:
    """The ids from `prefix` + first to `prefix` + last, counted in decimal digits."""

    prefix: str
    digits: int
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> TerminalRange:
        """The range that `A-B` names; raises ValueError where it is none.

        Both ids are written in full (eight characters) and differ only in digits at their end, so
        that the range has as many ids as it seems to have.
        """
        low, high = text[:TERMINAL_ID_CHARS], text[TERMINAL_ID_CHARS + 1 :]
        if len(text) != RANGE_CHARS or text[TERMINAL_ID_CHARS] != "-":
            raise ValueError(f"{text!r} is no range: write A-B with two ids of 8 characters")
        digits = 0
        while digits < TERMINAL_ID_CHARS and _is_number(low[-digits - 1 :] + high[-digits - 1 :]):
            digits += 1
        prefix = low[: TERMINAL_ID_CHARS - digits]
        if not digits or high[: TERMINAL_ID_CHARS - digits] != prefix:
            raise ValueError(f"{text!r} is no range: its ids may differ only in digits at the end")
        first, last = int(low[-digits:]), int(high[-digits:])
        if last < first:
            raise ValueError(f"{text!r} is no range: it ends before it begins")
        return cls(prefix, digits, first, last)

    def __contains__(self, terminal_id: object) -> bool:
        if not isinstance(terminal_id, str) or len(terminal_id) != TERMINAL_ID_CHARS:
            return False
        number = terminal_id[len(self.prefix) :]
        return (
            terminal_id.startswith(self.prefix)
            and _is_number(number)
            and self.first <= int(number) <= self.last
        )

    def __len__(self) -> int:
        return self.last - self.first + 1


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


@dataclass(frozen=True, slots=True)
class TerminalSet:
    """The terminal ids that some patterns name, compiled once and asked for each message."""

    ids: frozenset[str]
    prefixes: tuple[str, ...]
    ranges: tuple[TerminalRange, ...]

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> TerminalSet:
        """The set that ids (`T0000001`), prefixes (`T00*`) and ranges (`A-B`) name together.

        What is longer than an id is a range, whose two ids are written in full. Raises ValueError
        where a pattern is none of these.
        """
        ids: set[str] = set()
        prefixes: list[str] = []
        ranges: list[TerminalRange] = []
        for pattern in patterns:
            if not pattern.strip() or not (pattern.isascii() and pattern.isprintable()):
                raise ValueError(f"{pattern!r} names no terminal: use printable ASCII characters")
            if pattern.endswith("*") and len(pattern) <= TERMINAL_ID_CHARS:
                prefixes.append(pattern[:-1])
            elif len(pattern) <= TERMINAL_ID_CHARS:
                ids.add(padded(pattern))
            else:
                ranges.append(TerminalRange.parse(pattern))
        return cls(frozenset(ids), tuple(prefixes), tuple(ranges))

    def __contains__(self, terminal_id: object) -> bool:
        return (
            terminal_id in self.ids
            or (isinstance(terminal_id, str) and terminal_id.startswith(self.prefixes))
            or any(terminal_id in range_ for range_ in self.ranges)
        )


@dataclass(frozen=True, slots=True)
class MerchantSet:
    """The merchant ids that some patterns name; blanks that pad one to 15 do not count."""

    ids: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> MerchantSet:
        """The set that ids (`M0000001`) and prefixes (`M00*`) name together.

        Raises ValueError where a pattern is neither.
        """
        ids: set[str] = set()
        prefixes: list[str] = []
        for pattern in patterns:
            name = pattern.removesuffix("*")
            if (
                not pattern.strip()
                or not (pattern.isascii() and pattern.isprintable())
                or "*" in name
                or len(name) > MERCHANT_ID_CHARS_MAX
            ):
                raise ValueError(
                    f"{pattern!r} names no merchant: write up to {MERCHANT_ID_CHARS_MAX}"
                    ' characters ("M0000001"), or the first of them and * ("M00*")'
                )
            if pattern.endswith("*"):
                prefixes.append(name)
            else:
                ids.add(pattern.rstrip())
        return cls(frozenset(ids), tuple(prefixes))

    def __contains__(self, merchant_id: object) -> bool:
        return isinstance(merchant_id, str) and (
            merchant_id.rstrip() in self.ids or merchant_id.startswith(self.prefixes)
        )
