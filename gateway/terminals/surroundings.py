"""What the steps of a device's life need of the node around them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.policy.response_codes import may_be_approved
from gateway.store.store import Device, State, Store, Transaction
from gateway.terminals.registry import Registry
from gateway.transactions.open_batches import OpenBatches

_ANSWERED = (State.ANSWERED, State.DELIVERED)


def _no_keys(_owner: str, _at_ms: int) -> None:
    """Nothing holds keys in memory where no daemon runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The registry, the store, and what is known of the moment; without a daemon, of none."""

    registry: Registry
    store: Store
    batches: OpenBatches
    clock: Clock
    approving: Callable[[str], Collection[str]]  # of an upstream: the codes that approve
    # Told of an owner whose keys the store has destroyed: whatever holds them forgets them.
    keys_destroyed: Callable[[str, int], object] = _no_keys
    # How many keys of an owner are not destroyed; None: the store is asked.
    keys_kept: Callable[[str], int] | None = None
    # The certificates that open connections of a terminal have shown.
    certificates_of: Callable[[str], Collection[str]] = lambda _: ()
    # Whether a transaction of a terminal is under way.
    busy: Callable[[str], bool] = lambda _: False

    def stands(self, transaction: Transaction) -> bool:
        """Whether it is approved, or may be, and nothing undoes it."""
        return transaction.state in _ANSWERED and may_be_approved(
            transaction.response_code, self.approving(transaction.upstream)
        )

    def owners_to_destroy(self, device: Device) -> list[str]:
        """The terminal ids whose keys end with a device: not those that another one uses."""
        used = {
            one.keyed_as
            for one in self.registry.rows()
            if one.terminal_id != device.terminal_id and one.keys_of
        }
        owners = dict.fromkeys((device.keyed_as, device.terminal_id))
        return [owner for owner in owners if owner not in used]
