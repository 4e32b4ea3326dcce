"""Repeats: what a request repeats, if it repeats anything that still counts."""

from __future__ import annotations

from gateway.errors import StoreError
from gateway.store.store import FreeKey, Store, Transaction
from gateway.transactions import duplicates


class Repeats:
    """Finds the transaction that a request repeats, and makes intents of those that repeat none.

    A key with a date in it is one request's for ever. One with a batch number in its place may come
    again, with a terminal that counts its batches and STANs anew: after the window other content
    under the same key is another request. The same content stays a repeat as long as it is known:
    to take a late one for a new sale would sell twice.
    """

    def __init__(self, store: Store, *, window_ms: int) -> None:
        self._store = store
        self._window_ms = window_ms

    async def find(self, draft: Transaction) -> Transaction | None:
        """What this request repeats. Raises StoreError."""
        seen = await self._store.find_repeat(draft.repeat_key)
        return None if seen is None or self._has_outlived(seen, draft) else seen

    async def intend(self, draft: Transaction) -> Transaction | None:
        """Make the intent durable, or find what it repeats. Raises StoreError."""
        try:
            seen = await self._store.intend(draft)
            if seen is not None and self._has_outlived(seen, draft):
                await self._store.commit(FreeKey(seen.transaction_id))
                seen = await self._store.intend(draft)
        except StoreError:
            # What was answered before is answered again, as long as it can be read.
            seen = await self.find(draft)
            if seen is None or seen.transaction_id == draft.transaction_id:
                raise
        return seen

    def _has_outlived(self, seen: Transaction, draft: Transaction) -> bool:
        """Whether the window of this key is over, and another request comes under it."""
        return (
            draft.repeat_key.startswith(duplicates.BATCH_MARK)
            and draft.created_ms - seen.created_ms > self._window_ms
            and not duplicates.same_content(seen, draft)
        )
