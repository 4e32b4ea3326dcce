"""Certificates are looked at again and again; a failure keeps the former, a stale list alarms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import StoreError
from gateway.housekeeping import Housekeeping
from gateway.keys.authority import Authority, Reason
from gateway.keys.credentials import write_credentials
from gateway.settings.schema import Node
from gateway.telemetry.events import Event
from gateway.terminals.expiries import Expiries
from gateway.wire.tls import ServerTls, ServerTlsFiles

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Registry:
    """Counts how often it was flushed, and fails once."""

    def __init__(self) -> None:
        self.flushed = 0

    async def flush_seen(self) -> int:
        await trio.lowlevel.checkpoint()
        self.flushed += 1
        if self.flushed == 1:
            raise StoreError("told to fail")
        return 1


class Desk:
    """Housekeeping over one listener's files in a folder."""

    def __init__(self, folder: Path, *, server_days: int = 400, crl_days: int = 30) -> None:
        self.folder = folder
        self.authority = Authority.create(folder, name="test", days=800, now=NOW)
        server = self.authority.issue_server(
            "localhost", hosts=["localhost"], days=server_days, now=NOW
        )
        write_credentials(folder, [("server", server)])
        self.authority.write_crl(now=NOW, days=crl_days)
        self.tls = ServerTls(
            ServerTlsFiles(
                certificate=folder / "server.crt",
                key=folder / "server.key",
                client_ca=folder / "ca.crt",
                crl=folder / "ca.crl",
            ),
            session_tickets=2,
        )
        self.events: list[tuple[Event, dict[str, object]]] = []
        self.registry = Registry()
        self.keeper = Housekeeping(
            listeners=[],
            tls={"shops": self.tls},
            registry=self.registry,  # type: ignore[arg-type]
            expiries=Expiries(
                warn_days=[30, 7, 1],
                devices_max=10,
                clock=VirtualClock(round((NOW + timedelta(days=2)).timestamp() * 1000)),
                emit=self.emit,
            ),
            node=Node(admin_socket="sock", watch_s=10.0, registry_flush_s=5.0),
            clock=VirtualClock(round(NOW.timestamp() * 1000)),
            emit=self.emit,
        )

    def emit(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    def names(self) -> list[Event]:
        return [event for event, _ in self.events]


async def test_a_new_revocation_list_is_used_from_the_next_look_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.keeper.watch_certificates)
        await _looked(desk)
        assert desk.events == []
        client = desk.authority.issue_client("T0000001", days=30, now=NOW)
        serial = client.certificate.serial_number
        desk.authority.revoke([serial], reason=Reason.KEY_COMPROMISE, now=NOW)
        desk.keeper.look_now()
        await _looked(desk)
        assert desk.events == [(Event.CRL_LOADED, {"listener": "shops", "revoked": 1})]
        nursery.cancel_scope.cancel()


async def test_a_list_that_cannot_be_read_keeps_the_former_in_force(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    whole = (tmp_path / "ca.crl").read_bytes()
    (tmp_path / "ca.crl").write_text("half a file")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.keeper.watch_certificates)
        await _looked(desk)
        assert desk.names() == [Event.CRL_FAILED]
        assert desk.tls.revocations is not None
        # The alarm ends with the trouble, though the files are those of before.
        (tmp_path / "ca.crl").write_bytes(whole)
        desk.keeper.look_now()
        await _looked(desk)
        assert desk.names() == [Event.CRL_FAILED, Event.CRL_LOADED]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("server_days", "crl_days", "expected"),
    [
        (400, 30, []),
        (20, 30, [Event.CERTIFICATE_EXPIRING]),
        (400, 1, [Event.CRL_STALE, Event.CERTIFICATE_EXPIRING]),
    ],
)
async def test_what_ends_soon_or_is_stale_raises_an_alarm(
    tmp_path: Path, server_days: int, crl_days: int, expected: list[Event]
) -> None:
    desk = Desk(tmp_path, server_days=server_days, crl_days=crl_days)
    later = NOW + timedelta(days=2)
    desk.keeper._clock = VirtualClock(round(later.timestamp() * 1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.keeper.watch_certificates)
        await _looked(desk)
        assert desk.names() == expected
        nursery.cancel_scope.cancel()


async def test_last_seen_times_are_written_every_so_often_whatever_the_store_does(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    desk = Desk(tmp_path)
    with trio.move_on_after(16):
        await desk.keeper.keep_last_seen()
    assert desk.registry.flushed == 3


async def _looked(desk: Desk) -> None:
    """Wait until the watcher waits again: its look reads files in a thread."""
    for _ in range(2_000):
        await trio.testing.wait_all_tasks_blocked(0.01)
        if desk.keeper.waiting:
            return
    raise AssertionError("it still looks")
