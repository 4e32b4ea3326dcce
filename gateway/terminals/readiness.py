"""Whether a device has what its profile asks of it, before it is activated (no I/O)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gateway.keys.records import GATEWAY, KeyPurpose, StoredKey, StoredKeyState, terminal_owner
from gateway.settings.schema_keys_use import ProfileKeys
from gateway.settings.schema_policy import Profile
from gateway.store.store import Device

_USABLE = (StoredKeyState.PENDING, StoredKeyState.ACTIVE, StoredKeyState.RETIRING)

KeysOf = Callable[[str], Iterable[StoredKey]]


def missing(device: Device, profiles: Sequence[Profile], keys_of: KeysOf) -> str:
    """What a device lacks to be activated, with what to do; "" where it lacks nothing.

    A device that was lost or replaced once is known by a certificate that is bound, or by keys: its
    name alone proves nothing any more.
    """
    wanted = next((one.keys for one in profiles if one.name == device.profile), ProfileKeys())
    name = device.terminal_id.rstrip()
    has_master = _has(keys_of(terminal_owner(device.keyed_as)), KeyPurpose.TERMINAL_MASTER)
    # Working keys come by a sign-on, wrapped under the master key: it is what has to be there.
    if (wanted.working is not None or wanted.mac is not None) and not has_master:
        return (
            f"profile {device.profile} wants working keys, and it has no master key with a check"
            f" value: `gateway keys import` enters one for {name}"
        )
    if wanted.pin is not None and wanted.pin.key == "dukpt":
        owners = (terminal_owner(device.keyed_as), f"profile:{device.profile}", GATEWAY)
        if not any(_has(keys_of(owner), KeyPurpose.BASE_DERIVATION) for owner in owners):
            return (
                f"profile {device.profile} wants PINs under DUKPT, and there is no base derivation"
                f" key for {name}: `gateway keys import` enters one"
            )
    if not device.known_by_name and not device.certificate_sha256 and not has_master:
        return (
            "it was lost or replaced, and has neither a certificate nor a master key since:"
            f" `gateway terminals bind {name}` binds a certificate"
        )
    return ""


def _has(keys: Iterable[StoredKey], purpose: KeyPurpose) -> bool:
    return any(
        key.purpose is purpose and key.state in _USABLE and bool(key.check_value) for key in keys
    )
