"""What is done with a device's keys, as lines of its history."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.keys.records import StoredKey, terminal_owner
from gateway.store.store import DeviceEvent, NoteDevice
from gateway.wire.id_patterns import padded

_TERMINAL = terminal_owner("")


def device_notes(keys: Iterable[StoredKey], *, at_ms: int) -> list[NoteDevice]:
    """A line for each key of a terminal as it is by now, to be committed with it.

    Who it was is in the audit log, under the action that changed the key.
    """
    return [
        NoteDevice(
            DeviceEvent(
                terminal_id=padded(key.owner.removeprefix(_TERMINAL)),
                at_ms=at_ms,
                who="an operator",
                what=f"key {key.state}",
                detail=f"{key.purpose}.{key.version}, {key.algorithm}"
                + (f", check value {key.check_value}" if key.check_value else ""),
            )
        )
        for key in keys
        if key.owner.startswith(_TERMINAL)
    ]
