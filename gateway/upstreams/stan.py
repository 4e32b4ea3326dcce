"""The STANs the gateway issues to one upstream: a ring that repeats none too soon (no I/O).

STANs 1 to 999,999 are issued in blocks of 1,000. A block is entered only after its reservation is
durable, and again only once `late_max_s` has passed since it was last left, so that no answer can
be taken for another's, restarts included. STANs that an owed reversal still names are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable

BLOCK = 1_000
BLOCKS = 1_000


class StanRing:
    """Issues STANs; its caller makes the reservations durable.

    `now_ms` is wall time, since reservations outlive the process.
    """

    def __init__(self, *, late_max_ms: int) -> None:
        self._late_max_ms = late_max_ms
        self._left_ms: dict[int, int] = {}  # block -> when it was last left
        self._reserved: list[int] = []  # blocks that may be entered next, in order
        self._block = -1  # the one being issued from; -1: none
        self._next = BLOCK  # offset in it
        self._newest = -1  # the block reserved last
        self._held: dict[int, int] = {}  # STAN -> how many still name it

    def use(self, *, late_max_ms: int) -> None:
        """Wait so long from now on before a block is entered again."""
        self._late_max_ms = late_max_ms

    def restore(self, blocks: Iterable[tuple[int, int]], *, now_ms: int) -> None:
        """Take over the reservations of earlier runs: (first STAN, when), in any order.

        Blocks are reserved one ahead, so a block was left at the latest when the one after next
        was reserved; for the last two that moment is not known, and now stands for it.
        """
        ordered = sorted(blocks, key=lambda entry: entry[1])
        for index, (first, _) in enumerate(ordered):
            left_ms = ordered[index + 2][1] if index + 2 < len(ordered) else now_ms
            block = first // BLOCK
            self._left_ms[block] = max(left_ms, self._left_ms.get(block, 0))
        if ordered:
            self._newest = ordered[-1][0] // BLOCK

    @property
    def has_any(self) -> bool:
        """Whether a STAN could be taken now."""
        return bool(self._reserved) or (self._block >= 0 and self._next < BLOCK)

    def wanted(self, now_ms: int) -> int | None:
        """The first STAN of the block to reserve now, or None if none is needed or free."""
        if self._reserved or (self._block >= 0 and self._next < BLOCK // 2):
            return None
        block = (self._newest + 1) % BLOCKS
        left_ms = self._left_ms.get(block)
        if block == self._block or (left_ms is not None and now_ms - left_ms <= self._late_max_ms):
            return None
        return block * BLOCK

    def reserved(self, first: int) -> None:
        """The reservation of the block that starts with `first` is durable."""
        self._newest = first // BLOCK
        self._reserved.append(self._newest)

    def take(self, now_ms: int) -> int | None:
        """The next STAN, or None while none may be issued."""
        while True:
            if self._next >= BLOCK:
                if not self._reserved:
                    return None
                if self._block >= 0:
                    self._left_ms[self._block] = now_ms
                self._block = self._reserved.pop(0)
                self._next = 0
            stan = self._block * BLOCK + self._next
            self._next += 1
            if stan and stan not in self._held:
                return stan

    def hold(self, stan: int) -> None:
        """Do not issue this STAN until it is released as often as it was held."""
        self._held[stan] = self._held.get(stan, 0) + 1

    def release(self, stan: int) -> None:
        count = self._held.get(stan, 0)
        if count > 1:
            self._held[stan] = count - 1
        else:
            self._held.pop(stan, None)
