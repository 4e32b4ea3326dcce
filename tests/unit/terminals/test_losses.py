"""Lost and stolen devices: out at once and for good, told of, and back only as new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.errors import OperatorError, StoreError
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.store.store import DeviceState, OweReversal, PutKey, State
from gateway.telemetry.events import Event
from gateway.terminals.sightings import Attempt
from gateway.wire.message import Kind
from tests.support.device_lives import SHA_A, Shop, a_shop


async def lost(shop: Shop, terminal: str = "T1", **more: object) -> dict[str, object]:
    _, done = await shop.life.lost(
        terminal, stolen=True, reason="from the | counter", who="ada", hours=None
    )
    return done


def a_key(purpose: KeyPurpose) -> PutKey:
    return PutKey(
        StoredKey(
            owner="terminal:T1",
            purpose=purpose,
            version=1,
            algorithm=KeyAlgorithm.TDES_2,
            state=StoredKeyState.ACTIVE,
            start_ms=1,
            check_value="00",
            kek="k",
            wrapped=b"w",
        )
    )


def seen(shop: Shop, terminal: str = "T1") -> None:
    shop.sightings.note(
        Attempt(
            terminal_id=terminal,
            listener="shops",
            address="192.0.2.7",
            certificate_sha256=SHA_A,
            why="not_active: lost",
        )
    )


async def test_all_of_it_is_one_commit(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await shop.store.commit(a_key(KeyPurpose.TERMINAL_MASTER), a_key(KeyPurpose.MAC))
    looked: list[DeviceState] = []
    shop.registry.changed = lambda: looked.append(shop.registry.get("T1").state)
    shop.store.commits.clear()
    done = await lost(shop)
    assert len(shop.store.commits) == 2  # the second one adds the report
    assert looked == [DeviceState.LOST]
    assert (done["keys_destroyed"], done["certificates_taken_away"]) == (2, [SHA_A])
    assert shop.keys_gone == ["terminal:T1"]
    assert not any(key.wrapped for key in await shop.store.keys())
    for node in (shop, await shop.again()):
        device = node.registry.get("T1")
        assert (device.state, device.certificate_sha256) == (DeviceState.LOST, "")
        assert not device.known_by_name
        assert node.registry.revoked(SHA_A) is not None
        assert node.registry.by_certificate(SHA_A) is None
    assert Event.INCIDENT_OPENED in shop.told.names()


async def test_a_store_that_fails_leaves_it_in_service(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    kept = shop.kept()
    shop.store.fail_after = 0
    with pytest.raises(StoreError):
        await lost(shop)
    shop.store.fail_after = None
    assert shop.kept() == kept
    assert shop.registry.get("T1").state is DeviceState.ACTIVE
    assert not shop.life.incidents("T1")


async def test_it_is_out_though_the_report_fails(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    (tmp_path / "incidents").write_text("in the way")
    done = await lost(shop)
    assert done["report"]["files"] == []  # type: ignore[index]
    assert shop.registry.get("T1").state is DeviceState.LOST
    assert shop.told.names().count(Event.INCIDENT_REPORT_FAILED) == 1
    await shop.life.keeper.look()
    assert shop.told.names().count(Event.INCIDENT_REPORT_FAILED) == 1
    (tmp_path / "incidents").unlink()
    await shop.life.keeper.look()
    assert len(list((tmp_path / "incidents").iterdir())) == 2
    other = await a_shop(tmp_path / "other")
    other.store.fail_after = 1  # it takes the loss, and not the report
    done = await lost(other)
    assert "failed" in done["report"]  # type: ignore[operator]


async def test_the_report_says_what_is_open_and_grows_by_sightings(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    owed = await shop.sale("T1", 900)
    await shop.store.commit(OweReversal(owed.transaction_id, "one", "68", 1))
    held = await shop.sale("T1", 77, kind=Kind.PREAUTHORISATION)
    await shop.sale("T1", 5, state=State.INTENDED)
    await lost(shop)
    (listed,) = shop.life.incidents("T1")
    (file,) = (tmp_path / "incidents").glob("*.json")
    words = file.with_suffix(".md")
    assert {one.stat().st_mode & 0o777 for one in (file, words)} == {0o600}
    report = json.loads(file.read_text())
    assert report == await shop.life.incident(int(str(listed["number"])))
    assert report["incident"]["reason"] == "from the | counter"
    assert (report["open"]["batch"]["debits"], len(report["transactions"])) == (2, 5)
    assert [one["amount_minor"] for one in report["open"]["reversals_owed"]] == [900]
    assert [one["amount_minor"] for one in report["open"]["unsettled_approvals"]] == [250, 100]
    (open_one,) = report["open"]["open_preauthorisations"]
    assert open_one["transaction_id"] == held.transaction_id
    assert [one["what"] for one in report["history"]] == ["stolen", "activate", "enrol"]
    assert report["sightings"] == []
    assert "from the \\| counter" not in words.read_text().splitlines()[0]
    seen(shop)
    seen(shop, "T2")
    await shop.life.keeper.look()
    (sighted,) = json.loads(file.read_text())["sightings"]
    assert (sighted["address"], sighted["count"]) == ("192.0.2.7", 1)
    assert "192.0.2.7" in words.read_text()
    # After a restart too.
    again = await shop.again()
    seen(again)
    await again.life.keeper.look()
    assert json.loads(file.read_text())["sightings"]


async def test_found_it_begins_anew(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await lost(shop)
    with pytest.raises(OperatorError, match="cannot resume; what can be done is: found"):
        await shop.registry.resume("T1", "")
    with pytest.raises(OperatorError, match="no certificate is bound"):
        await shop.registry.bind_certificate("T1", "c" * 64)
    device = await shop.life.found("T1", reason="in the drawer", who="bea")
    assert (device.state, device.activation) == (DeviceState.PENDING, 2)
    assert [bool(one["closed"]) for one in shop.life.incidents("T1")] == [True]
    with pytest.raises(OperatorError, match=r"was T1's until .* and proves nothing since"):
        await shop.registry.bind_certificate("T1", SHA_A)
    with pytest.raises(OperatorError, match="proves nothing since"):
        await shop.registry.enrol(terminal_id="T8", merchant_id="M1", certificate_sha256=SHA_A)
    bound = await shop.registry.bind_certificate("T1", "c" * 64)
    assert bound.activation == 3
    seen(shop)
    await shop.life.keeper.look()
    (file,) = (tmp_path / "incidents").glob("*.json")
    assert json.loads(file.read_text())["incident"]["closed"]
    assert json.loads(file.read_text())["sightings"] == []


async def test_keys_that_a_lost_device_got_in_its_last_moment_open_nothing(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await lost(shop)
    # Its sign-on was being answered, and came into the store behind the command.
    await shop.store.commit(a_key(KeyPurpose.MAC))
    shop.keys_gone.clear()
    await shop.life.found("T1", reason="", who="bea")
    assert [key.state for key in shop.store.kept_keys.values()] == [StoredKeyState.DESTROYED]
    assert shop.keys_gone == ["terminal:T1"]


async def test_lost_twice_is_refused(tmp_path: Path) -> None:
    shop = await a_shop(tmp_path)
    await lost(shop)
    with pytest.raises(OperatorError, match="cannot be reported stolen"):
        await lost(shop)
    assert len(shop.life.incidents("")) == 1
