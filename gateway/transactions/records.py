"""What is written of a transaction: its draft, its plan, its outcome, and what is sealed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

import trio

from gateway.clock import Clock
from gateway.errors import KeyUnavailable, StoreError
from gateway.keys.security_module import SecurityModule
from gateway.store.store import Operation, OweReversal, Settle, State, Store, Transaction
from gateway.transactions import duplicates, images, replies
from gateway.transactions.request import Request
from gateway.wire.message import (
    APPROVAL_CODE,
    CURRENCY,
    FOLLOWING_KINDS,
    MERCHANT_ID,
    RESPONSE_CODE,
    RRN,
    STAN,
    TERMINAL_ID,
    Message,
    mask_pan,
)

_RETRY_S = 0.5


class Records:
    """Makes the records of transactions and has the store keep them."""

    def __init__(
        self,
        *,
        store: Store,
        security: SecurityModule,
        clock: Clock,
        transaction_ids: Iterator[int],
        config_version: str,
    ) -> None:
        self.store = store
        self._security = security
        self._clock = clock
        self._ids = transaction_ids
        self._config_version = config_version
        # What must be written though the store failed just then. Bounded by what was under way
        # when it began to fail: nothing new is taken on meanwhile.
        self._unwritten: deque[Operation] = deque()
        self._unwritten_wanted = trio.Event()

    # --- before anything is sent ----------------------------------------------------------

    def draft(self, request: Request, key: str, *, batch: int) -> Transaction:
        """The record of a request as far as it is known before a route is taken."""
        message = request.message
        fields = message.fields
        security, pan = self._security, message.pan
        content = duplicates.content_of(message, follows=request.kind in FOLLOWING_KINDS).encode()
        return Transaction(
            transaction_id=next(self._ids),
            repeat_key=key,
            content=security.content_hash(content),
            created_ms=request.wall_ms,
            terminal_id=fields.get(TERMINAL_ID, ""),
            merchant_id=fields.get(MERCHANT_ID, ""),
            activation=request.device.activation,
            kind=request.kind,
            mti=message.mti,
            stan=fields.get(STAN, ""),
            rrn=fields.get(RRN, ""),
            amount_minor=message.amount_minor or 0,
            currency=fields.get(CURRENCY, ""),
            card_masked=mask_pan(pan),
            card_token=security.card_token(pan) if pan else "",
            upstream="",
            upstream_stan=0,
            config_version=self._config_version,
            image=b"",
            batch=batch,
            former_card_tokens=security.former_card_tokens(pan) if pan else (),
            former_contents=security.former_content_hashes(content),
        )

    def card_token(self, message: Message) -> str:
        """What stands for the card of a message; empty where it names none."""
        pan = message.pan
        return self._security.card_token(pan) if pan else ""

    def former_card_tokens(self, message: Message) -> tuple[str, ...]:
        """The same under former versions of the key: what was noted before it was rotated."""
        pan = message.pan
        return self._security.former_card_tokens(pan) if pan else ()

    def plan(
        self,
        draft: Transaction,
        message: Message,
        *,
        upstream: str,
        stan: int,
        outgoing: Message,
        told: images.Told,
        dialect: str = "",
    ) -> None:
        """Add the route, and what a reversal or an advice would need of the request.

        That is kept with the terminal's STAN and RRN: what the upstream knows it by is the record's
        own, since the request may yet move to another one. `told`: what each that it may move to is
        told otherwise. `dialect` is the terminal's.
        """
        draft.upstream = upstream
        draft.upstream_stan = stan
        draft.rrn = outgoing.rrn
        kept = Message(outgoing.mti, message.fields)
        draft.image = self._security.seal(
            images.pack_request(kept, told, dialect),
            context=images.context_of(draft.transaction_id),
        )

    # --- the outcome ----------------------------------------------------------------------

    def outcome(
        self, transaction: Transaction, state: State, reply: Message, *, wipe_image: bool
    ) -> Settle:
        """The operation that makes an outcome durable: the answer as the terminal gets it."""
        fields = reply.fields
        return Settle(
            transaction.transaction_id,
            state,
            fields.get(RESPONSE_CODE, ""),
            fields.get(APPROVAL_CODE, ""),
            self.sealed_answer(transaction.transaction_id, reply),
            self._clock.wall_ms(),
            wipe_image,
            fields.get(RRN, ""),
        )

    def sealed_answer(self, transaction_id: int, reply: Message) -> bytes:
        """The answer as it is kept; nothing of it where the key fails, since its code, approval
        code and RRN are kept beside it: an outcome must not be lost for want of a key."""
        try:
            return self._security.seal(
                images.pack_answer(reply), context=images.context_of(transaction_id)
            )
        except KeyUnavailable:
            return b""

    def answer_of(self, transaction: Transaction, request: Message) -> Message | None:
        """The answer that a request was given; None where it was given none."""
        with contextlib.suppress(KeyUnavailable):
            answer = self._opened(transaction, transaction.answer)
            if answer is not None:
                return answer
        if not transaction.response_code:
            return None
        return replies.remembered(
            request,
            transaction.response_code,
            approval_code=transaction.approval_code,
            rrn=transaction.rrn,
        )

    def request_of(self, transaction: Transaction) -> Message | None:
        """The request, as far as it is kept, with the terminal's STAN; None once it is wiped.

        Raises KeyUnavailable.
        """
        return self._opened(transaction, transaction.image)

    def told_of(self, transaction: Transaction) -> dict[int, str | None] | None:
        """What its upstream was told otherwise than the terminal said; None where it is not kept.

        Raises KeyUnavailable.
        """
        if not transaction.image:
            return None
        context = images.context_of(transaction.transaction_id)
        image = self._security.unseal(transaction.image, context=context)
        return images.unpack_told(image, transaction.upstream)

    def dialect_of(self, transaction: Transaction) -> str:
        """The dialect of its terminal; empty where it is not kept. Raises KeyUnavailable."""
        if not transaction.image:
            return ""
        context = images.context_of(transaction.transaction_id)
        return images.unpack_dialect(self._security.unseal(transaction.image, context=context))

    def _opened(self, transaction: Transaction, sealed: bytes) -> Message | None:
        if not sealed:
            return None
        context = images.context_of(transaction.transaction_id)
        return images.unpack(self._security.unseal(sealed, context=context))

    # --- what must be written -------------------------------------------------------------

    @property
    def unwritten(self) -> int:
        """How many operations wait in memory for the store to work again."""
        return len(self._unwritten)

    async def write_regardless(self, operation: Operation) -> None:
        """Make it durable now or, where the store fails, as soon as it works again.

        For what cannot be refused any more, since it has happened. Until it is written, the intent
        on disk stands for it: a crash finds it without an outcome.
        """
        try:
            await self.store.commit(operation)
        except StoreError:
            self._unwritten.append(operation)
            self._unwritten_wanted.set()

    async def catch_up(self, transaction_id: int = 0) -> None:
        """Write what waits to be written about a transaction, or all of it; raises StoreError.

        Whoever is about to change it does so first: written after that it would undo the change.
        """
        about = [one for one in self._unwritten if transaction_id in (0, _about(one))]
        for operation in about:
            await self.store.commit(operation)
            with contextlib.suppress(ValueError):  # written meanwhile
                self._unwritten.remove(operation)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what could not be written, until cancelled."""
        task_status.started()
        while True:
            await self._unwritten_wanted.wait()
            self._unwritten_wanted = trio.Event()
            while self._unwritten:
                operation = self._unwritten[0]
                try:
                    await self.store.commit(operation)
                except StoreError:
                    # The next one's turn: should the store never take this one, it alone waits.
                    self._unwritten.rotate(-1)
                    await trio.sleep(_RETRY_S)
                else:
                    with contextlib.suppress(ValueError):
                        self._unwritten.remove(operation)


def _about(operation: Operation) -> int:
    """The transaction that an outcome or a debt is about; 0 for anything else."""
    return operation.transaction_id if isinstance(operation, Settle | OweReversal) else 0
