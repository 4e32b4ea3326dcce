"""Who may do what, who has to agree, and what is written down of it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.admin.access import Caller, Peer, Role, caller_of, user_name
from gateway.admin.api import AdminApi, BadArguments
from gateway.admin.approval_records import pending_of, problems_of
from gateway.admin.guard import ApprovalWanted, NotAllowed
from gateway.admin.terminals import TerminalOperations
from gateway.clock import SystemClock, VirtualClock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_operators import Approvals, Operator
from gateway.telemetry.audit_chain import Record
from gateway.telemetry.audit_files import AuditFailed, chain_files
from gateway.telemetry.audit_reader import records, verify
from gateway.telemetry.events import Event
from gateway.terminals.registry import Registry
from tests.support.admin_thread import a_status
from tests.support.audit_logs import Events
from tests.support.desk import an_api
from tests.support.fake_store import FakeStore

OPERATORS = [
    Operator(name="anna", users=["60001"], roles=["operator"]),
    Operator(name="ben", users=["60002"], roles=["operator", "keys"]),
    Operator(name="vera", users=["60003"], roles=["viewer"]),
    Operator(name="root-on-call", users=["60004"], roles=["admin"]),
]
THREE = Approvals(actions=["terminals.resume"], pending_max=3)
TWO = Approvals(actions=["terminals.resume"], expires_h=1.0, pending_max=2)


def caller(uid: int) -> Caller:
    return caller_of(Peer(uid=uid, pid=7), OPERATORS, own_uid=60_000)


ANNA, BEN, VERA, ADMIN, NOBODY = map(caller, (60_001, 60_002, 60_003, 60_004, 60_009))


class Office:
    def __init__(self, api: AdminApi, folder: Path, events: Events) -> None:
        self.api = api
        self.folder = folder
        self.events = events

    async def run(self, who: Caller, order: str, **arguments: Any) -> dict[str, Any]:
        group, _, name = order.partition(".")
        return await self.api.desk.run(who, group, name, arguments)

    def told(self) -> list[Record]:
        return list(records(self.folder))

    def outcomes(self) -> list[tuple[str, str, str]]:
        return [(one["who"], one["action"], one["outcome"]) for one in self.told()]


@asynccontextmanager
async def office(
    folder: Path, store: FakeStore | None = None, **changes: Any
) -> AsyncIterator[Office]:
    events = Events()
    registry = await Registry.load(
        store or FakeStore(), ranges=[], default_profile="retail", clock=SystemClock(), emit=events
    )
    groups = {"terminals": TerminalOperations(registry)}
    async with an_api(
        groups, folder, emit=events, status=a_status, operators=OPERATORS, **changes
    ) as api:
        yield Office(api, folder, events)
    assert verify(folder).ok


async def a_suspended_device(desk: Office) -> None:
    await desk.run(ANNA, "terminals.enrol", terminal_id="T1", merchant_id="M1")
    await desk.run(ANNA, "terminals.activate", terminal_id="T1")
    await desk.run(ANNA, "terminals.suspend", terminal_id="T1", reason="stolen?")


class TestCallers:
    def test_without_operators_the_gateways_user_and_root_are_trusted(self) -> None:
        own = os.getuid()
        for uid in (own, 0):
            found = caller_of(Peer(uid=uid, pid=1), [], own_uid=own)
            assert found.roles == frozenset(Role)
            assert found.name == user_name(uid)
        assert caller_of(Peer(uid=60_009, pid=1), [], own_uid=own).roles == frozenset()

    def test_with_operators_they_alone_are(self) -> None:
        assert caller(60_000).roles == caller(0).roles == frozenset()
        assert ANNA.roles == {Role.VIEWER, Role.OPERATOR}
        assert BEN.roles == {Role.VIEWER, Role.OPERATOR, Role.KEYS}
        assert ADMIN.roles == frozenset(Role)

    def test_users_are_named_or_numbered(self) -> None:
        name = user_name(os.getuid())
        operators = [Operator(name="me", users=[name], roles=["viewer"])]
        found = caller_of(Peer(uid=os.getuid(), pid=3), operators, own_uid=1)
        assert (found.name, found.who.uid, found.who.pid) == ("me", os.getuid(), 3)


async def test_a_change_is_written_down_before_and_after(tmp_path: Path) -> None:
    async with office(tmp_path) as desk:
        await a_suspended_device(desk)
        begun, done = desk.told()[-2:]
    assert (begun["action"], begun["outcome"], begun["subject"]) == (
        "terminals.suspend",
        "begun",
        "T1",
    )
    assert begun["new"] == {"terminal_id": "T1", "reason": "stolen?", "until_ms": 0}
    assert (done["outcome"], done["refers"]) == ("done", begun["seq"])
    assert (done["old"]["state"], done["new"]["state"]) == ("active", "suspended")
    assert (done["who"], done["uid"], done["pid"], done["origin"]) == ("anna", 60_001, 7, "socket")


async def test_looking_is_not_written_down(tmp_path: Path) -> None:
    async with office(tmp_path) as desk:
        assert await desk.run(VERA, "terminals.list")
        assert desk.told() == []


async def test_who_lacks_the_role_is_refused_and_it_is_said_which(tmp_path: Path) -> None:
    async with office(tmp_path) as desk:
        await a_suspended_device(desk)
        with pytest.raises(NotAllowed, match="needs the role operator, and vera has viewer"):
            await desk.run(VERA, "terminals.resume", terminal_id="T1")
        with pytest.raises(NotAllowed, match="needs the role keys, and anna has operator, viewer"):
            await desk.run(ANNA, "terminals.bind", terminal_id="T1", certificate_sha256="a" * 64)
        with pytest.raises(NotAllowed, match="is no operator"):
            await desk.run(NOBODY, "terminals.list")
        with pytest.raises(NotAllowed):
            await desk.api.desk.look(NOBODY, "status")
        refused = [one for one in desk.outcomes() if one[2].startswith("refused")]
        assert [one[1] for one in refused] == [
            "terminals.resume",
            "terminals.bind",
            "terminals.list",
            "status",
        ]
        assert desk.events.names().count(Event.OPERATOR_REFUSED) == 4


async def test_who_is_refused_often_cannot_fill_the_log(tmp_path: Path) -> None:
    async with office(tmp_path) as desk:
        for _ in range(100):
            with pytest.raises(NotAllowed):
                await desk.run(NOBODY, "terminals.list")
        assert len(desk.told()) == 30
        assert desk.events.names().count(Event.OPERATOR_REFUSED) == 100


async def test_what_fails_is_written_down_with_its_reason(tmp_path: Path) -> None:
    async with office(tmp_path) as desk:
        with pytest.raises(NoSuchThing):
            await desk.run(ANNA, "terminals.resume", terminal_id="T9")
        assert desk.told()[-1]["outcome"].startswith("failed: no device T9")


async def test_nothing_is_done_that_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    async with office(tmp_path, store) as desk:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", full)
            with pytest.raises(AuditFailed):
                await desk.run(ANNA, "terminals.enrol", terminal_id="T1", merchant_id="M1")
        assert store.devices_by_id == {}
        await desk.run(ANNA, "terminals.enrol", terminal_id="T1", merchant_id="M1")
        assert len(store.devices_by_id) == 1


def written_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_a_reason_with_a_card_number_is_kept_nowhere(tmp_path: Path) -> None:
    async with office(tmp_path, approvals=TWO) as desk:
        await a_suspended_device(desk)
        with pytest.raises(BadArguments, match="card number") as refused:
            await desk.run(
                ANNA, "terminals.resume", terminal_id="T1", reason="card 4111 1111 1111 1111"
            )
        assert "4111 11" not in str(refused.value)
        assert (await desk.run(ANNA, "approvals.list"))["pending"] == []
    written = written_in(tmp_path)  # hashes among it: four digits may be there by chance
    assert b"4111 11" not in written
    assert b"41111111" not in written


class TestTwoPersons:
    async def test_it_waits_until_another_approves(self, tmp_path: Path) -> None:
        async with office(tmp_path, approvals=TWO) as desk:
            await a_suspended_device(desk)
            with pytest.raises(ApprovalWanted, match="gateway approve 7"):
                await desk.run(ANNA, "terminals.resume", terminal_id="T1", reason="found")
            assert (await desk.run(VERA, "terminals.show", terminal_id="T1"))["state"] == (
                "suspended"
            )
            (waits,) = (await desk.run(VERA, "approvals.list"))["pending"]
            assert (waits["number"], waits["action"], waits["subject"]) == (
                7,
                "terminals.resume",
                "T1",
            )
            with pytest.raises(NotAllowed, match="somebody else has to approve"):
                await desk.run(ANNA, "approvals.approve", number=7)
            with pytest.raises(NotAllowed, match="needs the role operator"):
                await desk.run(VERA, "approvals.approve", number=7)
            done = await desk.run(BEN, "approvals.approve", number=7)
            assert done["result"]["state"] == "active"
            with pytest.raises(NoSuchThing, match="nothing waits under 7"):
                await desk.run(BEN, "approvals.approve", number=7)
            begun = desk.told()[-2]
            assert (begun["who"], begun["refers"]) == ("ben", 7)
            assert begun["new"]["asked_by"] == "anna"
            assert begun["new"]["approved_by"] == "ben"

    async def test_blocking_applies_at_once(self, tmp_path: Path) -> None:
        async with office(tmp_path, approvals=TWO) as desk:
            await a_suspended_device(desk)
            assert (await desk.run(VERA, "terminals.show", terminal_id="T1"))["state"] == (
                "suspended"
            )

    async def test_it_outlives_a_restart_and_ends_after_its_time(
        self, tmp_path: Path, autojump_clock: Any
    ) -> None:
        clock = VirtualClock(1_800_000_000_000)
        store = FakeStore()
        async with office(tmp_path, store, approvals=TWO, clock=clock) as desk:
            await a_suspended_device(desk)
            with pytest.raises(ApprovalWanted):
                await desk.run(ANNA, "terminals.resume", terminal_id="T1")
        async with office(tmp_path, store, approvals=TWO, clock=clock) as desk:
            assert len((await desk.run(BEN, "approvals.list"))["pending"]) == 1
            await trio.sleep(3_601)
            assert (await desk.run(BEN, "approvals.list"))["pending"] == []
            with pytest.raises(NoSuchThing):
                await desk.run(BEN, "approvals.approve", number=7)

    async def test_only_so_many_wait(self, tmp_path: Path) -> None:
        async with office(tmp_path, approvals=TWO) as desk:
            for _ in range(2):
                with pytest.raises(ApprovalWanted):
                    await desk.run(ANNA, "terminals.resume", terminal_id="T1")
            with pytest.raises(OperatorError, match="2 operations wait"):
                await desk.run(ANNA, "terminals.resume", terminal_id="T1")

    async def test_it_is_rejected_or_taken_back(self, tmp_path: Path) -> None:
        async with office(tmp_path, approvals=TWO) as desk:
            for _ in range(2):
                with pytest.raises(ApprovalWanted):
                    await desk.run(ANNA, "terminals.resume", terminal_id="T1")
            with pytest.raises(BadArguments, match="say why"):
                await desk.run(BEN, "approvals.reject", number=1)
            with pytest.raises(NotAllowed):
                await desk.run(VERA, "approvals.reject", number=1)
            await desk.run(BEN, "approvals.reject", number=1, reason="not before the audit")
            await desk.run(ANNA, "approvals.reject", number=2)
            assert [one[2] for one in desk.outcomes()[-2:]] == [
                "rejected: not before the audit",
                "rejected: taken back",
            ]
            assert (await desk.run(BEN, "approvals.list"))["pending"] == []

    @pytest.mark.parametrize(
        ("edit", "problem"),
        [
            (lambda row: row | {"operator": "ben"}, "is not what record 7 of the audit log tells"),
            (lambda row: row | {"uid": 60_009}, "is not what record 7"),
            (lambda row: row | {"ends_ms": row["ends_ms"] + 1}, "is not what record 7"),
            (lambda row: row | {"arguments": row["arguments"] | {"reason": "x"}}, "is not what"),
            (lambda row: row | {"subject": "T2"}, "is not what record 7"),
            (lambda row: row | {"operation": "lost"}, "is not what record 7"),
            (lambda row: row | {"number": 3}, "is not what record 3"),
            (lambda row: row | {"number": 99}, "no record of the audit log tells of it"),
            (lambda row: row | {"number": -1}, "no record of the audit log tells of it"),
            (lambda row: row | {"operation": "enrol"}, "of an action that no operator approves"),
            (lambda row: row | {"uid": "0"}, "is no entry: uid: Input should be a valid integer"),
            (lambda row: {"number": 7}, "is no entry: group: "),
            (lambda row: 7, "is no entry: it: "),
        ],
    )
    async def test_what_was_edited_while_the_gateway_was_down_is_left_out(
        self, tmp_path: Path, edit: Callable[[dict[str, Any]], Any], problem: str
    ) -> None:
        store = FakeStore()
        book = tmp_path / "approvals.json"
        async with office(tmp_path, store, approvals=THREE) as desk:
            await a_suspended_device(desk)
            for reason in ("found", "again"):
                with pytest.raises(ApprovalWanted):
                    await desk.run(ANNA, "terminals.resume", terminal_id="T1", reason=reason)
        first, second = json.loads(book.read_text())
        book.write_text(json.dumps([edit(first), second]))
        async with office(tmp_path, store, approvals=THREE) as desk:
            (waits,) = (await desk.run(BEN, "approvals.list"))["pending"]
            assert waits["number"] == 8
            (dropped,) = [told for told in desk.events if told[0] is Event.APPROVAL_DROPPED]
            assert dropped[1]["path"] == str(book)
            assert dropped[1]["entry"] == 1
            assert problem in str(dropped[1]["reason"])
            with pytest.raises(NoSuchThing):
                await desk.run(BEN, "approvals.approve", number=7)
            done = await desk.run(BEN, "approvals.approve", number=8)
            assert done["result"]["state"] == "active"

    async def test_what_was_decided_does_not_wait_again_nor_twice(self, tmp_path: Path) -> None:
        store = FakeStore()
        book = tmp_path / "approvals.json"
        async with office(tmp_path, store, approvals=THREE) as desk:
            await a_suspended_device(desk)
            for _ in range(3):
                with pytest.raises(ApprovalWanted):
                    await desk.run(ANNA, "terminals.resume", terminal_id="T1")
            rows = json.loads(book.read_text())
            await desk.run(BEN, "approvals.reject", number=7, reason="no")
            await desk.run(BEN, "approvals.approve", number=8)
        book.write_text(json.dumps([*rows, rows[2]]))
        async with office(tmp_path, store, approvals=THREE) as desk:
            (waits,) = (await desk.run(BEN, "approvals.list"))["pending"]
            assert waits["number"] == 9
            dropped = [told for event, told in desk.events if event is Event.APPROVAL_DROPPED]
            assert [one["entry"] for one in dropped] == [1, 2, 4]
            reasons = [str(one["reason"]) for one in dropped]
            assert reasons[0].startswith("was decided already: record 10 ")
            assert reasons[1].startswith("was decided already: record 11 ")
            assert reasons[2].startswith("has the number of entry 3")

    async def test_a_log_that_was_changed_behind_it_proves_nothing(self, tmp_path: Path) -> None:
        async with office(tmp_path, approvals=THREE) as desk:
            await a_suspended_device(desk)
            with pytest.raises(ApprovalWanted):
                await desk.run(ANNA, "terminals.resume", terminal_id="T1")
            (row,) = json.loads((tmp_path / "approvals.json").read_text())
            await desk.run(BEN, "approvals.reject", number=7, reason="no")
            await desk.run(ANNA, "terminals.enrol", terminal_id="T2", merchant_id="M1")
        waits = {7: pending_of(json.dumps(row).encode())}
        assert problems_of(waits, tmp_path)[7].startswith("was decided already: record 8 ")
        (log,) = chain_files(tmp_path)
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:7] + lines[8:]))  # less the rejection
        assert problems_of(waits, tmp_path) == {7: "the audit log was changed before record 9"}
        log.write_bytes(b"".join(lines[:6] + lines[7:]))
        assert problems_of(waits, tmp_path) == {7: "no record of the audit log tells of it"}

    async def test_a_book_that_cannot_be_read_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "approvals.json").write_text("[{")
        with pytest.raises(OperatorError, match="cannot be read"):
            async with office(tmp_path):
                pass
