"""Losses: a device that is lost or stolen is out at once, and comes back only as a new one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.errors import StoreError
from gateway.keys.records import StoredKeyState, terminal_owner
from gateway.store.devices import IncidentKind
from gateway.store.store import (
    DestroyKeys,
    Device,
    Operation,
    PutIncident,
    RevokeCertificate,
    RevokedCertificate,
)
from gateway.terminals import device_fields
from gateway.terminals.incident_report import Json
from gateway.terminals.incidents import Incidents
from gateway.terminals.life import Move
from gateway.terminals.surroundings import Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What was done to a lost device; `report` says so too, and what was open of it."""

    device: Device
    certificates: tuple[str, ...]  # that prove nothing any more
    keys_destroyed: int
    report: Json


class Losses:
    """Takes devices out of service for good, and back in as new ones."""

    def __init__(self, around: Surroundings, incidents: Incidents) -> None:
        self._around = around
        self._incidents = incidents

    async def lost(
        self,
        terminal_id: str,
        kind: IncidentKind,
        *,
        reason: str,
        who: str,
        hours: int | None = None,
    ) -> Lost:
        """Freeze a device, take its certificate away, destroy its keys, the master key with them,
        and open an incident: in one commit of the store, after which its connections are cut.

        Raises OperatorError and StoreError; then nothing is changed. Its last `hours` and what is
        open of it are collected after that: where the store fails then, the report lacks them.
        """
        reason = device_fields.label("reason", reason)
        around, registry = self._around, self._around.registry
        move = Move.LOST if kind is IncidentKind.LOST else Move.STOLEN
        async with registry.changing:
            before = registry.get(terminal_id)
            device = replace(
                registry.moved(before, move, reason),
                certificate_sha256="",
                old_certificate_sha256="",
                old_until_ms=0,
                known_by_name=False,
            )
            now_ms = around.clock.wall_ms()
            owners = around.owners_to_destroy(before)
            keys = await self._keys_of(owners)
            certificates = tuple(
                dict.fromkeys(
                    filter(
                        None,
                        (
                            before.certificate_sha256,
                            before.old_certificate_sha256,
                            *around.certificates_of(before.terminal_id),
                        ),
                    )
                )
            )
            incident = self._incidents.draft(device, kind, who=who, reason=reason)
            event = registry.event(
                device,
                move,
                who=who,
                reason=reason,
                detail=f"{keys} keys destroyed, {len(certificates)} certificates taken away,"
                f" incident {incident.incident_id} opened",
                before=before,
            )
            (device,) = await registry.keep(
                [device],
                *(DestroyKeys(terminal_owner(owner), now_ms) for owner in owners),
                *_revoked(certificates, device, now_ms),
                PutIncident(incident),
                event,
            )
            # In one go with that: nobody is served again, and connections are cut next of all.
            registry.tell(device, move, reason)
            self._incidents.opened(incident)
            for owner in owners:
                around.keys_destroyed(terminal_owner(owner), now_ms)
        done: dict[str, object] = {
            "state": f"{before.state} -> {device.state}",
            "certificates_taken_away": list(certificates),
            "keys_destroyed": keys,
        }
        try:
            report = await self._incidents.find_out(incident, device, done, hours=hours)
        except StoreError as error:
            report = {
                "incident": {"number": incident.incident_id, "kind": str(kind)},
                "done": done,
                "files": [],
                "failed": str(error),
            }
        return Lost(device=device, certificates=certificates, keys_destroyed=keys, report=report)

    async def found(self, terminal_id: str, *, reason: str, who: str) -> Device:
        """A lost device is back: it is pending, and nothing that it had proves or opens anything.

        It wants a new certificate (`bind`) and new keys before it is activated: those that it has
        by now, whoever made them, are destroyed as well. Its activation
        is counted up. Its incident is closed. Raises OperatorError and StoreError.
        """
        reason = device_fields.label("reason", reason)
        registry = self._around.registry
        async with registry.changing:
            before = registry.get(terminal_id)
            device = replace(
                registry.moved(before, Move.FOUND, reason),
                activation=before.activation + 1,
                keys_of="",
            )
            now_ms = self._around.clock.wall_ms()
            # A sign-on may have been answered in the very moment in which it was reported lost.
            owners = self._around.owners_to_destroy(before)
            also: list[Operation] = [
                registry.event(device, Move.FOUND, who=who, reason=reason, before=before),
                *(DestroyKeys(terminal_owner(owner), now_ms) for owner in owners),
            ]
            incident = self._incidents.closing(device.terminal_id)
            if incident is not None:
                also.append(PutIncident(incident))
            (device,) = await registry.keep([device], *also)
            for owner in owners:
                self._around.keys_destroyed(terminal_owner(owner), now_ms)
            if incident is not None:
                self._incidents.closed(incident)
        registry.tell(device, Move.FOUND, reason)
        await self._incidents.write_changed()
        return device

    async def _keys_of(self, owners: list[str]) -> int:
        """How many keys of these are there to be destroyed."""
        names = {terminal_owner(owner) for owner in owners}
        if self._around.keys_kept is not None:
            return sum(map(self._around.keys_kept, names))
        return sum(
            1
            for key in await self._around.store.keys()
            if key.owner in names and key.state is not StoredKeyState.DESTROYED
        )


def _revoked(certificates: tuple[str, ...], device: Device, now_ms: int) -> list[RevokeCertificate]:
    return [
        RevokeCertificate(RevokedCertificate(sha256, device.terminal_id, now_ms))
        for sha256 in certificates
    ]
