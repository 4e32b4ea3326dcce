"""Reads a blocklist file: text to entries, or everything that is wrong with it, by line.

    # one entry a line; what follows a value is optional
    T0000001  until=2026-12-31 reason="lost in the post"   # a remark
    h1:MZXW6YTBOI5GCYTDMRSWMZ3INE  code=43 reason="reported stolen"

A problem never repeats what stands in the line: it could be a card number.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import tzinfo
from io import BytesIO
from ipaddress import ip_network
from operator import eq
from typing import TypeVar

from gateway.policy.bin_pieces import NESTED_MAX, cut
from gateway.policy.block_problems import CARD_NUMBER, Problem, Wrong, text_of, twice
from gateway.policy.block_remarks import Remarks
from gateway.policy.blocklists import (
    BIN_DIGITS,
    Bins,
    Blocklists,
    Cards,
    CardTable,
    Entries,
    ListName,
    Names,
    Networks,
)
from gateway.policy.card_numbers import holds_card_number

_WORD = (1 << 64) - 1
_INDEX = (1 << 32) - 1
E = TypeVar("E", Names, Cards, Bins, Networks)

_LINE_BYTES_MAX = 1_000
_NUMBER_BITS = 160  # a token's 128, and where it stands
_HEAP_BITS = 12
_ENDINGS_MAX = 10_000  # different endings of lines
_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # RFC 4648, table 3
_BASE32HEX = b"0123456789abcdefghijklmnopqrstuv"  # what int(…, 32) reads
# Every other byte becomes one that int() refuses.
_TO_BASE32HEX = bytes(
    _BASE32HEX[_BASE32.index(byte)] if byte in _BASE32 else ord("!") for byte in range(256)
)

# Printable characters alone: what a lost disk block leaves (zeros) names nobody.
_NAME = rb'(?:[^\x00-\x20"#=\x7f]+|"[^"\x00-\x1f\x7f]{1,40}")'
_VALUES = {
    ListName.TERMINALS: _NAME,
    ListName.MERCHANTS: _NAME,
    ListName.CARDS: rb"h[1-9][0-9]{0,4}:[A-Z2-7]{26}",
    ListName.BINS: rb"[0-9]{4,11}(?:-[0-9]{4,11})?",
    ListName.NETWORKS: rb"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?",
    ListName.CERTIFICATES: rb"(?:sha256|serial):[0-9A-Fa-f:]+",
}
_LINES = {name: re.compile(rb"(%b)(?:[ \t]+(.*))?" % value) for name, value in _VALUES.items()}
_TOKEN = re.compile(rb"(h([1-9][0-9]{0,4}):)[A-Z2-7]{26}")

_REMEDIES = {
    ListName.TERMINALS: "write a terminal id of up to 8 characters, in quotes if it has blanks",
    ListName.MERCHANTS: "write a merchant id of up to 15 characters, in quotes if it has blanks",
    ListName.CARDS: "write the card's token (h1:…), which `gateway block card` makes",
    ListName.BINS: "write the first 4 to 11 digits of the cards, or two such of one length: A-B",
    ListName.NETWORKS: "write a network such as 203.0.113.0/24 or 2001:db8::/32",
    ListName.CERTIFICATES: "write sha256: and 64 hex digits, or serial: and the number in hex",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file as read: its entries, or at least one problem."""

    name: ListName
    entries: Names | Cards | Bins | Networks | None  # None where there is a problem, or no entry
    count: int
    problems: tuple[Problem, ...]


def _in_order(numbers: list[int]) -> list[int]:
    """The numbers of cards, sorted.

    Not by one sort: of a million it takes a second in one step, in which no other thread runs, and
    the loop waits. Tokens are evenly spread, so that their first bits make small heaps.
    """
    heaps: list[list[int]] = [[] for _ in range(1 << _HEAP_BITS)]
    for number in numbers:
        heaps[number >> _NUMBER_BITS - _HEAP_BITS].append(number)
    for heap in heaps:
        heap.sort()
    return list(itertools.chain.from_iterable(heaps))


