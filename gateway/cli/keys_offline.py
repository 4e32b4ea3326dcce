"""Operations on keys where no daemon runs: over the keyring's file and the store."""

from __future__ import annotations

from functools import partial

import trio

from gateway.admin.key_room import KeyRoom
from gateway.admin.keys import KeyOperations
from gateway.cli.key_prompts import ask_kek
from gateway.clock import SystemClock
from gateway.keys.holdings import KeyHoldings
from gateway.keys.kek_settings import open_own_keys
from gateway.settings.loader import Configuration
from gateway.store.store import Store
from gateway.telemetry.events import Event


async def key_operations(store: Store, configuration: Configuration) -> KeyOperations:
    """The operations, over what the daemon would open; raises OperatorError and StoreError."""
    settings = configuration.settings
    clock = SystemClock()
    own = await trio.to_thread.run_sync(
        partial(
            open_own_keys,
            settings.keys,
            configuration.resolve,
            now_ms=clock.wall_ms(),
            ask=ask_kek,
        )
    )
    holdings = KeyHoldings.over(own, await store.keys(), keys_max=settings.keys.keys_max)
    enrolled = {device.terminal_id.rstrip() for device in await store.devices()}
    room = KeyRoom(
        holdings=holdings,
        store=store,
        clock=clock,
        settings=lambda: settings.keys,
        emit=_unheard,
        production=settings.node.production,
    )
    return KeyOperations(
        room,
        resolve=configuration.resolve,
        is_enrolled=lambda terminal_id: terminal_id in enrolled,
        emit=_unheard,
    )


def _unheard(event: Event, /, **fields: object) -> None:
    """No daemon runs whose log this could go to; the command says itself what it did."""
