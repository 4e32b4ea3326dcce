"""Graves: what was reversed before it came, so that it is refused should it come yet."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

from gateway.store.store import PutTombstone, Store, Tombstone, Transaction

_DAY_MS = 86_400_000
_BITS_EACH = 16  # of the filter, for each tombstone that memory holds besides
_PROBES = 4  # with as many in the filter as in memory, one look in 400 goes to the store in vain


class Graves:
    """The tombstones of a store. Memory holds the newest; the store is the truth.

    Of the older ones a filter of fixed size says which cannot be meant, and for all others the
    store is asked: none is ever forgotten, and a request pays for a read only where it may matter.
    """

    def __init__(self, *, store: Store, count_max: int, keep_days: int) -> None:
        """`count_max`: how many are held in memory. `keep_days`: for how long one can matter."""
        self._store = store
        self._count_max = count_max
        self._keep_ms = keep_days * _DAY_MS
        self._newest: OrderedDict[str, None] = OrderedDict()
        self._older = _Filter(bits=count_max * _BITS_EACH)
        self._sought: Counter[str] = Counter()  # what a reversal is looking for just now

    async def restore(self, now_ms: int) -> None:
        """Take over the tombstones of earlier runs that can still matter. Raises StoreError."""
        for tombstone in await self._store.tombstones(now_ms - self._keep_ms):
            self._remember(tombstone.key_prefix)

    async def holds(self, draft: Transaction) -> bool:
        """Whether a reversal came for this request before the request itself, or is just coming.

        Raises StoreError.
        """
        if not self._newest and not self._sought:
            return False
        period = draft.repeat_key.partition("/")[0]
        name = grave(f"{period}/{draft.terminal_id}/{draft.stan}/", draft.activation)
        return name in self._sought or await self._is_known(name)

    @contextmanager
    def sought(self, prefixes: Iterable[str], activation: int) -> Iterator[list[str]]:
        """Refuse what comes with these keys while its reversal looks for it; yields the graves.

        An original that comes in this very moment would be missed, and forwarded all the same.
        """
        graves = [grave(prefix, activation) for prefix in prefixes]
        self._sought.update(graves)
        try:
            yield graves
        finally:
            self._sought.subtract(graves)
            for one in graves:
                if not self._sought[one]:
                    del self._sought[one]

    async def hold_any(self, graves: Iterable[str]) -> bool:
        """Whether there is a tombstone of one of these names. Raises StoreError."""
        for one in graves:
            if await self._is_known(one):
                return True
        return False

    async def bury(self, graves: Iterable[str], now_ms: int) -> None:
        """Refuse for good what comes with these keys; on return it is durable.

        Raises StoreError.
        """
        new = [one for one in graves if not await self._is_known(one)]
        if new:
            await self._store.commit(*[PutTombstone(Tombstone(one, now_ms)) for one in new])
        for one in new:
            self._remember(one)

    async def _is_known(self, name: str) -> bool:
        if name in self._newest:
            return True
        return name in self._older and await self._store.is_buried(name)

    def _remember(self, name: str) -> None:
        self._newest[name] = None
        if len(self._newest) > self._count_max:
            self._older.add(self._newest.popitem(last=False)[0])


def grave(key_prefix: str, activation: int) -> str:
    """The name of a tombstone: a device bound later starts its STANs anew and meets none."""
    return f"{key_prefix}#{activation}"


class _Filter:
    """A Bloom filter: what it does not contain was never added; the rest probably was."""

    def __init__(self, *, bits: int) -> None:
        self._bits = bits
        self._bytes: bytearray | None = None  # made with the first that is added

    def add(self, name: str) -> None:
        if self._bytes is None:
            self._bytes = bytearray(self._bits // 8 + 1)
        for bit in self._positions(name):
            self._bytes[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, name: str) -> bool:
        found = self._bytes
        return found is not None and all(
            found[bit >> 3] & 1 << (bit & 7) for bit in self._positions(name)
        )

    def _positions(self, name: str) -> list[int]:
        digest = blake2b(name.encode(), digest_size=8 * _PROBES).digest()
        return [
            int.from_bytes(digest[at : at + 8], "big") % self._bits
            for at in range(0, 8 * _PROBES, 8)
        ]