def parse(
    name: ListName,
    content: bytes,
    *,
    file: str,
    zone: tzinfo,
    entries_max: int = 5_000_000,
    problems_max: int = 50,
) -> Parsed:
    """The entries of a list; `until=` ends with that day in `zone`. Raises nothing."""
    reader = _Reader(name, file, zone, problems_max)
    if content and not content.endswith(b"\n"):
        # Half a number is a number too: 4111 blocks more than 411122.
        lines = content.count(b"\n") + 1
        reader.wrong(lines, "the last line does not end: it may be cut off", "end it with Enter")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.count(b"\n") > entries_max:
        reader.wrong(
            entries_max + 1, "has more lines than blocklists.entries_max", "raise that, or split it"
        )
    elif name is ListName.CARDS:
        reader.read_cards(content)
    else:
        for line, raw in enumerate(BytesIO(content), 1):
            reader.read(line, raw)
    entries = reader.entries() if reader.count else None
    problems = reader.problems()
    return Parsed(name, None if problems else entries, reader.count, problems)


def assemble(files: Iterable[Parsed]) -> Blocklists:
    """The lists of all files, none of which has a problem."""
    entries = {parsed.name: parsed.entries for parsed in files}

    def named(name: ListName, kind: type[E]) -> E | None:
        found = entries.get(name)
        return found if isinstance(found, kind) else None

    return Blocklists(
        terminals=named(ListName.TERMINALS, Names),
        cards=named(ListName.CARDS, Cards),
        bins=named(ListName.BINS, Bins),
        merchants=named(ListName.MERCHANTS, Names),
        networks=named(ListName.NETWORKS, Networks),
        certificates=named(ListName.CERTIFICATES, Names),
    )


def is_entry_of(name: ListName, raw: bytes, value: str) -> bool:
    """Whether a line is the entry of a value, however the two are written."""
    matched = _LINES[name].fullmatch(raw.strip())
    return matched is not None and _normal(name, matched[1]) == _normal(name, value.encode())


def _normal(name: ListName, value: bytes) -> object:
    """What two ways to write the same value have in common."""
    if name is ListName.NETWORKS:
        try:
            return ip_network(value.decode())
        except ValueError:
            return value
    if name is ListName.CERTIFICATES:
        form, _, digits = value.lower().partition(b":")
        return form, digits.replace(b":", b"").lstrip(b"0")
    return value.strip(b'"').rstrip()


def written_token(card_token: str) -> str:
    """A card token of the security module as the file has it: `h1:`, and 26 characters.

    Base32 and not hex: hardly ever do its digits look like a card number.
    """
    version, _, digest = card_token.partition(":")
    number = int(digest, 16) << 2
    text = bytes(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))
    return f"h{version}:{text.decode()}"


