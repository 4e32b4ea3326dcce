"""Keyed: devices with a master key each, and the ceremony that brings their keys to the gateway."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from gateway.wire.codec import Codec
from gateway.wire.message import Message
from loadtest.processes import python, run_once
from loadtest.run.secure import NotGenuine
from loadtest.terminal_keys import BadKeys, TerminalKeys
from loadtest.zone_crypto import check_value, encrypted

PIN = "1234"
_KEYS_FIELD = 62
_KEY_BYTES = 16
_ALGORITHM = ("--algorithm", "TDES-2")
_TRANSPORT = "transport:hand"
_IMPORT_S = 600.0

# What the gateway asks of them, in its configuration.
PROFILE = """
[profiles.keys]
sign_on = true
mac = "x9.19"
pin = { format = "0" }

[profiles.keys.working]
purposes = ["pin", "mac"]

"""
UPSTREAM = """
[upstreams.keys]
mac = "x9.19"
pin = "translate"
exchange = { purposes = ["zone-pin", "zone-mac"], field = 48 }
"""
# A storm of devices that call again is not an attack here.
LOCKOUT = """
[lockout]
sign_ons_max = 10_000
"""


def master_key(secret: bytes, terminal_id: str) -> bytes:
    """A device's master key; both the workers and the ceremony know the run's secret."""
    return hmac.digest(secret, terminal_id.encode(), hashlib.sha256)[:_KEY_BYTES]


class DeviceKeys:
    """The keys of one device: see `Secure`."""

    def __init__(self, master: bytes, codec: Codec) -> None:
        self._keys = TerminalKeys(master, "x9.19")
        self._codec = codec

    def sign_on(self, request: Message) -> Message:
        """As it is: that the answer has keys is the profile's matter."""
        return request

    def signed_on(self, answer: Message) -> None:
        """Takes the working keys of DE62; raises NotGenuine."""
        try:
            self._keys.take(bytes.fromhex(answer.get(_KEYS_FIELD)))
        except (BadKeys, ValueError) as error:
            raise NotGenuine(f"the keys of the sign-on: {error}") from None

    def seal(self, request: Message, *, pan: str, with_pin: bool) -> bytes:
        """The body with its MAC, and the customer's PIN where it is wanted."""
        if with_pin and pan:
            request = self._keys.with_pin(request, PIN)
        return self._keys.sealing.body(self._codec, request)

    def check(self, answer: Message) -> None:
        """Raises NotGenuine for an answer without the right MAC."""
        if not self._keys.sealing.fits(self._codec, answer):
            raise NotGenuine("an answer whose MAC is wrong")


class Ceremony:
    """The keys of one run, from their making to the gateway's store; nothing of them is kept."""

    def __init__(self, folder: Path) -> None:
        self.secret = secrets.token_bytes(_KEY_BYTES)
        self._folder = folder
        self._zones: dict[str, bytes] = {}

    def acquirer_file(self, name: str) -> Path:
        """The file that an acquirer reads its zone master key from."""
        zone = self._zones[name] = secrets.token_bytes(_KEY_BYTES)
        file = self._folder / f"{name}.keys.json"
        _write(file, json.dumps({"zmk": zone.hex(), "pin": PIN}))
        return file

    async def enter(self, config: Path, terminal_ids: Sequence[str]) -> None:
        """Enters a transport key by two components, and under it those of all acquirers and
        devices. Raises ChildFailed."""
        halves = [secrets.token_bytes(_KEY_BYTES) for _ in range(2)]
        transport = bytes(a ^ b for a, b in zip(*halves, strict=True))
        components: list[str] = []
        for number, half in enumerate(halves):
            file = self._folder / f"component-{number}"
            _write(file, f"{half.hex().upper()}\n{_told(half)}\n")
            components += ["--component-file", str(file)]
        entered = ("--config", str(config))
        command = python("gateway", "keys", "import", _TRANSPORT, "zone-master", *_ALGORITHM)
        await run_once(*command, "--components", "2", *components, *entered)
        under = ("--under", _TRANSPORT)
        for name, zone in self._zones.items():
            command = python("gateway", "keys", "import", f"upstream:{name}", "zone-master")
            wrapped = ("--wrapped", encrypted(transport, zone).hex().upper())
            values = (*_ALGORITHM, *under, *wrapped, "--check-value", _told(zone))
            await run_once(*command, *values, *entered)
        rows = ["terminal_id,key,check_value"]
        for terminal_id in terminal_ids:
            master = master_key(self.secret, terminal_id)
            wrapped_key = encrypted(transport, master).hex().upper()
            rows.append(f"{terminal_id},{wrapped_key},{_told(master)}")
        file = self._folder / "masters.csv"
        _write(file, "\n".join(rows) + "\n")
        command = python("gateway", "keys", "import-many", str(file), *_ALGORITHM, *under)
        await run_once(*command, *entered, timeout_s=_IMPORT_S)


def _told(key: bytes) -> str:
    """A check value as people write it: six digits."""
    return check_value(key)[:3].hex().upper()


def _write(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text, encoding="ascii")
