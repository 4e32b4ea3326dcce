"""Deregistration: the end of a device, once nothing of it is open; its records are archived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.keys.records import terminal_owner
from gateway.store.store import (
    Batch,
    Criteria,
    DestroyKeys,
    Device,
    DeviceState,
    Operation,
    PutBatch,
    PutIncident,
    RevokeCertificate,
    RevokedCertificate,
)
from gateway.terminals import device_fields, incident_report
from gateway.terminals.incidents import Incidents
from gateway.terminals.life import Move, refusal
from gateway.terminals.open_items import OpenItems, open_items
from gateway.terminals.surroundings import Surroundings
from gateway.transactions.archive import line_of
from gateway.transactions.device_archive import DeviceFile, DeviceManifest

_PAGE = 1_000
_BATCHES_MAX = 100_000
_LISTED_MAX = 1_000


class StillOpen(OperatorError):
    """Something of the device is open: it says what, and how to end it."""

    def __init__(self, terminal_id: str, problems: list[str]) -> None:
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{terminal_id.rstrip()} cannot be deregistered yet:{lines}")
        self.problems = tuple(problems)


class Deregistration:
    """Ends devices. Their terminal ids are not used again, by anybody."""

    def __init__(
        self,
        around: Surroundings,
        incidents: Incidents,
        *,
        folder: Callable[[], Path],
        original_days: int,
    ) -> None:
        """`folder` is that of the archive."""
        self._around = around
        self._incidents = incidents
        self._folder = folder
        self._original_days = original_days

    async def look(self, terminal_id: str) -> OpenItems:
        """What is open of a device; raises NoSuchThing, OperatorError and StoreError."""
        device = self._around.registry.get(terminal_id)
        return await open_items(
            self._around, device.terminal_id, limit=_LISTED_MAX, days=self._original_days
        )

    async def close_batch(self, terminal_id: str, *, reason: str, who: str) -> Batch:
        """Close the batch of a device that cannot do so itself, with the gateway's totals.

        Raises OperatorError where the device is active and can, or has no batch.
        """
        registry, batches = self._around.registry, self._around.batches
        reason = device_fields.label("reason", reason)
        async with registry.changing:
            device = registry.get(terminal_id)
            name = device.terminal_id.rstrip()
            if device.state is DeviceState.ACTIVE:
                raise OperatorError(
                    f"{name} is active, and closes its batch itself: suspend it first, if it cannot"
                )
            if batches.open_of(device.terminal_id) is None:
                raise OperatorError(f"{name} has no open batch")
            event = registry.event(device, "close batch", who=who, reason=reason)
            closed = await batches.close_for(device.terminal_id, event)
        registry.tell(device, "close batch", reason)
        return closed

    async def deregister(
        self, terminal_id: str, *, reason: str, who: str
    ) -> tuple[Device, DeviceManifest]:
        """End a device: its records are archived, its keys destroyed, its certificate taken away.

        Raises StillOpen where something of it is open, OperatorError (an archive that cannot be
        written, too) and StoreError; then it is as it was.
        """
        reason = device_fields.label("reason", reason)
        around, registry = self._around, self._around.registry
        async with registry.changing:
            before = registry.get(terminal_id)
            if refusal(before.state, Move.DEREGISTER):
                registry.moved(before, Move.DEREGISTER, reason)  # raises
            terminal_id = before.terminal_id
            # Whatever it begins meanwhile waits until it is over, and is refused then.
            async with around.batches.held(terminal_id):
                items = await self.look(terminal_id)
                problems = items.in_the_way()
                if around.busy(terminal_id):
                    problems.append("a transaction is under way: suspend it, and try again")
                if problems:
                    raise StillOpen(terminal_id, problems)
                ended = registry.moved(before, Move.DEREGISTER, reason)
                ended = replace(
                    ended,
                    certificate_sha256="",
                    old_certificate_sha256="",
                    old_until_ms=0,
                    known_by_name=False,
                    keys_of="",
                )
                manifest = await self._archived(ended)
                now_ms = around.clock.wall_ms()
                owners = around.owners_to_destroy(before)
                incident = self._incidents.closing(terminal_id)
                event = registry.event(
                    ended,
                    Move.DEREGISTER,
                    who=who,
                    reason=reason,
                    detail=f"archived as {manifest.file}",
                    before=before,
                )
                also: list[Operation] = [event]
                also += [DestroyKeys(terminal_owner(owner), now_ms) for owner in owners]
                for sha256 in (before.certificate_sha256, before.old_certificate_sha256):
                    if sha256:
                        revoked = RevokedCertificate(sha256, terminal_id, now_ms)
                        also.append(RevokeCertificate(revoked))
                if incident is not None:
                    also.append(PutIncident(incident))
                empty = None
                if items.batch is not None:
                    empty = replace(items.batch, closed_ms=now_ms)
                    also.append(PutBatch(empty))
                (ended,) = await registry.keep([ended], *also)
                if empty is not None:
                    around.batches.put(empty)
                if incident is not None:
                    self._incidents.closed(incident)
                for owner in owners:
                    around.keys_destroyed(terminal_owner(owner), now_ms)
        registry.tell(ended, Move.DEREGISTER, reason)
        await self._incidents.write_changed()
        return ended, manifest

    async def _archived(self, device: Device) -> DeviceManifest:
        """Write all that the store has of a device into its file; raises OperatorError."""
        around = self._around
        archived = iso_time(around.clock.wall_ms())
        folder = self._folder()
        file: DeviceFile | None = None
        try:
            file = await trio.to_thread.run_sync(
                partial(DeviceFile, folder, device.terminal_id, archived=archived)
            )
            await self._write(file, device)
            return await trio.to_thread.run_sync(file.finish)
        except OSError as error:
            raise OperatorError(f"{folder} cannot be written: {error.strerror}") from None
        except BaseException:
            if file is not None:
                file.abandon()
            raise

    async def _write(self, file: DeviceFile, device: Device) -> None:
        store, terminal_id = self._around.store, device.terminal_id

        async def write(kind: str, records: list[dict[str, Any]]) -> None:
            await trio.to_thread.run_sync(file.write, kind, records)

        await write("device", [_device_line(device)])
        before_id = 0
        while events := await store.device_history(terminal_id, _PAGE, before_id=before_id):
            before_id = events[-1].event_id
            await write("event", [incident_report.event_line(one) for one in events])
        for incident in self._incidents.of(terminal_id):
            await write("incident", [await self._incidents.report(incident)])
        batches = await store.batches(terminal_id, _BATCHES_MAX)
        await write(
            "batch", [asdict(one) | {"terminal_id": terminal_id.rstrip()} for one in batches]
        )
        before_id = 0
        while True:
            criteria = Criteria(terminal_id=terminal_id, before_id=before_id)
            page = await store.select(criteria, _PAGE)
            await write("transaction", [line_of(one) for one in page])
            if len(page) < _PAGE:
                return
            before_id = page[-1].transaction_id


def _device_line(device: Device) -> dict[str, Any]:
    return {
        **asdict(device),
        "terminal_id": device.terminal_id.rstrip(),
        "state": str(device.state),
        "enrolled": iso_time(device.enrolled_ms) if device.enrolled_ms else "",
        "last_seen": iso_time(device.last_seen_ms) if device.last_seen_ms else "",
    }