class _Reader:
    """Collects the entries and problems of one file."""

    def __init__(self, name: ListName, file: str, zone: tzinfo, problems_max: int) -> None:
        self._name = name
        self._file = file
        self._problems_max = problems_max
        self._problems: list[Problem] = []
        self._more = 0
        self._match = _LINES[name].fullmatch
        self._remarks = Remarks(name, zone)
        self._lines = array("I")
        self._kinds = array("I")
        # In order of the file: a word to each entry for cards and BINs, names for the others.
        self._names: dict[str, int] = {}
        self._numbers: dict[int, list[int]] = {}
        self._ranges: list[tuple[int, int]] = []
        self._networks: dict[tuple[int, int], dict[int, int]] = {}
        self._take: Callable[[int, bytes], None] = {
            ListName.TERMINALS: self._terminal,
            ListName.MERCHANTS: self._merchant,
            ListName.CARDS: self._card,
            ListName.BINS: self._bin,
            ListName.NETWORKS: self._network,
            ListName.CERTIFICATES: self._certificate,
        }[name]

    @property
    def count(self) -> int:
        return len(self._lines)

    def wrong(self, line: int, problem: str, remedy: str) -> None:
        if len(self._problems) < self._problems_max:
            self._problems.append(Problem(self._file, line, problem, remedy))
        else:
            self._more += 1

    def problems(self) -> tuple[Problem, ...]:
        """In order of the lines; what is beyond the bound is counted."""
        found = sorted(self._problems, key=lambda problem: problem.line)
        if self._more:
            last = found[-1].line
            found.append(
                Problem(self._file, last, f"and {self._more} more problems", "mend these first")
            )
        return tuple(found)

    def read_cards(self, content: bytes) -> None:
        """The lines of a file of cards; those that end like one before them the short way.

        There may be millions, and `read` takes more than twice as long.
        """
        lines, kinds = self._lines, self._kinds
        head, start, end = b"h", 0, 0
        endings: dict[bytes, int] = {}
        numbers: list[int] = []
        for line, raw in enumerate(BytesIO(content), 1):
            kind = endings.get(raw[end:])
            if kind is not None and raw.startswith(head):
                try:
                    number = int(raw[start:end].translate(_TO_BASE32HEX), 32)
                except ValueError:
                    number = 1
                if not number & 3:
                    numbers.append(number >> 2 << 32 | len(lines))
                    lines.append(line)
                    kinds.append(kind)
                    continue
            before = len(lines)
            self.read(line, raw)
            token = _TOKEN.match(raw)
            if token is not None and len(lines) > before:
                head, start, end = token[1], token.end(1), token.end()
                numbers = self._numbers[int(token[2])]
                if len(endings) < _ENDINGS_MAX:
                    endings[raw[end:]] = kinds[-1]

    def read(self, line: int, raw: bytes) -> None:
        """One line of the file."""
        try:
            self._read(line, raw.strip())
        except Wrong as wrong:
            is_card = holds_card_number(raw.decode("utf-8", "replace"))
            self.wrong(line, *(CARD_NUMBER if is_card else (wrong.problem, wrong.remedy)))

    def _read(self, line: int, raw: bytes) -> None:
        if not raw:
            return
        if raw[0] == ord("#"):
            self._remarks.number(raw)
            return
        if len(raw) > _LINE_BYTES_MAX:
            raise Wrong(f"is longer than {_LINE_BYTES_MAX} bytes", "write one entry to a line")
        matched = self._match(raw)
        if matched is None:
            raise Wrong(f"is no entry of {self._name}", _REMEDIES[self._name])
        value, rest = matched.groups()
        kind = self._remarks.number(rest) if rest else 0
        self._take(line, value)
        self._lines.append(line)
        self._kinds.append(kind)

    # --- values ------------------------------------------------------------------------------

    def _terminal(self, line: int, value: bytes) -> None:
        self._name_of(line, value, chars_max=8)

    def _merchant(self, line: int, value: bytes) -> None:
        self._name_of(line, value, chars_max=15)

    def _name_of(self, line: int, value: bytes, *, chars_max: int) -> None:
        text = text_of(value).strip('"').rstrip()
        # Merchant ids of UnionPay are 15 digits: they cannot be told from a card number.
        if len(text) != chars_max and holds_card_number(text):
            raise Wrong(*CARD_NUMBER)
        if not 1 <= len(text) <= chars_max or not text.isascii():
            raise Wrong(f"is no entry of {self._name}", _REMEDIES[self._name])
        self._once(line, text)

    def _once(self, line: int, name: str) -> None:
        first = self._names.setdefault(name, self.count)
        if first != self.count:
            raise twice(self._lines[first])

    def _certificate(self, line: int, value: bytes) -> None:
        form, _, digits = value.decode().lower().partition(":")
        plain = digits.replace(":", "")
        if form == "sha256" and len(plain) == 64:
            self._once(line, f"sha256:{plain}")
            return
        if digits.isdigit() and holds_card_number(digits):
            remedy = "if it is a serial number, write it in pairs: serial:0a:1b:…"
            raise Wrong(CARD_NUMBER[0], remedy)
        if form != "serial" or not 1 <= len(plain) <= 40:
            raise Wrong("is no entry of certificates", _REMEDIES[ListName.CERTIFICATES])
        self._once(line, f"serial:{int(plain, 16):x}")

    def _card(self, line: int, value: bytes) -> None:
        version, _, digits = value.partition(b":")
        number = int(digits.translate(_TO_BASE32HEX), 32)
        if number & 3:  # 26 characters hold 130 bits, of which the last two are none
            raise Wrong("is no token: its last character is wrong", _REMEDIES[ListName.CARDS])
        # One word for sorting: the token, then where it stands.
        self._numbers.setdefault(int(version[1:]), []).append(number >> 2 << 32 | self.count)

    def _bin(self, line: int, value: bytes) -> None:
        low, dash, high = value.decode().partition("-")
        if dash and (len(low) != len(high) or high < low):
            raise Wrong("is no range of BINs", "write two of one length, the lower one first")
        self._ranges.append(
            (int(low.ljust(BIN_DIGITS, "0")), int((high or low).ljust(BIN_DIGITS, "9")))
        )

    def _network(self, line: int, value: bytes) -> None:
        try:
            network = ip_network(value.decode())
        except ValueError:
            raise Wrong(
                "is no network, or has bits set behind its length", _REMEDIES[ListName.NETWORKS]
            ) from None
        table = self._networks.setdefault((network.version, network.prefixlen), {})
        number = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
        first = table.setdefault(number, self.count)
        if first != self.count:
            raise twice(self._lines[first])

    # --- all of it -----------------------------------------------------------------------------

    def entries(self) -> Names | Cards | Bins | Networks:
        if self._name is ListName.CARDS:
            return self._cards()
        if self._name is ListName.BINS:
            return self._bins()
        everything = Entries(self._file, self._lines, self._kinds, self._remarks.details)
        if self._name is ListName.NETWORKS:
            return Networks(self._networks, everything)
        return Names(self._names, everything)

    def _cards(self) -> Cards:
        tables = {}
        details = self._remarks.details
        while self._numbers:
            version, numbers = self._numbers.popitem()
            numbers = _in_order(numbers)
            highs = array("Q", [number >> 96 for number in numbers])
            lows = array("Q", [number >> 32 & _WORD for number in numbers])
            lines = array("I", [self._lines[number & _INDEX] for number in numbers])
            kinds = array("I", [self._kinds[number & _INDEX] for number in numbers])
            # Where the upper words are equal, which by chance they never are, a token is twice.
            for index in itertools.compress(
                itertools.count(1), map(eq, highs, itertools.islice(highs, 1, None))
            ):
                if lows[index] == lows[index - 1]:
                    self._say_twice(lines[index - 1], lines[index])
            tables[version] = CardTable(highs, lows, Entries(self._file, lines, kinds, details))
        return Cards(tables)

    def _say_twice(self, first: int, line: int) -> None:
        wrong = twice(first)
        self.wrong(line, wrong.problem, wrong.remedy)

    def _bins(self) -> Bins:
        entries = Entries(self._file, self._lines, self._kinds, self._remarks.details)
        ranges = self._ranges
        seen: dict[tuple[int, int], int] = {}
        for index, ends in enumerate(ranges):
            first = seen.setdefault(ends, index)
            if first != index:
                self._say_twice(self._lines[first], self._lines[index])
        bins, one_too_many = cut(ranges, entries)
        if one_too_many is not None:
            self.wrong(
                self._lines[one_too_many],
                f"more than {NESTED_MAX} entries lie over each other here",
                "remove those that others hold already",
            )
        return bins
