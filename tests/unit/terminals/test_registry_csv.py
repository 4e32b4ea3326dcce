"""Devices as CSV: out and in again, all or nothing, every bad line named."""

from __future__ import annotations

import pytest

from gateway.clock import VirtualClock
from gateway.errors import OperatorError, StoreError
from gateway.settings.schema_terminals import DeviceRange
from gateway.store.store import DeviceState, RevokeCertificate, RevokedCertificate
from gateway.terminals.registry import Imported, Registry
from gateway.terminals.roster import RosterRefused
from tests.support.fake_store import FakeStore

SHA_A, SHA_B = "a" * 64, "b" * 64
HEADER = "terminal_id,merchant_id,state,profile,serial,model,place,certificate_sha256,networks\n"


def ignore(*_: object, **__: object) -> None:
    """An event list that nobody reads."""


async def loaded(store: FakeStore) -> Registry:
    return await Registry.load(
        store,
        ranges=[DeviceRange(terminals="R0000001-R0000009", profile="standard")],
        default_profile="standard",
        profiles=["standard", "small"],
        clock=VirtualClock(1_700_000_000_000),
        emit=ignore,
    )


async def test_export_reads_back_the_same() -> None:
    registry = await loaded(FakeStore())
    await registry.enrol(
        terminal_id="T1",
        merchant_id="M1",
        place='Café "Süd", 1. Stock',
        networks="10.0.0.0/8 192.168.0.1/32",
        certificate_sha256=SHA_A,
    )
    await registry.suspend("R0000001", "")
    exported = registry.export_csv()
    assert exported.startswith(f"{HEADER.strip()},group,inspected,inspected_by\n")
    assert "T1,M1,pending,standard,,," in exported
    other = await loaded(FakeStore())
    assert await other.import_csv(exported) == Imported(added=2, completed=0, unchanged=0)
    assert other.export_csv() == exported
    assert await other.import_csv(exported) == Imported(added=0, completed=0, unchanged=2)


async def test_thousands_in_commits_of_some_hundreds() -> None:
    store = FakeStore()
    registry = await loaded(store)
    rows = "".join(f"T{n:07},M{n % 7}\n" for n in range(5_000))
    progress: list[tuple[int, int]] = []
    outcome = await registry.import_csv(
        "terminal_id,merchant_id\n" + rows,
        activate=True,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert outcome == Imported(added=5_000, completed=0, unchanged=0)
    assert [len(operations) for operations in store.commits] == [1_000] * 10  # with their history
    assert progress == [(n, 5_000) for n in range(500, 5_001, 500)]
    assert len({device.device_id for device in registry.devices()}) == 5_000
    assert {device.state for device in registry.devices()} == {DeviceState.ACTIVE}
    assert len((await loaded(store)).devices()) == 5_000


async def test_every_bad_row_is_named_and_nothing_is_written() -> None:
    store = FakeStore()
    registry = await loaded(store)
    await registry.enrol(terminal_id="T9", merchant_id="M1", certificate_sha256=SHA_B)
    store.commits.clear()
    text = HEADER + "\n".join(
        (
            "T1,M1,active,standard,,,,,",
            "T1,M1,,,,,,,",
            "T00000002,M1,,,,,,,",
            "T3,*,,,,,,,",
            "T4,,,,,,,,",
            "T5,M1,lost,,,,,,",
            "T6,M1,,huge,,,,,",
            "T7,M1",
            "T8,M1,,,,,,xyz,10.0.0.1/8",
            f"T10,M1,,,,,,{SHA_B},",
            f"T11,M1,,,,,,{SHA_A},",
            f"T12,M1,,,,,,{SHA_A},",
            "",
            "T9,M2,,,,,,,",
            "T9,M1,suspended,,,,,,",
            ",M1,,,,,,,",
        )
    )
    with pytest.raises(RosterRefused) as caught:
        await registry.import_csv(text)
    assert str(caught.value).startswith("nothing was imported, 13 rows are wrong:\n  line 3: ")
    found = dict(caught.value.problems)
    assert sorted(found) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 16, 17]
    assert "terminal T1 stands in line 2 already" in found[3]
    assert "no terminal id" in found[4]
    assert "registry rules" in found[5]
    assert "merchant is missing" in found[6]
    assert "pending, active, suspended" in found[7]
    assert "no profile 'huge'" in found[8]
    assert "2 values where the header has 9" in found[9]
    assert [line for line, _ in caught.value.problems].count(10) == 2
    assert "T9's" in found[11]
    assert "stands in line 12 already" in found[13]
    assert "an import adds, it does not overwrite" in found[15]
    assert "stands in line 15 already" in found[16]
    assert "the terminal id is missing" in found[17]
    assert store.commits == []
    assert [device.terminal_id for device in registry.devices()] == ["T9      "]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line must name the columns"),
        ("T1,M1\n", "first line must name the columns"),
        ("terminal_id,colour\nT1,red\n", "unknown column 'colour'"),
        ("terminal_id,terminal_id\n", "twice"),
        ('terminal_id,merchant_id\nT1,M1\nT2,"M1\nT3,M1\n', "no CSV from here on"),
        ("terminal_id,merchant_id\nT1,M1\nT2,M\x00\n", "line 3"),
    ],
)
async def test_what_is_no_roster(text: str, words: str) -> None:
    registry = await loaded(FakeStore())
    with pytest.raises(OperatorError, match=words):
        await registry.import_csv(text)
    assert registry.devices() == []


