"""The admin API over a real Unix socket: its answers, its faults, and its socket file."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio

from gateway.admin import server
from gateway.admin.access import user_name
from gateway.admin.api import Arguments, BadArguments, Status
from gateway.admin.client import AdminClient, DaemonNotRunning
from gateway.admin.operations import Operation, Operations
from gateway.admin.server import serve_admin
from gateway.admin.terminals import TerminalOperations
from gateway.admin.transactions import ReversalOperations, TransactionOperations
from gateway.clock import SystemClock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_operators import Approvals, Operator
from gateway.settings.schema_terminals import DeviceRange
from gateway.telemetry.audit_reader import records
from gateway.telemetry.events import Event
from gateway.terminals.registry import Registry
from tests.support.desk import an_api
from tests.support.fake_store import FakeStore

CONFIG = Path("config/gateway.toml")


class Events(list[tuple[Event, dict[str, object]]]):
    def __call__(self, event: Event, /, **fields: object) -> None:
        self.append((event, fields))


def a_status() -> Status:
    return {
        "node": "gateway",
        "version": "0.1.0",
        "config_version": "abc",
        "configuration": {
            "version": "abc",
            "since": "2026-01-01T00:00:00.000Z",
            "reloads": 0,
            "refused": [],
            "refused_since": "",
            "waits": [],
            "waits_version": "",
        },
        "approvals_waiting": 0,
        "audit_sequence": 12,
        "audit_sha256": "abababababababababababababababababababababababababababababababab",
        "started": "2026-01-01T00:00:00.000Z",
        "uptime_s": 1.5,
        "listeners": [],
        "upstreams": [],
        "store": {
            "kind": "fake",
            "healthy": True,
            "queue_depth": 0,
            "queue_max": 10,
            "last_error": "",
        },
        "under_way": 0,
        "under_way_max": 10,
        "reversals_owed": 0,
        "reversals_given_up": 0,
        "alarms": [],
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for a socket's."""
    with TemporaryDirectory(prefix="gw") as name:
        yield Path(name)


@pytest.fixture
def open_folder(folder: Path) -> Path:
    """A folder that every user may look into."""
    folder.chmod(0o755)
    return folder


