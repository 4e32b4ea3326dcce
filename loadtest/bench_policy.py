"""What blocklists of a million cards and 100,000 BIN ranges cost: to load, to hold, to ask."""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import TypeVar

from gateway.policy.blockfiles import Parsed, assemble, parse, written_token
from gateway.policy.blocklists import EMPTY, Blocklists, ListName
from gateway.policy.decide import Policy, Subject
from gateway.policy.permissions import Permissions
from gateway.settings.schema_policy import Limit, Profile
from gateway.wire.message import Kind, Message

T = TypeVar("T")

_ROUNDS = 15
_ASKED = 2_000
_SAMPLE = "sample"
_DAY_MS = 1_763_700_000_000
_PAGE_BYTES = resource.getpagesize()
# What is promised of lists of the full size.
LOAD_S_MAX, MEMORY_MB_MAX, LOOK_UP_US_MAX = 5.0, 200.0, 3.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; times of the processor, the best of some rounds."""

    cards: int
    bins: int
    cards_load_s: float
    bins_load_s: float
    memory_mb: float  # more of the process, with both lists loaded
    memory_peak_mb: float  # the most it was on the way there
    card_found_us: float
    card_not_found_us: float
    bin_us: float
    decide_us: float  # no lists, no limits
    decide_listed_us: float  # with the lists
    decide_limited_us: float  # with the lists, and limits for device, merchant and card

    @property
    def load_s(self) -> float:
        return self.cards_load_s + self.bins_load_s

    @property
    def look_up_us(self) -> float:
        return max(self.card_found_us, self.card_not_found_us, self.bin_us)

    @property
    def kept(self) -> bool:
        """Whether the promises are."""
        return (
            self.load_s < LOAD_S_MAX
            and max(self.memory_mb, self.memory_peak_mb) < MEMORY_MB_MAX
            and self.look_up_us < LOOK_UP_US_MAX
        )


def measure(*, cards: int, bins: int, seed: int) -> Figures:
    """Make lists of this size, load them as the gateway does, and ask them."""
    with tempfile.TemporaryDirectory() as folder:
        # Made by another process: what it frees would pass for room that the lists do not need.
        maker = multiprocessing.get_context("spawn").Process(
            target=_write, args=(folder, cards, bins, seed)
        )
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit("the lists could not be made")
        texts = {name: Path(folder, name).read_bytes() for name in (ListName.CARDS, ListName.BINS)}
        sample = Path(folder, _SAMPLE).read_text().split()
    source = random.Random(seed + 1)
    before_mb = _resident_mb()
    card_s, card_list = _timed(partial(_parsed, ListName.CARDS, texts[ListName.CARDS]))
    peak_mb = _peak_mb() - before_mb
    bin_s, bin_list = _timed(partial(_parsed, ListName.BINS, texts[ListName.BINS]))
    peak_mb = max(peak_mb, _peak_mb() - before_mb)
    gc.collect()
    memory_mb = _resident_mb() - before_mb
    lists = assemble([card_list, bin_list])
    others = [_token(source) for _ in range(_ASKED)]
    pans = [f"{source.randrange(4 * 10**15, 10**16)}" for _ in range(_ASKED)]
    return Figures(
        cards=card_list.count,
        bins=bin_list.count,
        cards_load_s=card_s,
        bins_load_s=bin_s,
        memory_mb=memory_mb,
        memory_peak_mb=peak_mb,
        card_found_us=_each_us(partial(_ask_card, lists), sample),
        card_not_found_us=_each_us(partial(_ask_card, lists), others),
        bin_us=_each_us(partial(_ask_bin, lists), pans),
        decide_us=_decide_us(EMPTY, [], others),
        decide_listed_us=_decide_us(lists, [], others),
        decide_limited_us=_decide_us(lists, _limits(), others),
    )


def _write(folder: str, cards: int, bins: int, seed: int) -> None:
    source = random.Random(seed)
    listed = [_token(source) for _ in range(cards)]
    with Path(folder, ListName.CARDS).open("w") as file:
        file.writelines(f"{written_token(token)}\n" for token in listed)
    with Path(folder, ListName.BINS).open("w") as file:
        file.writelines(f'{one} reason="drill"\n' for one in _ranges(source, bins))
    Path(folder, _SAMPLE).write_text("\n".join(source.choices(listed, k=_ASKED)))


def _token(source: random.Random) -> str:
    return f"1:{source.getrandbits(128):032x}"


def _ranges(source: random.Random, count: int) -> Iterable[str]:
    """Four prefixes of 6 to 8 digits to each range within them; none twice."""
    seen: dict[str, None] = {}
    while len(seen) < count * 4 // 5:
        digits = source.choice((6, 7, 8))
        seen[f"{source.randrange(4 * 10 ** (digits - 1), 10**digits)}"] = None
    while len(seen) < count:
        first = source.randrange(4 * 10**8, 10**9 - 10_000)
        seen[f"{first}-{first + source.randrange(1, 9_999)}"] = None
    return seen


def _parsed(name: ListName, content: bytes) -> Parsed:
    parsed = parse(name, content, file=f"{name}.txt", zone=UTC)
    if parsed.problems:
        raise SystemExit("\n".join(map(str, parsed.problems)))
    return parsed


def _ask_card(lists: Blocklists, token: str) -> None:
    if lists.cards is not None:
        lists.cards.find(token, _DAY_MS)


def _ask_bin(lists: Blocklists, pan: str) -> None:
    if lists.bins is not None:
        lists.bins.find(pan, _DAY_MS)


def _limits() -> list[Limit]:
    return [
        Limit(per="device", window="day", count_max=10**9),
        Limit(per="merchant", window="day", currency="978", amount_max_minor=10**11),
        Limit(per="card", window="hour", count_max=10**9),
    ]


def _decide_us(lists: Blocklists, limits: Sequence[Limit], tokens: Sequence[str]) -> float:
    """A purchase that is allowed; each is another transaction."""
    profile = Profile(name="retail", kinds=[Kind.PURCHASE], limits=list(limits))
    policy = Policy(permissions=Permissions([profile]), version="bench", blocklists=lists)
    fields = {
        2: "3000000000000000",  # below every listed BIN
        3: "000000",
        4: "000000000100",
        11: "000001",
        22: "051",
        41: "T0000001",
        42: "M00000000000001",
        49: "978",
    }
    message = Message("0200", fields)
    ids = itertools.count(1)
    subjects = [
        Subject(
            message,
            Kind.PURCHASE,
            profile="retail",
            transaction_id=next(ids),
            wall_ms=_DAY_MS,
            card_token=token,
        )
        for token in tokens
    ]

    def renumber() -> None:
        for subject in subjects:
            subject.transaction_id = next(ids)

    return _each_us(policy.decide, subjects, before=renumber)


def _each_us(
    ask: Callable[[T], object], values: Sequence[T], *, before: Callable[[], None] = lambda: None
) -> float:
    best_s = float("inf")
    for _ in range(_ROUNDS):
        before()
        spent_s, _ = _timed(partial(_ask_all, ask, values))
        best_s = min(best_s, spent_s)
    return best_s / len(values) * 1e6


def _ask_all(ask: Callable[[T], object], values: Sequence[T]) -> None:
    for value in values:
        ask(value)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the processor: beside others on the machine the clock on the wall says less."""
    started_s = time.process_time()
    done = work()
    return time.process_time() - started_s, done


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / 1e6


def _report(figures: Figures) -> str:
    one = figures
    return f"""{one.cards:,} cards and {one.bins:,} BIN ranges
  load    {one.cards_load_s:.2f} s cards, {one.bins_load_s:.2f} s BINs (together < {LOAD_S_MAX:g})
  memory  {one.memory_mb:.1f} MB held, {one.memory_peak_mb:.1f} MB at most (< {MEMORY_MB_MAX:g})
  look-up {one.card_found_us:.2f} us a listed card, {one.card_not_found_us:.2f} us any other, \
{one.bin_us:.2f} us a BIN (< {LOOK_UP_US_MAX:g})
  decide  {one.decide_us:.2f} us without lists, {one.decide_listed_us:.2f} us with them, \
{one.decide_limited_us:.2f} us with three limits too
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=1_000_000)
    parser.add_argument("--bins", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(cards=arguments.cards, bins=arguments.bins, seed=arguments.seed)
    if arguments.json:
        said = asdict(figures) | {"kept": figures.kept}
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
    else:
        sys.stdout.write(_report(figures))
    raise SystemExit(not figures.kept)


if __name__ == "__main__":
    main()
