"""Whatever is done to devices in whatever order: memory says what the store does, nobody shares a
certificate, and what counts in batches is neither lost nor counted twice."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import OperatorError
from gateway.store.store import DeviceState
from tests.support.device_lives import Shop, a_shop

STEPS = (
    "activate",
    "suspend",
    "resume",
    "lost",
    "stolen",
    "found",
    "replace",
    "keep_ids",
    "undo",
    "sell",
    "bind",
    "deregister",
)
# Most is done to the first, so that some of it can be.
ONE = st.sampled_from(("T1", "T1", "T1", "T2", "T3"))
OTHER = st.sampled_from(("T2", "T2", "T3", "T1"))


async def step(shop: Shop, name: str, one: str, other: str, number: int) -> None:
    registry, life = shop.registry, shop.life
    match name:
        case "activate" | "suspend" | "resume":
            await getattr(registry, name)(one, "", who="ada")
        case "lost" | "stolen":
            stolen = name == "stolen"
            await life.lost(one, stolen=stolen, reason="", who="ada", hours=None)
        case "found":
            await life.found(one, reason="", who="ada")
        case "replace" | "keep_ids":
            keep_ids = name == "keep_ids"
            await life.replace(one, other, reason="", who="ada", keep_ids=keep_ids)
        case "undo":
            await life.undo(one, reason="", who="ada")
        case "sell":
            if registry.get(one).state is DeviceState.ACTIVE:
                await shop.sale(one, 100)
        case "bind":
            await registry.bind_certificate(one, f"{number:064x}")
        case "deregister":
            await life.deregister(one, reason="", who="ada")


async def hold(shop: Shop, sold: int) -> None:
    again = await shop.again()
    assert again.registry.devices() == shop.registry.devices()
    for device in shop.registry.devices():
        terminal = device.terminal_id
        assert again.batches.open_of(terminal) == shop.batches.open_of(terminal)
        assert again.life.incidents(terminal) == shop.life.incidents(terminal)
        held = device.certificate_sha256
        assert not held or shop.registry.by_certificate(held) is device
        assert not (held and shop.registry.revoked(held))
        if device.state in (DeviceState.LOST, DeviceState.DEREGISTERED):
            assert not held
        if device.state is DeviceState.LOST:
            assert any(not one["closed"] for one in shop.life.incidents(terminal))
    counted = 0
    for batch in await shop.store.open_batches():
        totals = await shop.store.batch_totals(batch.terminal_id, batch.number)
        counted += totals.debits
    assert counted == sold


async def live(steps: list[tuple[str, str, str]], folder: Path) -> None:
    shop = await a_shop(folder)
    await shop.device("T3", active=False)
    for number, (name, one, other) in enumerate(steps, 1):
        before = shop.kept()
        try:
            await step(shop, name, one, other, number)
        except OperatorError:
            assert shop.kept() == before  # what is refused changes nothing
        # Nothing is closed here, so that every sale is in exactly one open batch, whoever's.
        await hold(shop, len(shop.store.transactions))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), ONE, OTHER), min_size=4, max_size=20))
def test_memory_and_store_say_the_same(steps: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory(prefix="gw") as folder:
        trio.run(live, steps, Path(folder))
