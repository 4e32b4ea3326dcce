"""Blocklists in memory: is this terminal, card, BIN, merchant, network or certificate blocked?

The largest lists are sorted arrays of machine words: a million cards take some thirty megabytes,
and being found costs a bisection. What an entry says beside its value (until when, why, with which
code) is kept once for all entries that say the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

BIN_DIGITS = 11
_WORD = (1 << 64) - 1
_STRETCHES = 10_000
_STRETCH = 10**BIN_DIGITS // _STRETCHES


class ListName(StrEnum):
    """The lists; the file of each is called so, with .txt."""

    TERMINALS = "terminals"
    CARDS = "cards"
    BINS = "bins"
    MERCHANTS = "merchants"
    NETWORKS = "networks"
    CERTIFICATES = "certificates"


@dataclass(frozen=True, slots=True)
class Detail:
    """What stands beside a value."""

    ends_ms: int = 0  # the entry holds before this moment; 0: for ever
    reason: str = ""
    code: str = ""  # DE39; "": the list's own


class Hit(NamedTuple):
    """The entry that blocks."""

    file: str
    line: int
    reason: str
    code: str

    @property
    def rule(self) -> str:
        """The entry as people are told of it: `blocklists/cards.txt:17 (reported stolen)`."""
        return f"{self.file}:{self.line}" + (f" ({self.reason})" if self.reason else "")


class Entries:
    """Where each entry of a file stands, and what it says; by the number it was read under."""

    __slots__ = ("_details", "_file", "_kinds", "_lines")

    def __init__(
        self, file: str, lines: Sequence[int], kinds: Sequence[int], details: Sequence[Detail]
    ) -> None:
        """`kinds` holds, for each entry, the index of its detail."""
        self._file = file
        self._lines = array("I", lines)
        self._kinds = array("I", kinds)
        self._details = tuple(details)

    def __len__(self) -> int:
        return len(self._lines)

    def hit(self, index: int, now_ms: int) -> Hit | None:
        """The entry, or None where its time is over."""
        detail = self._details[self._kinds[index]]
        if detail.ends_ms and now_ms >= detail.ends_ms:
            return None
        return Hit(self._file, self._lines[index], detail.reason, detail.code)

    def is_for_ever(self, index: int) -> bool:
        return not self._details[self._kinds[index]].ends_ms


class Names:
    """Terminals, merchants or certificates: values that are equal or not."""

    __slots__ = ("_entries", "_indexes")

    def __init__(self, indexes: Mapping[str, int], entries: Entries) -> None:
        self._indexes = indexes
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str, now_ms: int) -> Hit | None:
        index = self._indexes.get(name)
        return None if index is None else self._entries.hit(index, now_ms)


class CardTable:
    """Card tokens of 128 bits under one version of their key, as two arrays of words.

    Tokens are spread evenly, so their upper bits say in which short stretch each can only be.
    """

    __slots__ = ("_entries", "_highs", "_lows", "_shift", "_stretches")

    def __init__(self, highs: array[int], lows: array[int], entries: Entries) -> None:
        """The upper and the lower words, sorted by token, and the entries in that order."""
        self._highs = highs
        self._lows = lows
        self._entries = entries
        bits = max(len(highs).bit_length() - 3, 0)
        self._shift = 64 - bits
        self._stretches = array(
            "I", (bisect_left(highs, number << self._shift) for number in range(1 << bits))
        )
        self._stretches.append(len(highs))

    def __len__(self) -> int:
        return len(self._highs)

    def find(self, digest: str, now_ms: int) -> Hit | None:
        number = int(digest, 16)
        high = number >> 64
        stretch = high >> self._shift
        first, end = self._stretches[stretch], self._stretches[stretch + 1]
        index = bisect_left(self._highs, high, first, end)
        while index < end and self._highs[index] == high:
            if self._lows[index] == number & _WORD:
                return self._entries.hit(index, now_ms)
            index += 1
        return None


class Cards:
    """Card tokens, by the version of the key that they were made under."""

    __slots__ = ("_tables",)

    def __init__(self, tables: Mapping[int, CardTable]) -> None:
        self._tables = {str(version): table for version, table in tables.items()}

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    @property
    def versions(self) -> list[int]:
        """The versions of the key that entries were made under."""
        return sorted(map(int, self._tables))

    def find(self, card_token: str, now_ms: int) -> Hit | None:
        """The entry of a token as the security module writes it: `1:`, and 32 hex digits."""
        version, _, digest = card_token.partition(":")
        table = self._tables.get(version)
        return None if table is None else table.find(digest, now_ms)


class Bins:
    """Ranges of card numbers' first eleven digits, nested or overlapping; the narrowest decides.

    The ranges are cut at every end of another, so that one bisection finds the piece. A piece knows
    its narrowest range and, where that one ends some day, those that then take its place.
    """

    __slots__ = ("_entries", "_firsts", "_following", "_narrowest", "_stretches")

    def __init__(
        self,
        firsts: Sequence[int],
        narrowest: array[int],
        following: Mapping[int, tuple[int, ...]],
        entries: Entries,
    ) -> None:
        """Pieces by their first number, ascending; -1 as the narrowest: nothing is listed there."""
        self._firsts = firsts
        # Which pieces the first four digits leave to be looked through.
        self._stretches = array(
            "I", (bisect_left(firsts, number * _STRETCH) for number in range(_STRETCHES + 1))
        )
        self._narrowest = narrowest
        self._following = following
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, pan: str, now_ms: int) -> Hit | None:
        digits = pan[:BIN_DIGITS]
        if len(digits) < BIN_DIGITS or not (digits.isascii() and digits.isdigit()):
            return None
        number = int(digits)
        stretch = number // _STRETCH
        first, end = self._stretches[stretch], self._stretches[stretch + 1]
        piece = bisect_right(self._firsts, number, first, end) - 1
        if piece < 0:
            return None
        index = self._narrowest[piece]
        if index < 0:
            return None
        found = self._entries.hit(index, now_ms)
        if found is None:
            for other in self._following.get(piece, ()):
                found = self._entries.hit(other, now_ms)
                if found is not None:
                    break
        return found


class Networks:
    """IPv4 and IPv6 networks; the smallest that an address is in decides."""

    __slots__ = ("_entries", "_tables")

    def __init__(
        self, tables: Mapping[tuple[int, int], Mapping[int, int]], entries: Entries
    ) -> None:
        """(IP version, length of the prefix) -> the network's number -> its entry."""
        self._tables = sorted(tables.items(), key=lambda table: -table[0][1])
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, address: str, now_ms: int) -> Hit | None:
        """The entry that a peer's address is in; text that is no address is in none."""
        parsed = _address(address)
        if parsed is None:
            return None
        number, bits = int(parsed), parsed.max_prefixlen
        for (version, length), networks in self._tables:
            if version == parsed.version:
                index = networks.get(number >> (bits - length))
                found = None if index is None else self._entries.hit(index, now_ms)
                if found is not None:
                    return found
        return None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as it is meant: an IPv4 one that came through an IPv6 socket is IPv4."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


