"""What a terminal encrypts: which keys its PIN block may be under, and its data in the clear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gateway.errors import KeyUnavailable
from gateway.keys.key_table import KeyTable
from gateway.keys.message_security import MessageSecurity, PinFormat, PinKey
from gateway.keys.records import GATEWAY, KeyPurpose, StoredKey, terminal_owner
from gateway.settings.schema_keys_use import TerminalData, TerminalPin
from gateway.store.store import Device
from gateway.terminals.key_service import KeyService
from gateway.wire.data_blocks import track_block, whole_decrypted
from gateway.wire.dialect import Dialect
from gateway.wire.message import Message
from gateway.wire.working_keys import is_binary

_SECURITY_CONTROL = 53
_KSN_BYTES = (10, 12)  # TDES DUKPT, AES DUKPT


class ClearValues:
    """Finds the keys of a device for what it encrypts.

    `mac_key` is what its message was under, None where it has no MAC: the keys that were handed
    out together are tried first.
    """

    def __init__(self, *, table: KeyTable, security: MessageSecurity, service: KeyService) -> None:
        self._table = table
        self._security = security
        self._service = service

    def pins(
        self,
        message: Message,
        device: Device,
        pin: TerminalPin,
        *,
        mac_key: StoredKey | None,
        now_ms: int,
    ) -> Sequence[PinKey]:
        """What a PIN block may be under, the likeliest first; none where the device has no key.

        Raises ValueError where there is no key serial number, and KeyUnavailable where there is no
        base derivation key.
        """
        form = PinFormat(pin.format)
        if pin.key == "session":
            keys = self._together(device, KeyPurpose.PIN, mac_key, now_ms)
            return [PinKey(key=key, format=form) for key in keys]
        ksn = bytes.fromhex(message.get(pin.ksn_field).strip())
        if len(ksn) not in _KSN_BYTES:
            raise ValueError(f"a KSN of {len(ksn)} bytes")
        return (PinKey(key=self._base_key(device, now_ms), format=form, ksn=ksn),)

    def clear(
        self,
        message: Message,
        device: Device,
        data: TerminalData,
        *,
        dialect: Dialect,
        mac_key: StoredKey | None,
        now_ms: int,
    ) -> Message:
        """The message with its data decrypted: permissions, limits and routes go by the card.

        Raises ValueError where that is none, and KeyUnavailable where the device has no key.
        """
        control = message.get(_SECURITY_CONTROL)
        if not data.always and control[2:3] != "1":
            return message
        numbers = [number for number in data.fields if number in message.fields]
        if not numbers:
            return message
        keys = self._together(device, KeyPurpose.DATA, mac_key, now_ms)
        if not keys:
            raise KeyUnavailable(f"{device.terminal_id.rstrip()} has no data key")
        decrypt = partial(self._security.decrypt, keys[0])
        fields = dict(message.fields)
        for number in numbers:
            if data.form == "unionpay":
                fields[number] = track_block(fields[number], decrypt)
            else:
                binary = is_binary(dialect, number)
                fields[number] = whole_decrypted(fields[number], decrypt, binary=binary)
        if len(control) > 2:
            fields[_SECURITY_CONTROL] = f"{control[:2]}0{control[3:]}"
        return Message(message.mti, fields, message.raw, message.pads)

    def _base_key(self, device: Device, now_ms: int) -> StoredKey:
        """A device's own base derivation key, else its profile's, else that of all."""
        purpose = KeyPurpose.BASE_DERIVATION
        for owner in (terminal_owner(device.keyed_as), f"profile:{device.profile}"):
            found = self._table.usable(owner, purpose, now_ms)
            if found:
                return found[0]
        return self._table.current(GATEWAY, purpose, now_ms)

    def _together(
        self, device: Device, purpose: KeyPurpose, mac_key: StoredKey | None, now_ms: int
    ) -> list[StoredKey]:
        found = self._service.candidates(device.keyed_as, purpose, now_ms)
        if mac_key is not None:
            found.sort(key=lambda key: key.start_ms != mac_key.start_ms)
        return found
