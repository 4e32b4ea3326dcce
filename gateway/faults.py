"""Deliberate faults, so that the harnesses that prove the money rules can be shown to fail.

Switched on by the environment variable GATEWAY_TEST_FAULT alone, refused where `node.production` is
set, and told in the log. Each breaks one promise on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from typing import Any

import trio

from gateway.errors import InDoubt, NotSent, OperatorError
from gateway.store.store import (
    MarkManyDelivered,
    Operation,
    OwedReversal,
    Settle,
    Store,
    Transaction,
)
from gateway.transactions.reversals import Reversals
from gateway.upstreams.upstream import Upstream
from gateway.wire.message import Kind, Message

VARIABLE = "GATEWAY_TEST_FAULT"
_WRITE_LATER_S = 0.5


class Fault(StrEnum):
    NONE = ""
    ACK_BEFORE_WRITE = "ack-before-write"
    RESEND_AFTER_SEND = "resend-after-send"
    ACCEPT_25_AT_ONCE = "accept-25-at-once"
    KEEP_NOTHING = "keep-nothing"  # what durability costs is measured against this


def wanted(environment: Mapping[str, str], *, production: bool) -> Fault:
    """The fault that the environment asks for; raises OperatorError where it may not."""
    text = environment.get(VARIABLE, "")
    try:
        fault = Fault(text)
    except ValueError:
        names = ", ".join(one.value for one in Fault if one.value)
        raise OperatorError(
            f"{VARIABLE}={text}: there is no such fault; there are {names}"
        ) from None
    if fault is not Fault.NONE and production:
        raise OperatorError(f"{VARIABLE} is set, and node.production forbids it: unset it")
    return fault


class HastyStore:
    """Says that it is done at once, and writes a while later: a crash loses what was promised."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def intend(self, transaction: Transaction) -> Transaction | None:
        await trio.lowlevel.checkpoint()
        trio.lowlevel.spawn_system_task(self._later, partial(self._store.intend, transaction))
        return None

    async def commit(self, *operations: Operation) -> None:
        await trio.lowlevel.checkpoint()
        trio.lowlevel.spawn_system_task(self._later, partial(self._store.commit, *operations))

    @staticmethod
    async def _later(write: Any) -> None:
        await trio.sleep(_WRITE_LATER_S)
        await write()


class ForgetfulStore:
    """Keeps no transaction at all, and everything else as it should."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def intend(self, transaction: Transaction) -> Transaction | None:
        await trio.lowlevel.checkpoint()
        return None

    async def commit(self, *operations: Operation) -> None:
        kept = [one for one in operations if not isinstance(one, Settle)]
        if kept:
            await self._store.commit(*kept)
        else:
            await trio.lowlevel.checkpoint()

    def post(self, operation: Operation) -> None:
        if not isinstance(operation, MarkManyDelivered):
            self._store.post(operation)


class ResendingUpstream(Upstream):
    """Says "not sent" of what may have been sent, so that it goes to another upstream as well."""

    async def ask(self, request: Message, *, transaction_id: int, kind: Kind) -> Message:
        try:
            return await super().ask(request, transaction_id=transaction_id, kind=kind)
        except InDoubt as error:
            raise NotSent(str(error)) from error


class CredulousReversals(Reversals):
    """Takes 25 for the end of a reversal though its original may still be on its way."""

    async def _verdict(
        self, upstream: Upstream, owed: OwedReversal, transaction: Transaction, code: str
    ) -> OwedReversal | None:
        if code == "25":
            await self._done(upstream, owed, transaction, code)
            return None
        return await super()._verdict(upstream, owed, transaction, code)