class Served:
    def __init__(self, client: AdminClient, store: FakeStore, events: Events) -> None:
        self.client = client
        self.store = store
        self.events = events

    async def terminals(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return await self.run("terminals", operation, **arguments)

    async def run(self, group: str, operation: str, **arguments: Any) -> dict[str, Any]:
        return await trio.to_thread.run_sync(self.client.run, group, operation, arguments)


@asynccontextmanager
async def served(path: Path, **changes: Any) -> AsyncIterator[Served]:
    store, events = FakeStore(), Events()
    registry = await Registry.load(
        store,
        ranges=[DeviceRange(terminals="R0000001-R0000003", profile="standard")],
        default_profile="standard",
        clock=SystemClock(),
        emit=events,
    )
    groups: dict[str, Operations] = {
        "terminals": TerminalOperations(registry),
        "transactions": TransactionOperations(store=store, clock=SystemClock(), grace_s=60),
        "reversals": ReversalOperations(store=store, reversals=None, clock=SystemClock()),
    }
    changes = {"status": a_status, **changes}
    async with (
        an_api(
            groups | changes.pop("groups", {}), path.parent / "audit", emit=events, **changes
        ) as api,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(partial(serve_admin, api, path))
        yield Served(AdminClient(path, config=CONFIG, timeout_s=5), store, events)
        nursery.cancel_scope.cancel()


async def refused_to_serve(path: Path, audit: Path) -> None:
    async with an_api({}, audit, emit=Events(), status=a_status) as api:
        await serve_admin(api, path)


def raw(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def test_status_and_terminals(folder: Path) -> None:
    async with served(folder / "admin") as daemon:
        assert await trio.to_thread.run_sync(daemon.client.status) == a_status()
        device = await daemon.terminals("enrol", terminal_id="T1", merchant_id="M1", place="Köln")
        assert (device["terminal_id"], device["state"], device["place"]) == (
            "T1",
            "pending",
            "Köln",
        )
        assert (await daemon.terminals("activate", terminal_id="T1"))["state"] == "active"
        assert (await daemon.terminals("suspend", terminal_id="T1", reason="x"))["state"] == (
            "suspended"
        )
        assert (await daemon.terminals("resume", terminal_id="T1"))["state"] == "active"
        bound = await daemon.terminals("bind", terminal_id="T1", certificate_sha256="a" * 64)
        assert bound["activation"] == 2
        assert await daemon.terminals("show", terminal_id="T1") == bound
        ruled = await daemon.terminals("show", terminal_id="R0000001")
        assert (ruled["from_rule"], ruled["enrolled"]) == (True, "")
        assert await daemon.terminals("list") == {
            "devices": [bound],
            "rules": [
                {
                    "terminals": "R0000001-R0000003",
                    "count": 3,
                    "merchant_id": "*",
                    "profile": "standard",
                }
            ],
            "next": "",
        }
        assert [fields["change"] for _, fields in daemon.events] == [
            "enrol",
            "activate",
            "suspend",
            "resume",
            "bind",
        ]


async def test_who_asks_is_who_the_kernel_says(folder: Path) -> None:
    async with served(folder / "admin") as daemon:
        await daemon.terminals("enrol", terminal_id="T1", merchant_id="M1")
        (_, done) = records(folder / "audit")
        assert (done["uid"], done["pid"], done["origin"]) == (os.getuid(), os.getpid(), "socket")
        assert done["who"] == user_name(os.getuid())


ASK = """
import socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(sys.argv[1])
connection.sendall(bytes.fromhex(sys.argv[2]))
while part := connection.recv(65536):
    sys.stdout.buffer.write(part)
"""
NOBODY = 65_534


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as two users")
async def test_two_users_are_two_persons(open_folder: Path) -> None:
    folder = open_folder
    me = user_name(os.getuid())
    operators = [
        Operator(name="anna", users=[me], roles=["operator"]),
        Operator(name="ben", users=[str(NOBODY)], roles=["operator"]),
    ]
    wanted = Approvals(actions=["terminals.activate"])
    async with served(folder / "admin", operators=operators, approvals=wanted) as daemon:
        (folder / "admin").chmod(0o666)  # as if both were of the group that may open it
        await daemon.terminals("enrol", terminal_id="T1", merchant_id="M1")
        with pytest.raises(OperatorError, match="gateway approve 3"):
            await daemon.terminals("activate", terminal_id="T1")
        with pytest.raises(OperatorError, match="somebody else"):
            await daemon.run("approvals", "approve", number=3)
        order = post("/v1/approvals/approve", b'{"number": 3}')
        done = await trio.run_process(
            ["/usr/bin/env", "python3", "-c", ASK, str(folder / "admin"), order.hex()],
            capture_stdout=True,
            user=NOBODY,
            cwd="/",
        )
        assert done.stdout.startswith(b"HTTP/1.1 200")
        assert (await daemon.terminals("show", terminal_id="T1"))["state"] == "active"
        begun = [one for one in records(folder / "audit") if one["action"] == "terminals.activate"]
        assert [(one["who"], one["uid"], one["outcome"][:5]) for one in begun] == [
            ("anna", 0, "waits"),
            ("ben", NOBODY, "begun"),
            ("ben", NOBODY, "done"),
        ]


async def test_who_is_no_operator_is_told_so(folder: Path) -> None:
    operators = [Operator(name="anna", users=["60001"], roles=["operator"])]
    async with served(folder / "admin", operators=operators) as daemon:
        with pytest.raises(OperatorError, match="is no operator"):
            await daemon.terminals("list")
        with pytest.raises(OperatorError, match="is no operator"):
            await trio.to_thread.run_sync(daemon.client.status)


async def test_what_waits_for_another_is_said(folder: Path) -> None:
    wanted = Approvals(actions=["terminals.resume"])
    async with served(folder / "admin", approvals=wanted) as daemon:
        with pytest.raises(OperatorError, match="gateway approve 1"):
            await daemon.terminals("resume", terminal_id="T1")
        with pytest.raises(OperatorError, match="somebody else has to approve"):
            await daemon.run("approvals", "approve", number=1)


async def test_lists_come_in_pages(folder: Path) -> None:
    async with served(folder / "admin") as daemon:
        rows = "".join(f"T{n},M1\n" for n in range(7))
        await daemon.terminals("import", csv=f"terminal_id,merchant_id\n{rows}", activate=True)
        await daemon.terminals("suspend", terminal_id="T3")
        seen, after = [], ""
        while True:
            page = await daemon.terminals("list", after=after, limit=2, state="active")
            seen += [device["terminal_id"] for device in page["devices"]]
            assert bool(page["rules"]) is (after == "")
            if not (after := page["next"]):
                break
        assert seen == ["T0", "T1", "T2", "T4", "T5", "T6"]
        assert (await daemon.terminals("list", silent_for_s=3600.0))["devices"] == []


async def test_an_import_tells_how_far_it_is(folder: Path) -> None:
    async with served(folder / "admin") as daemon:
        rows = "".join(f"T{n},M1\n" for n in range(2_000))
        steps: list[tuple[int, int]] = []
        outcome = await trio.to_thread.run_sync(
            daemon.client.run,
            "terminals",
            "import",
            {"csv": f"terminal_id,merchant_id\n{rows}"},
            lambda done, total: steps.append((done, total)),
        )
        assert outcome == {"added": 2_000, "completed": 0, "unchanged": 0}
        assert steps
        assert steps == sorted(steps)
        assert len(daemon.store.devices_by_id) == 2_000
        assert daemon.events[-1][0] is Event.DEVICES_IMPORTED


async def test_a_fault_after_progress_is_told_in_the_last_line(folder: Path) -> None:
    async with served(folder / "admin") as daemon:
        daemon.store.fail_after = 1
        rows = "".join(f"T{n},M1\n" for n in range(2_000))
        with pytest.raises(OperatorError, match="the store failed"):
            await daemon.terminals("import", csv=f"terminal_id,merchant_id\n{rows}")


async def test_refusals_arrive_as_what_they_are(folder: Path) -> None:
    async with served(folder / "admin") as daemon:
        with pytest.raises(NoSuchThing, match="no device T9"):
            await daemon.terminals("show", terminal_id="T9")
        with pytest.raises(NoSuchThing, match="no operation 'dance'"):
            await daemon.terminals("dance")
        with pytest.raises(BadArguments, match=r"terminal_id: Field required; place: Extra"):
            await daemon.terminals("show", place="x")
        with pytest.raises(BadArguments, match="state"):
            await daemon.terminals("list", state="sold")
        with pytest.raises(OperatorError, match="no merchant id"):
            await daemon.terminals("enrol", terminal_id="T1", merchant_id="")
        with pytest.raises(OperatorError, match=r"line 2: .*\n.*line 3"):
            await daemon.terminals("import", csv="terminal_id\nT1\nT2\n")
        daemon.store.failing = True
        with pytest.raises(OperatorError, match="the store failed"):
            await daemon.terminals("enrol", terminal_id="T1", merchant_id="M1")
        assert daemon.events == []


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (post("/v1/terminals/show", b"{"), 400, b"no JSON"),
        (post("/v1/terminals/show", b"[]"), 400, b"not a JSON object"),
        (post("/v1/terminals/show", b"\xff"), 400, b"no JSON"),
        (post("/v1/terminals/show", b'{"terminal_id": 1}'), 400, b"terminal_id"),
        (post("/v1/terminals/show", b'{"terminal_id": "T1"}'), 404, b"no device T1"),
        (post("/v1/transactions/show", b'{"transaction_id": 1}'), 404, b"no transaction 1"),
        (post("/v1/transactions/list", b'{"last_four": "12"}'), 400, b"last_four"),
        (post("/v1/reversals/retry", b'{"transaction_id": 1}'), 409, b"running gateway"),
        (post("/v1/dances/list", b""), 404, b"no group"),
        (post("/nowhere", b""), 404, b'{"error":"Not Found"}'),
        (post("/v1/status", b""), 405, b'{"error":'),
        (b"GET /v1/terminals/show HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405, b"error"),
        (post("/v1/terminals/show", b"x" * 3_000), 400, b"larger than 2000"),
    ],
)
async def test_status_codes(
    folder: Path, request_: bytes, status: int, words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_BYTES_MAX", 2_000)
    async with served(folder / "admin"):
        answer = await trio.to_thread.run_sync(raw, folder / "admin", request_)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert words in answer
        assert b"hypercorn" not in answer


async def test_our_own_faults_are_logged_and_not_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Status:
        raise ValueError("4111111111111111")

    async def fails(*_: Any) -> dict[str, Any]:
        raise KeyError("4111111111111111")

    groups = {"terminals": Operations({"list": Operation(Arguments, fails)})}
    async with served(folder / "admin", status=broken, groups=groups) as daemon:
        with pytest.raises(OperatorError, match="the daemon failed at this"):
            await trio.to_thread.run_sync(daemon.client.status)
        with pytest.raises(OperatorError, match="the daemon failed at this"):
            await daemon.terminals("list")
    assert [event for event, _ in daemon.events] == [Event.ADMIN_FAILED] * 2
    assert [fields["error"] for _, fields in daemon.events] == ["ValueError", "KeyError"]
    assert str(daemon.events[0][1]["where"]).startswith("test_admin_server.py:")
    assert "4111" not in repr(daemon.events)
    assert capsys.readouterr() == ("", "")


class TestSocketFile:
    async def test_it_is_the_owners_alone_and_goes_with_the_daemon(self, folder: Path) -> None:
        path = folder / "new" / "admin"
        async with served(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()

    async def test_one_left_behind_is_replaced(self, folder: Path) -> None:
        path = folder / "admin"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
            left.bind(str(path))
        async with served(path) as daemon:
            assert await trio.to_thread.run_sync(daemon.client.status) == a_status()

    async def test_one_that_answers_is_left_alone(self, folder: Path) -> None:
        path = folder / "admin"
        async with served(path) as daemon:
            with pytest.raises(OperatorError, match="running already"):
                await refused_to_serve(path, folder / "other")
            assert await trio.to_thread.run_sync(daemon.client.status) == a_status()

    async def test_another_file_is_left_alone(self, folder: Path) -> None:
        path = folder / "admin"
        path.write_text("precious")
        with pytest.raises(OperatorError, match="is no socket"):
            await refused_to_serve(path, folder / "audit")
        assert path.read_text() == "precious"

    async def test_a_path_too_long_for_a_socket(self, folder: Path) -> None:
        with pytest.raises(OperatorError, match="107 bytes"):
            await refused_to_serve(folder / ("x" * 108), folder / "audit")

    async def test_a_successors_file_is_not_removed(self, folder: Path) -> None:
        path = folder / "admin"
        async with served(path):
            path.unlink()
            path.write_text("another's")
        assert path.exists()


class TestClient:
    def test_no_socket(self, folder: Path) -> None:
        client = AdminClient(folder / "admin", config=CONFIG)
        assert not client.answers()
        with pytest.raises(DaemonNotRunning, match=r"no socket at .*gateway run --config config"):
            client.status()

    def test_nobody_listens(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
            left.bind(str(folder / "admin"))
        with pytest.raises(DaemonNotRunning, match="nobody answers"):
            AdminClient(folder / "admin", config=CONFIG).status()

    def test_more_than_a_daemon_takes(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.admin.client.BODY_BYTES_MAX", 1 << 20)
        client = AdminClient(folder / "admin", config=CONFIG)
        with pytest.raises(OperatorError, match="more than 1 MiB at once: split"):
            client.run("terminals", "import", {"csv": "x" * (1 << 20)})

    def test_a_daemon_that_hangs(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
            mute.bind(str(folder / "admin"))
            mute.listen()
            client = AdminClient(folder / "admin", config=CONFIG, timeout_s=0.01)
            assert client.answers()
            with pytest.raises(OperatorError, match=r"did not answer within 0\.01 s"):
                client.status()

    async def test_a_daemon_that_breaks_off(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as rude:
            rude.bind(str(folder / "admin"))
            rude.listen()
            client = AdminClient(folder / "admin", config=CONFIG, timeout_s=5)

            def cut() -> None:
                connection, _ = rude.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"
                    )

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, cut)
                with pytest.raises(OperatorError, match="broke off its answer"):
                    await trio.to_thread.run_sync(client.status)


async def test_it_stops_at_once_with_connections_open(folder: Path) -> None:
    idle, half = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
    with idle, half, trio.fail_after(60):  # a tenth of what it gives a request
        async with served(folder / "admin") as daemon:
            idle.connect(str(folder / "admin"))
            half.connect(str(folder / "admin"))
            half.sendall(
                b"POST /v1/terminals/show HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
            assert await trio.to_thread.run_sync(daemon.client.status) == a_status()