@dataclass(frozen=True, slots=True)
class Blocklists:
    """All lists under one version; None stands for one that is empty or not there."""

    terminals: Names | None = None
    cards: Cards | None = None
    bins: Bins | None = None
    merchants: Names | None = None
    networks: Networks | None = None
    certificates: Names | None = None

    def sizes(self) -> dict[ListName, int]:
        """How many entries each list has."""
        return {name: len(getattr(self, name.value) or ()) for name in ListName}

    def terminal(self, terminal_id: str, now_ms: int) -> Hit | None:
        return self.terminals.find(terminal_id.rstrip(), now_ms) if self.terminals else None

    def merchant(self, merchant_id: str, now_ms: int) -> Hit | None:
        return self.merchants.find(merchant_id.rstrip(), now_ms) if self.merchants else None

    def network(self, address: str, now_ms: int) -> Hit | None:
        return self.networks.find(address, now_ms) if self.networks else None

    def certificate(self, *, sha256: str, serial: int, now_ms: int) -> Hit | None:
        """By the hex SHA-256 of its DER, or by its serial number; "" and 0 where not known."""
        if self.certificates is None:
            return None
        found = self.certificates.find(f"sha256:{sha256.lower()}", now_ms)
        return found or self.certificates.find(f"serial:{serial:x}", now_ms)


EMPTY = Blocklists()
