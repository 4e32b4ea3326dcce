"""What the store says was taken of limits, counted again when a node starts.

Counters are not written down: what they hold is what the transactions of their windows come to, and
those are on disk. So a payment costs no write more, and a crash can leave no counter that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway.policy.decide import Policy
from gateway.policy.limits import Use
from gateway.policy.response_codes import may_be_approved
from gateway.store.store import Spent, State, Store
from gateway.wire.message import VOID_KINDS

_AT_ONCE = 5_000
# Over, with a code that says how; all other states but these two may still have moved money.
_ANSWERED = frozenset((State.ANSWERED, State.DELIVERED))
_GIVEN_BACK = frozenset((State.NOTHING_SENT, State.REVERSED))


async def count_again(
    store: Store,
    policy: Policy,
    *,
    profile_of: Callable[[str], str | None],
    approving: Callable[[str], Collection[str]],
    now_ms: int,
) -> int:
    """Count the transactions of all open windows, by the rules that hold now; returns how many.

    To be finished before the first new request is taken. `profile_of` gives the profile of a
    terminal id, `approving` the codes that approve at an upstream. Raises StoreError.
    """
    since_ms = policy.limits_since_ms(now_ms)
    if since_ms is None:
        return 0
    counted = after_id = 0
    while found := await store.spent(since_ms=since_ms, after_id=after_id, limit=_AT_ONCE):
        after_id = found[-1].transaction_id
        for one in found:
            profile = profile_of(one.terminal_id)
            if profile is not None:
                counted += 1
                _count(one, policy, profile, approving(one.upstream), now_ms)
    return counted


def _count(
    one: Spent, policy: Policy, profile: str, approving: Collection[str], now_ms: int
) -> None:
    """As if it had been decided, and answered, just now."""
    answered = one.state in _ANSWERED
    if answered and not may_be_approved(one.response_code, approving):
        return
    if one.state in _GIVEN_BACK and one.left_minor < 0:
        return
    policy.count_again(
        Use(
            one.transaction_id,
            (one.terminal_id, one.merchant_id, one.card_token),
            one.currency,
            one.amount_minor,
        ),
        profile=profile,
        kind=one.kind,
        taken_ms=one.created_ms,
        now_ms=now_ms,
    )
    if one.state in _GIVEN_BACK:
        policy.give_back(one.transaction_id, left_minor=one.left_minor)
    if answered and one.kind in VOID_KINDS and one.response_code in approving:
        policy.voided(one.original_id, by=one.transaction_id)
