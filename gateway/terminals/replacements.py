"""Replacements: one device goes on for another, all at once, and back until it has transacted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.errors import NoSuchThing, OperatorError
from gateway.keys.records import terminal_owner
from gateway.store.devices import Standing
from gateway.store.store import (
    Batch,
    Criteria,
    DestroyKeys,
    Device,
    DeviceState,
    Operation,
    PutBatch,
    PutReplacement,
    Replacement,
)
from gateway.terminals import device_fields
from gateway.terminals.life import Move
from gateway.terminals.surroundings import Surroundings

INHERITED_MAX = 32  # devices before it whose transactions a device goes on with
_LOOKED_BACK_MS = 86_400_000  # further than any clock is set
_LOOKED_AT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A replacement, and whether it was so already."""

    replacement: Replacement
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Change:
    """What a replacement makes of both devices and of their batches."""

    old: Device
    new: Device
    batches: tuple[Batch, ...] = ()


class Replacements:
    """Makes and undoes replacements; each is one commit of the store, and memory follows it."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._registry = around.registry
        self._made: dict[int, Replacement] = {}

    async def restore(self) -> None:
        """Take up what was replaced before; raises StoreError."""
        for made in await self._around.store.replacements():
            self._made[made.replacement_id] = made

    def of(self, terminal_id: str) -> list[Replacement]:
        """The replacements that a terminal id was or is part of, the oldest first."""
        return [one for one in self._made.values() if terminal_id in (one.old_id, one.new_id)]

    async def replace(
        self, old_id: str, new_id: str, *, reason: str, who: str, keep_ids: bool = False
    ) -> Made:
        """Have the device `new_id` go on for `old_id`.

        It speaks under the old one's terminal id from then on, or with `keep_ids` under its own,
        and carries on the open batch either way: it may void, complete and refund what was sold.
        Asked for again, says the same. Raises OperatorError and StoreError; then nothing is
        changed.
        """
        reason = device_fields.label("reason", reason)
        old_id, new_id = device_fields.terminal_id(old_id), device_fields.terminal_id(new_id)
        registry, batches = self._registry, self._around.batches
        async with registry.changing:
            known = self._in_force(old_id, new_id, keep_ids=keep_ids)
            if known is not None:
                return Made(replacement=known, again=True)
            old, new = registry.get(old_id), registry.get(new_id)
            await self._check(old, new)
            async with batches.held(old_id):
                make = self._kept_apart if keep_ids else self._taken_over
                change = await make(old, new, reason)
                # Rules stand for devices without a row: both ids are rows from here on.
                serving = change.new if keep_ids else change.old
                self._check_ready(serving, old=old, new=new)
                open_batch = batches.open_of(old_id)
                made = Replacement(
                    replacement_id=max(self._made, default=0) + 1,
                    old_id=old_id,
                    new_id=new_id,
                    at_ms=self._around.clock.wall_ms(),
                    who=who,
                    reason=reason,
                    kept_ids=keep_ids,
                    activation=serving.activation,
                    standing=Standing.IN_FORCE,
                    old=replace(old, device_id=change.old.device_id),
                    new=replace(new, device_id=change.new.device_id),
                    batch=0 if open_batch is None else open_batch.number,
                )
                await self._commit(made, change, "replace", who=who, reason=reason)
        for device in (change.old, change.new):
            registry.tell(device, "replace", reason)
        return Made(replacement=made)

    async def undo(self, old_id: str, *, reason: str, who: str) -> Replacement:
        """Take the last replacement of a device back, unless the new one has transacted.

        Returns it as it is then. Raises NoSuchThing, OperatorError and StoreError.
        """
        reason = device_fields.label("reason", reason)
        old_id = device_fields.terminal_id(old_id)
        async with self._registry.changing:
            made = self._latest(old_id)
            if made.standing is Standing.UNDONE:
                return made
            old, new = self._registry.get(made.old_id), self._registry.get(made.new_id)
            serving, frozen = (new, old) if made.kept_ids else (old, new)
            for device in (serving, frozen):
                self._registry.moved(device, Move.UNDO, reason)  # raises where it may not
            # It may have been given on meanwhile: a certificate has one device.
            self._registry.check_certificate(made.old.certificate_sha256, old_id)
            name = serving.terminal_id.rstrip()
            if serving.activation != made.activation:
                raise OperatorError(f"{name} was bound anew since: nothing can be taken back")
            async with self._around.batches.held(serving.terminal_id):
                if made.standing is Standing.FINAL or await self._has_transacted(made):
                    raise OperatorError(
                        f"{name} has transacted since it took over: replace it by another device"
                        " instead"
                    )
                undone = replace(made, standing=Standing.UNDONE)
                change = _Change(made.old, made.new, await self._batches_before(made))
                await self._commit(undone, change, "undo", who=who, reason=reason)
        for device in (made.old, made.new):
            self._registry.tell(device, "undo", reason)
        return undone

    async def settle(self) -> list[Replacement]:
        """Make final what can no longer be undone, and destroy the keys of the devices replaced.

        Returns what became final. Raises StoreError.
        """
        final = []
        for made in list(self._made.values()):
            if made.standing is not Standing.IN_FORCE or not await self._has_transacted(made):
                continue
            async with self._registry.changing:
                if self._made[made.replacement_id] is not made:
                    continue
                now_ms = self._around.clock.wall_ms()
                owners = self._keys_over(made)
                over = replace(made, standing=Standing.FINAL)
                told = self._registry.event(
                    made.old, "replacement final", who="", detail=f"keys of {owners} destroyed"
                )
                destroyed = [DestroyKeys(terminal_owner(one), now_ms) for one in owners]
                await self._around.store.commit(PutReplacement(over), told, *destroyed)
                self._made[made.replacement_id] = over
                for owner in owners:
                    self._around.keys_destroyed(terminal_owner(owner), now_ms)
                final.append(over)
        return final

    # --- may it be ----------------------------------------------------------------------------

    async def _check(self, old: Device, new: Device) -> None:
        names = f"{old.terminal_id.rstrip()} by {new.terminal_id.rstrip()}"
        if old.terminal_id == new.terminal_id:
            raise OperatorError(
                f"{names}: a device is not replaced by itself; `gateway terminals bind` gives it"
                " another certificate"
            )
        if old.merchant_id != new.merchant_id:
            raise OperatorError(
                f"{names}: they are of two merchants, {old.merchant_id} and {new.merchant_id}, and"
                " what one has sold the other cannot take back"
            )
        if new.state not in (DeviceState.PENDING, DeviceState.ACTIVE):
            raise OperatorError(
                f"{new.terminal_id.rstrip()} is {new.state}: what replaces a device is pending or"
                " active"
            )
        criteria = Criteria(terminal_id=new.terminal_id)
        found = await self._around.store.select(criteria, _LOOKED_AT)
        if any(one.activation == new.activation for one in found):
            raise OperatorError(
                f"{new.terminal_id.rstrip()} has transactions of its own: enrol the device under"
                " another terminal id, and have that one replace it"
            )

    def _check_ready(self, serving: Device, *, old: Device, new: Device) -> None:
        """As for its activation; where the old device is lost its name proves nothing any more."""
        lost = old.state is DeviceState.LOST
        if new.state is DeviceState.ACTIVE and not lost:
            return
        known = serving.known_by_name or not lost
        asked = replace(
            serving,
            terminal_id=new.terminal_id,  # the one that a remedy is for
            keys_of=serving.keyed_as,
            known_by_name=known,
        )
        missing = self._registry.missing(asked)
        if missing:
            raise OperatorError(f"{new.terminal_id.rstrip()} is not ready: {missing}")

    def _in_force(self, old_id: str, new_id: str, *, keep_ids: bool) -> Replacement | None:
        """This very replacement, if it was the last that happened to both."""
        last = next((one for one in reversed(self._made.values()) if one.old_id == old_id), None)
        wanted = (new_id, keep_ids)
        if last is None or last.standing is Standing.UNDONE:
            return None
        if (last.new_id, last.kept_ids) != wanted:
            return None
        frozen = self._registry.get(old_id if keep_ids else new_id)
        return last if frozen.state is DeviceState.REPLACED else None

    def _latest(self, old_id: str) -> Replacement:
        found = [one for one in self._made.values() if one.old_id == old_id]
        if not found:
            raise NoSuchThing(f"{old_id.rstrip()} was not replaced by any device")
        return found[-1]

    async def _has_transacted(self, made: Replacement) -> bool:
        """Whether the new device has, or is about to."""
        if self._around.busy(made.serving_id):
            return True
        since_ms = made.at_ms - _LOOKED_BACK_MS
        criteria = Criteria(terminal_id=made.serving_id, from_ms=since_ms)
        found = await self._around.store.select(criteria, _LOOKED_AT)
        return any(one.activation == made.activation for one in found)

    def _keys_over(self, made: Replacement) -> list[str]:
        """The terminal ids whose keys were the old device's alone."""
        used = {one.keyed_as for one in self._registry.rows() if one.keys_of}
        used.add(made.new.keyed_as)
        owners = dict.fromkeys((made.old.keyed_as, made.old_id))
        return [owner.rstrip() for owner in owners if owner not in used]

    # --- what becomes of both ---------------------------------------------------------------------

    async def _taken_over(self, old: Device, new: Device, reason: str) -> _Change:
        """The new device speaks under the old one's terminal id."""
        used = (one.activation for one in self._made.values() if one.serving_id == old.terminal_id)
        taken = self._registry.moved(old, Move.TAKE_OVER, reason)
        taken = replace(
            taken,
            # Counted up: STANs that begin at 1 again meet no old answer.
            activation=max(old.activation, *used, 0) + 1,
            certificate_sha256=new.certificate_sha256,
            old_certificate_sha256=new.old_certificate_sha256,
            old_until_ms=new.old_until_ms,
            known_by_name=False,
            serial=new.serial,
            model=new.model,
            networks=new.networks,
            inspected=new.inspected,
            inspected_by=new.inspected_by,
            # Bound to this id as they are: no key is copied, nor wrapped anew.
            keys_of="" if new.keyed_as == old.terminal_id else new.keyed_as,
            inherits=_inherited(old, *old.inherits),
        )
        given_up = self._registry.moved(new, Move.REPLACE, f"goes on as {old.terminal_id.rstrip()}")
        if old.device_id == new.device_id == 0:
            given_up = replace(given_up, device_id=taken.device_id + 1)
        given_up = replace(given_up, old_certificate_sha256="", old_until_ms=0)
        return _Change(taken, replace(given_up, certificate_sha256="", known_by_name=False))

    async def _kept_apart(self, old: Device, new: Device, reason: str) -> _Change:
        """The new device keeps its own terminal id, and its batch carries the old one's."""
        frozen = self._registry.moved(old, Move.REPLACE, reason)
        serving = self._registry.moved(new, Move.TAKE_OVER, reason)
        if old.device_id == new.device_id == 0:
            serving = replace(serving, device_id=frozen.device_id + 1)
        serving = replace(serving, inherits=_inherited(old, *new.inherits, *old.inherits))
        open_batch = self._around.batches.open_of(old.terminal_id)
        if open_batch is None:
            return _Change(frozen, serving)
        own = await self._batch_of(new.terminal_id)
        carried = (*own.carried, *open_batch.carried, open_batch.name)
        own = replace(own, carries="\t".join(carried))
        now_ms = self._around.clock.wall_ms()
        moved = replace(open_batch, closed_ms=now_ms, reported=f"carried by {own.name}")
        return _Change(frozen, serving, (moved, own))

    async def _batch_of(self, terminal_id: str) -> Batch:
        """The terminal's open batch, or its next one."""
        open_batch = self._around.batches.open_of(terminal_id)
        if open_batch is not None:
            return open_batch
        last = await self._around.store.batches(terminal_id, 1)
        return Batch(
            terminal_id=terminal_id,
            number=last[0].number + 1 if last else 1,
            opened_ms=self._around.clock.wall_ms(),
        )

    async def _batches_before(self, made: Replacement) -> tuple[Batch, ...]:
        """Both batches as they were, where they were moved."""
        if not made.kept_ids or not made.batch:
            return ()
        own = await self._batch_of(made.new_id)
        found = await self._around.store.batches(made.old_id, 10)
        moved = next((one for one in found if one.number == made.batch), None)
        if moved is None:
            raise OperatorError(
                f"batch {made.batch} of {made.old_id.rstrip()} is not kept any more: replace"
                f" {made.new_id.rstrip()} by another device instead"
            )
        gone = {*moved.carried, moved.name}
        left = "\t".join(name for name in own.carried if name not in gone)
        return replace(own, carries=left), replace(moved, closed_ms=0, reported="")

    async def _commit(
        self, made: Replacement, change: _Change, what: str, *, who: str, reason: str
    ) -> None:
        """All of it in one commit of the store; memory says the same after it, and not before."""
        names = {made.old_id: made.new_id.rstrip(), made.new_id: made.old_id.rstrip()}
        words = {"replace": ("replaced by", "replaces"), "undo": ("not replaced by", "no longer")}
        events: list[Operation] = [
            self._registry.event(
                device,
                what,
                who=who,
                reason=reason,
                detail=f"{said} {names[device.terminal_id]}",
                before=self._registry.get(device.terminal_id),
            )
            for device, said in zip((change.old, change.new), words[what], strict=True)
        ]
        await self._registry.keep(
            [change.old, change.new],
            *map(PutBatch, change.batches),
            PutReplacement(made),
            *events,
        )
        self._made[made.replacement_id] = made
        for batch in change.batches:
            self._around.batches.put(batch)


def _inherited(old: Device, *before: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    """What a device goes on with that replaces `old`; the latest last."""
    return (*before, (old.terminal_id, old.activation))[-INHERITED_MAX:]
