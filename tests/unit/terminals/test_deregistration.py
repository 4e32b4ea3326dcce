"""Deregistration: refused while something is open, and final; what happens by itself; readiness."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.errors import NoSuchThing, OperatorError, StoreError
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.settings.schema_policy import Profile
from gateway.store.store import DeviceState, EndReversal, OweReversal, State
from gateway.terminals.deregistration import StillOpen
from gateway.terminals.readiness import missing
from gateway.transactions.device_archive import DeviceArchive
from tests.support.device_lives import SHA_A, START_MS, Shop, a_shop
from tests.support.stores import a_device

T1 = "T1      "


async def ended(shop: Shop, terminal: str = "T1") -> dict[str, object]:
    _, archive = await shop.life.deregister(terminal, reason="closed down", who="ada")
    return archive


async def test_it_says_what_is_open_and_how_to_end_it(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    owed = await shop.sale("T1", 900)
    await shop.store.commit(OweReversal(owed.transaction_id, "one", "68", 1))
    given_up = await shop.sale("T1", 901)
    await shop.store.commit(
        OweReversal(given_up.transaction_id, "one", "68", 1),
        EndReversal(given_up.transaction_id, State.GIVEN_UP),
    )
    await shop.sale("T1", 5, state=State.INTENDED)
    kept = shop.kept()
    with pytest.raises(StillOpen) as refused:
        await ended(shop)
    assert refused.value.problems == (
        (
            "batch 1 is open with 2 debits and 0 credits: close it at the terminal, or by `gateway"
            " terminals close-batch T1`"
        ),
        "1 under way (transaction 5): wait until it is answered",
        "1 owed a reversal (transaction 3): `gateway reversals list` shows how it goes",
        "1 waiting for an operator (transaction 4): `gateway reversals resolve` settles it",
    )
    assert shop.kept() == kept
    assert not (tmp_path / "archive").exists()
    assert (await shop.life.open_items("T1"))["in_the_way"] == list(refused.value.problems)


async def test_its_end_is_for_good_and_archived(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    with pytest.raises(OperatorError, match="closes its batch itself"):
        await shop.life.close_batch("T1", reason="", who="ada")
    await shop.registry.suspend("T1", "broken")
    closed = await shop.life.close_batch("T1", reason="broken", who="ada")
    assert (closed["batch"], closed["debits_minor"]) == (1, 350)
    shop.busy.add(T1)
    with pytest.raises(StillOpen, match="under way"):
        await ended(shop)
    shop.busy.clear()
    archive = await ended(shop)
    assert archive["transactions"] == 2
    for node in (shop, await shop.again()):
        device = node.registry.get("T1")
        assert (device.state, device.certificate_sha256) == (DeviceState.DEREGISTERED, "")
        assert node.registry.revoked(SHA_A) is not None
        assert node.batches.open_of(T1) is None
    with pytest.raises(OperatorError, match=r"deregistered on 2025-10-09.* not used again"):
        await shop.registry.enrol(terminal_id="T1", merchant_id="M1")
    with pytest.raises(OperatorError, match="T1 is deregistered: it stays as it is"):
        await shop.registry.import_csv("terminal_id,place\nT1,Dom\n")
    for act in (shop.registry.activate, shop.registry.suspend, shop.registry.resume):
        with pytest.raises(OperatorError, match="for good"):
            await act("T1", "")
    with pytest.raises(OperatorError, match="for good"):
        await ended(shop)
    manifest = DeviceArchive(tmp_path / "archive").named("T1")
    records = list(DeviceArchive(tmp_path / "archive").records(manifest))
    kinds = [one["record"] for one in records]
    assert (kinds[0], kinds.count("transaction"), kinds.count("batch")) == ("device", 2, 2)
    (device_line,) = [one for one in records if one["record"] == "device"]
    assert (device_line["terminal_id"], device_line["state"]) == ("T1", "deregistered")
    assert {one["card"] for one in records if "card" in one} == {"622848******1234"}
    assert not DeviceArchive(tmp_path / "archive").faults(manifest)
    with pytest.raises(NoSuchThing, match="no device 'T9' in the archive"):
        DeviceArchive(tmp_path / "archive").named("T9")


async def test_a_store_that_fails_leaves_it_enrolled(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    kept = shop.kept()
    shop.store.fail_after = 0
    with pytest.raises(StoreError):
        await ended(shop, "T2")
    shop.store.fail_after = None
    assert shop.kept() == kept
    assert shop.registry.get("T2").state is DeviceState.PENDING
    archive = await ended(shop, "T2")
    assert archive["file"] == "device-T2-2.jsonl.gz"  # the first one was whole already


async def test_an_archive_that_cannot_be_written_stops_it(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    (tmp_path / "archive").write_text("in the way")
    with pytest.raises(OperatorError, match="archive cannot be written"):
        await ended(shop, "T2")
    assert shop.registry.get("T2").state is DeviceState.PENDING


async def test_what_replaced_it_keeps_its_keys(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await shop.life.replace("T1", "T2", reason="", who="ada", keep_ids=False)
    await ended(shop, "T2")
    assert "terminal:T2" not in shop.keys_gone
    assert shop.registry.get("T1").keyed_as == "T2      "


async def test_archived_ids_share_no_file(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    for terminal in ("A/B", "A B", "A%B"):
        await shop.device(terminal, active=False)
        await ended(shop, terminal)
    archive = DeviceArchive(tmp_path / "archive")
    assert [one.terminal_id for one in archive.manifests()] == ["A B", "A%B", "A/B"]
    assert archive.named("A/B").file == "device-A%2FB.jsonl.gz"
    path = tmp_path / "archive" / archive.named("A/B").file
    path.write_bytes(path.read_bytes()[:-9])
    assert "bytes, not" in archive.faults(archive.named("A/B"))
    path.with_name(path.name + ".json").unlink()
    with pytest.raises(OperatorError, match="manifest of an archived file is missing"):
        archive.manifests()


async def test_a_suspension_ends_by_itself(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    shop = await a_shop(tmp_path)
    with pytest.raises(OperatorError, match="is over: name a time to come"):
        await shop.registry.suspend("T1", "", until_ms=START_MS - 1)
    device = await shop.registry.suspend(
        "T1", "stock-taking", who="ada", until_ms=START_MS + 60_000
    )
    assert (device.state_reason, device.until_ms) == ("stock-taking", START_MS + 60_000)
    await shop.life.keeper.look()
    assert shop.registry.get("T1").state is DeviceState.SUSPENDED
    await trio.sleep(61.0)
    again = await shop.again()
    await again.life.keeper.look()
    assert again.registry.get("T1").state is DeviceState.ACTIVE
    assert again.done == [("terminals.resume", "T1")]
    (line, *_) = (await again.life.history("T1", limit=1, before_id=0))["history"]
    assert (line["who"], line["what"]) == ("the gateway", "resume")
    assert not again.registry.suspended_until(again.clock.wall_ms())


def test_what_a_profile_wants_before_a_device_is_activated() -> None:
    plain = Profile.model_validate({"name": "plain", "kinds": ["purchase"]})
    keyed = Profile.model_validate(
        {"name": "keyed", "kinds": ["purchase"], "keys": {"sign_on": True, "working": {}}}
    )
    derived = Profile.model_validate(
        {"name": "derived", "kinds": ["purchase"], "keys": {"pin": {"key": "dukpt"}}}
    )

    def key(owner: str, purpose: KeyPurpose, state: StoredKeyState) -> StoredKey:
        return StoredKey(
            owner=owner,
            purpose=purpose,
            version=1,
            algorithm=KeyAlgorithm.TDES_2,
            state=state,
            start_ms=1,
            check_value="08D7B4",
        )

    master = key("terminal:T1", KeyPurpose.TERMINAL_MASTER, StoredKeyState.ACTIVE)
    gone = key("terminal:T1", KeyPurpose.TERMINAL_MASTER, StoredKeyState.DESTROYED)
    base = key("profile:derived", KeyPurpose.BASE_DERIVATION, StoredKeyState.ACTIVE)

    def lacks(profile: str, *keys: StoredKey) -> str:
        device = a_device(1, terminal_id=T1, profile=profile)
        found = {one.owner: [one] for one in keys}
        return missing(device, [plain, keyed, derived], lambda owner: found.get(owner, []))

    assert lacks("plain") == lacks("keyed", master) == lacks("derived", base) == ""
    assert "`gateway keys import` enters one for T1" in lacks("keyed")
    assert "no master key with a check value" in lacks("keyed", gone)
    assert "base derivation key for T1" in lacks("derived", master)