async def test_an_import_fills_what_is_empty_and_overwrites_nothing() -> None:
    registry = await loaded(FakeStore())
    await registry.enrol(terminal_id="T1", merchant_id="M1", place="here")
    await registry.enrol(terminal_id="T2", merchant_id="M1", certificate_sha256=SHA_B)
    # What `gateway certs issue` writes.
    issued = f"\ufeffterminal_id,certificate_sha256\r\nT1,{SHA_A}\r\nT2,{SHA_B}\r\n"
    assert await registry.import_csv(issued) == Imported(added=0, completed=1, unchanged=1)
    bound = registry.get("T1")
    assert (bound.certificate_sha256, bound.activation, bound.place) == (SHA_A, 2, "here")
    assert registry.by_certificate(SHA_A) is bound
    assert bound.state is DeviceState.PENDING
    assert await registry.import_csv(issued, activate=True) == Imported(
        added=0, completed=2, unchanged=0
    )
    assert registry.get("T1").state is DeviceState.ACTIVE
    await registry.suspend("T1", "")
    assert await registry.import_csv(issued, activate=True) == Imported(
        added=0, completed=0, unchanged=2
    )
    with pytest.raises(RosterRefused, match="exists with state 'suspended', not 'active'"):
        await registry.import_csv("terminal_id,state\nT1,active\n")
    with pytest.raises(RosterRefused, match="exists with certificate_sha256"):
        await registry.import_csv(f"terminal_id,certificate_sha256\nT2,{'c' * 64}\n")


async def test_a_pending_device_is_not_suspended_by_an_import() -> None:
    registry = await loaded(FakeStore())
    await registry.enrol(terminal_id="T1", merchant_id="M1")
    with pytest.raises(RosterRefused, match="exists with state 'pending'"):
        await registry.import_csv("terminal_id,state\nT1,suspended\n")


async def test_the_merchant_may_come_from_the_command_or_the_rule() -> None:
    registry = await loaded(FakeStore())
    issued = f"terminal_id,certificate_sha256\nT1,{SHA_A}\nR0000001,{SHA_B}\n"
    with pytest.raises(RosterRefused, match="line 2: the merchant is missing"):
        await registry.import_csv(issued)
    await registry.import_csv(issued, merchant_id="M5")
    assert {device.merchant_id for device in registry.devices()} == {"M5"}
    await registry.import_csv("terminal_id,serial\nR0000002,77\n")
    assert registry.get("R0000002").merchant_id == "*"
    with pytest.raises(OperatorError, match="registry rules only"):
        await registry.import_csv(issued, merchant_id="*")


async def test_a_store_that_fails_half_way_leaves_an_import_that_can_be_repeated() -> None:
    store = FakeStore(fail_after=2)
    registry = await loaded(store)
    text = "terminal_id,merchant_id\n" + "".join(f"T{n:07},M1\n" for n in range(1_200))
    with pytest.raises(StoreError):
        await registry.import_csv(text)
    assert len(registry.devices()) == len(store.devices_by_id) == 1_000
    store.fail_after = None
    assert await registry.import_csv(text) == Imported(added=200, completed=0, unchanged=1_000)


@pytest.mark.parametrize("by_column", [False, True])
async def test_only_what_is_ready_is_activated(by_column: bool) -> None:
    store = FakeStore()
    registry = await loaded(store)
    await registry.enrol(terminal_id="T1", merchant_id="M1")
    registry.missing = lambda device: "" if device.terminal_id == "T3      " else "no master key"
    column, value = (",state", ",active") if by_column else ("", "")
    text = f"terminal_id,merchant_id{column}\n" + "".join(f"T{n},M1{value}\n" for n in (1, 2, 3))
    with pytest.raises(RosterRefused) as refused:
        await registry.import_csv(text, activate=not by_column)
    assert [line for line, _ in refused.value.problems] == [2, 3]
    assert "T2 is not ready: no master key" in str(refused.value)
    registry.missing = lambda _: ""
    assert (await registry.import_csv(text, activate=not by_column)).added == 2
    # What works already is not asked again.
    registry.missing = lambda _: "no master key"
    more = "terminal_id,place\nT1,Ulm\n"
    assert (await registry.import_csv(more, activate=True)).completed == 1


async def test_a_certificate_that_was_taken_away_comes_back_with_no_file() -> None:
    registry = await loaded(FakeStore())
    await registry.enrol(terminal_id="T1", merchant_id="M1")
    taken = RevokedCertificate(SHA_A, "T9      ", 1_700_000_000_000)
    await registry.keep([registry.get("T1")], RevokeCertificate(taken))
    text = f"terminal_id,merchant_id,certificate_sha256\nT1,M1,{SHA_A}\nT2,M1,{SHA_B}\n"
    with pytest.raises(RosterRefused, match="was T9's until"):
        await registry.import_csv(text)
