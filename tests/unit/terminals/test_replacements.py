"""Replacements: what goes over, what comes back, and that it is all or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import NoSuchThing, OperatorError, StoreError
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.store.store import BatchTotals, Device, DeviceState, PutKey
from gateway.terminals import readiness
from tests.support.device_lives import SHA_A, SHA_B, Shop, a_shop

T1, T2 = "T1      ", "T2      "


async def replaced(shop: Shop, old: str = "T1", new: str = "T2", **more: Any) -> dict[str, Any]:
    asked = {"reason": "broken", "who": "ada", "keep_ids": False, **more}
    return await shop.life.replace(old, new, **asked)


async def test_the_new_device_speaks_under_the_old_ones_id(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    made = await replaced(shop)
    assert (made["serves_as"], made["activation"], made["batch"]) == ("T1", 2, 1)
    for node in (shop, await shop.again()):
        serving, frozen = node.registry.get("T1"), node.registry.get("T2")
        assert (serving.state, frozen.state) == (DeviceState.ACTIVE, DeviceState.REPLACED)
        assert (serving.certificate_sha256, serving.serial) == (SHA_B, "S2")
        assert serving.inherits == ((T1, 1),)
        assert serving.keyed_as == T2
        assert node.registry.by_certificate(SHA_B) == serving
        assert node.registry.by_certificate(SHA_A) is None
        # What the old one's certificate names it may not be any more.
        assert not serving.known_by_name
        assert node.batches.number(T1) == 1
    assert await shop.store.batch_totals(T1, 1) == BatchTotals(2, 350, 0, 0)
    told = [one.what for one in shop.store.events_by_id.values()]
    assert told.count("replace") == 2


async def test_with_an_id_of_its_own_it_carries_the_batch(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await replaced(shop, keep_ids=True)
    for node in (shop, await shop.again()):
        serving, frozen = node.registry.get("T2"), node.registry.get("T1")
        assert (serving.state, frozen.state) == (DeviceState.ACTIVE, DeviceState.REPLACED)
        assert (serving.activation, serving.inherits) == (1, ((T1, 1),))
        assert (serving.certificate_sha256, frozen.certificate_sha256) == (SHA_B, SHA_A)
        assert node.batches.open_of(T1) is None
        carrying = node.batches.open_of(T2)
        assert carrying is not None
        assert carrying.carried == ("T1/1",)
        (sold, *_) = shop.store.transactions.values()
        assert node.batches.is_one(sold, T2, 1)
        assert not node.batches.is_one(sold, T2, 2)
    await shop.sale("T2", 50)
    assert await shop.store.batch_totals(T2, 1) == BatchTotals(3, 400, 0, 0)
    # Replaced in its turn, its heir has all three devices' sales.
    await shop.device("T3")
    await replaced(shop, "T2", "T3", keep_ids=True)
    assert shop.registry.get("T3").inherits == ((T1, 1), (T2, 1))
    carrying = shop.batches.open_of("T3      ")
    assert carrying is not None
    assert carrying.carried == ("T1/1", "T2/1")
    assert await shop.store.batch_totals("T3      ", 1) == BatchTotals(3, 400, 0, 0)


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_asked_for_again_it_says_the_same(tmp_path: Path, keep_ids: bool) -> None:
    shop = await a_shop(tmp_path)
    first = await replaced(shop, keep_ids=keep_ids)
    kept = shop.kept()
    for node in (shop, await shop.again()):
        again = await replaced(node, keep_ids=keep_ids, who="bea")
        assert again == {**first, "again": True}
    assert shop.kept() == kept
    with pytest.raises(OperatorError):
        await replaced(shop, keep_ids=not keep_ids)


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_a_store_that_fails_leaves_all_as_it_was(tmp_path: Path, keep_ids: bool) -> None:
    shop = await a_shop(tmp_path)
    kept = shop.kept()
    shop.store.fail_after = 0
    with pytest.raises(StoreError):
        await replaced(shop, keep_ids=keep_ids)
    shop.store.fail_after = None
    assert shop.kept() == kept
    assert shop.registry.get("T1").state is DeviceState.ACTIVE
    assert shop.batches.number(T1) == 1
    assert not (await replaced(shop, keep_ids=keep_ids))["again"]


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_it_is_one_commit(tmp_path: Path, keep_ids: bool) -> None:
    shop = await a_shop(tmp_path)
    await shop.sale("T1")
    shop.store.commits.clear()
    await replaced(shop, keep_ids=keep_ids)
    assert len(shop.store.commits) == 1
    shop.store.commits.clear()
    await shop.life.undo("T1", reason="", who="ada")
    assert len(shop.store.commits) == 1


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_undone_all_is_as_it_was(tmp_path: Path, keep_ids: bool) -> None:
    shop = await a_shop(tmp_path)
    devices, batches = dict(shop.store.devices_by_id), shop.batches.open_of(T1)
    await replaced(shop, keep_ids=keep_ids)
    undone = await shop.life.undo("T1", reason="wrong one", who="ada")
    assert undone["standing"] == "undone"
    assert await shop.life.undo("T1", reason="", who="ada") == undone
    for node in (shop, await shop.again()):
        assert {one.device_id: one for one in node.registry.devices()} == devices
        assert node.batches.open_of(T1) == batches
        assert node.registry.by_certificate(SHA_A) == node.registry.get("T1")
        assert node.registry.by_certificate(SHA_B) == node.registry.get("T2")
    # Whoever comes next has an activation that nobody has had.
    if not keep_ids:
        assert (await replaced(shop))["activation"] == 3


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_not_undone_once_it_has_transacted(tmp_path: Path, keep_ids: bool) -> None:
    shop = await a_shop(tmp_path)
    serving = (await replaced(shop, keep_ids=keep_ids))["serves_as"]
    shop.busy.add(f"{serving:8}")
    with pytest.raises(OperatorError, match="has transacted"):
        await shop.life.undo("T1", reason="", who="ada")
    shop.busy.clear()
    await shop.sale(serving)
    with pytest.raises(OperatorError, match="has transacted"):
        await shop.life.undo("T1", reason="", who="ada")


async def test_once_final_the_old_keys_are_destroyed(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    for owner in ("terminal:T1", "terminal:T2"):
        key = StoredKey(
            owner=owner,
            purpose=KeyPurpose.TERMINAL_MASTER,
            version=1,
            algorithm=KeyAlgorithm.TDES_2,
            state=StoredKeyState.ACTIVE,
            start_ms=1,
            check_value="00",
            kek="k",
            wrapped=b"w",
        )
        await shop.store.commit(PutKey(key))
    await replaced(shop)
    await shop.life.keeper.look()
    assert not shop.keys_gone
    await shop.sale("T1")
    await shop.life.keeper.look()
    await shop.life.keeper.look()
    assert shop.keys_gone == ["terminal:T1"]
    states = {key.owner: key.state for key in await shop.store.keys()}
    assert states == {
        "terminal:T1": StoredKeyState.DESTROYED,
        "terminal:T2": StoredKeyState.ACTIVE,  # the device came with them
    }
    assert shop.done == [("terminals.replacement_final", "T1")]
    with pytest.raises(OperatorError, match="has transacted"):
        await shop.life.undo("T1", reason="", who="ada")


async def test_not_undone_once_its_certificate_is_another_devices(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await replaced(shop)
    await shop.registry.enrol(terminal_id="T3", merchant_id="M1", certificate_sha256=SHA_A)
    kept = shop.kept()
    with pytest.raises(OperatorError, match="this certificate is T3's"):
        await shop.life.undo("T1", reason="", who="ada")
    assert shop.kept() == kept


async def test_what_cannot_be(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await shop.device("T3", merchant_id="M2")
    await shop.device("T4")
    await shop.sale("T4")
    await shop.device("T5")
    await shop.registry.suspend("T5", "")
    for old, new, words in [
        ("T1", "T1", "not replaced by itself"),
        ("T1", "T3", "two merchants, M1 and M2"),
        ("T1", "T4", "has transactions of its own"),
        ("T1", "T5", "T5 is suspended"),
        ("T1", "T9", "no device T9"),
        ("T2", "T1", "has transactions of its own"),
    ]:
        with pytest.raises(OperatorError, match=words):
            await replaced(shop, old, new)
    with pytest.raises(NoSuchThing, match="not replaced"):
        await shop.life.undo("T1", reason="", who="ada")
    await replaced(shop)
    await shop.registry.bind_certificate("T1", "c" * 64)
    with pytest.raises(OperatorError, match="bound anew"):
        await shop.life.undo("T1", reason="", who="ada")


async def test_a_lost_device_is_replaced(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await shop.life.lost("T1", stolen=True, reason="", who="ada", hours=None)
    await replaced(shop)
    assert shop.registry.get("T1").state is DeviceState.ACTIVE
    undone = await shop.life.undo("T1", reason="", who="ada")
    assert undone["standing"] == "undone"
    assert shop.registry.get("T1").state is DeviceState.LOST


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_what_replaces_a_device_is_ready_to(tmp_path: Path, keep_ids: bool) -> None:
    shop = await a_shop(tmp_path)
    asked: list[Device] = []

    def missing(device: Device) -> str:
        asked.append(device)
        return "it has no master key"

    shop.registry.missing = missing
    kept = shop.kept()
    with pytest.raises(OperatorError, match="T2 is not ready: it has no master key"):
        await replaced(shop, keep_ids=keep_ids)
    assert shop.kept() == kept
    # Asked of the device as it would be; broken, the old one proves nothing to anybody.
    assert (asked[0].keyed_as, asked[0].known_by_name) == (T2, True)


async def test_of_a_lost_device_the_name_alone_is_not_given_on(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await shop.device("T3")
    await shop.life.lost("T1", stolen=True, reason="", who="ada", hours=None)
    shop.registry.missing = lambda device: readiness.missing(device, [], lambda _: ())
    with pytest.raises(OperatorError, match=r"T3 is not ready: .* terminals bind T3"):
        await replaced(shop, new="T3")
    await replaced(shop, new="T3", keep_ids=True)


async def test_its_history_says_what_became_of_it(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await replaced(shop)
    told = await shop.life.history("T1", limit=1, before_id=0)
    (line,) = told["history"]
    assert (line["who"], line["what"], line["reason"]) == ("ada", "replace", "broken")
    assert line["detail"].startswith("replaced by T2; activation 1 -> 2, certificate aaaa")
    assert [one["standing"] for one in told["replacements"]] == ["in_force"]
    rest = await shop.life.history("T1", limit=10, before_id=told["next"])
    assert [one["what"] for one in rest["history"]] == ["activate", "enrol"]
    assert rest["next"] == 0
    with pytest.raises(NoSuchThing):
        await shop.life.history("T9", limit=1, before_id=0)
    assert replace(shop.registry.get("T1"), keys_of="").keyed_as == T1
