"""What is done with a device's keys, as lines of its history."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.keys.records import KeyPurpose, StoredKey, terminal_owner
from gateway.store.store import DeviceEvent, NoteDevice
from gateway.wire.id_patterns import padded

_TERMINAL = terminal_owner("")


# A terminal's sign-on replaces them every so often: their ends are no events of its life.
_RENEWED = frozenset((KeyPurpose.PIN, KeyPurpose.MAC, KeyPurpose.DATA))


def device_notes(keys: Iterable[StoredKey], *, at_ms: int, who: str) -> list[NoteDevice]:
    """A line for each key of a terminal as it is by now, to be committed with it.

    `who` is the operator; "" where a key's time was over, which is told of keys that people enter.
    """
    return [
        NoteDevice(
            DeviceEvent(
                terminal_id=padded(key.owner.removeprefix(_TERMINAL)),
                at_ms=at_ms,
                who=who,
                what=f"key {key.state}",
                detail=f"{key.purpose}.{key.version}, {key.algorithm}"
                + (f", check value {key.check_value}" if key.check_value else ""),
            )
        )
        for key in keys
        if key.owner.startswith(_TERMINAL) and (who or key.purpose not in _RENEWED)
    ]
