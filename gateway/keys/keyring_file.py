"""The keyring file: the gateway's own keys, wrapped, and what wraps them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.kek_sources import LOG2_N_MAX, KekRecord
from gateway.keys.key_encryption import KeyEncryption
from gateway.keys.keyring import OWN_ALGORITHMS, VERSION_MAX
from gateway.keys.records import GATEWAY, KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.keys.secret_files import read_secret, write_secret

# 1, in the clear, was never released.
FORMAT = 2
_PROOF_CONTEXT = b"keyring"
_SOURCES = ("passphrase", "components", "pkcs11")


@dataclass(frozen=True, slots=True)
class KeyringFile:
    """What a keyring file says. Its proof binds all of it to the key-encryption key in force.

    There are two key-encryption keys while they are being changed, else one.
    """

    keks: tuple[KekRecord, ...]
    in_force: str  # the name of the key-encryption key that new keys are wrapped under
    keys: tuple[StoredKey, ...]  # all of the owner GATEWAY
    proof: bytes = b""

    @classmethod
    def read(cls, path: Path) -> KeyringFile:
        """The keyring file at a path; whether its proof is right is for `check` to say.

        Raises OperatorError where it is absent, open to others, or not a keyring of this format.
        """
        data = read_secret(
            path,
            "keyring",
            remedy="`gateway keys init` makes one (`create = true` under [keys] for development)",
        )
        try:
            return _parse(json.loads(data))
        except OperatorError as error:
            raise OperatorError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            # The cause is not chained: its text could quote the file.
            raise OperatorError(f"{path}: not a keyring file") from None

    def write(self, path: Path, kek: KeyEncryption, *, new: bool = False) -> KeyringFile:
        """Write it, with its proof under the key in force, in place of what is there.

        A crash leaves what was there, or this. Returns it as it was written. Raises OperatorError
        where `new` and a file is there, or it cannot be written.
        """
        proven = replace(self, proof=kek.wrap(self._digest(), _PROOF_CONTEXT))
        document = {**self._document(), "proof": _text_of(proven.proof)}
        text = json.dumps(document, indent=2).encode() + b"\n"
        try:
            write_secret(path, text, replace=not new)
        except FileExistsError:
            raise OperatorError(f"{path}: exists already; a keyring is not overwritten") from None
        except OSError as error:
            raise OperatorError(f"{path}: cannot be written: {error.strerror}") from None
        return proven

    def check(self, kek: KeyEncryption) -> None:
        """Raises KeyUnavailable where the file is not as the key in force has written it."""
        if not hmac.compare_digest(kek.unwrap(self.proof, _PROOF_CONTEXT), self._digest()):
            raise KeyUnavailable(
                "the keyring was changed by something else than a gateway: restore the last copy"
            )

    def _digest(self) -> bytes:
        return hashlib.sha256(json.dumps(self._document(), sort_keys=True).encode()).digest()

    def _document(self) -> dict[str, Any]:
        """All but the proof."""
        return {
            "format": FORMAT,
            "in_force": self.in_force,
            "key_encryption_keys": [
                {
                    "name": one.name,
                    "source": one.source,
                    **({"salt": one.salt.hex(), "log2_n": one.log2_n} if one.salt else {}),
                }
                for one in self.keks
            ],
            "keys": [
                {
                    "purpose": key.purpose.value,
                    "version": key.version,
                    "algorithm": key.algorithm.value,
                    "state": key.state.value,
                    "start_ms": key.start_ms,
                    "end_ms": key.end_ms,
                    "check_value": key.check_value,
                    "kek": key.kek,
                    "wrapped": _text_of(key.wrapped),
                }
                for key in self.keys
            ],
        }


def _parse(document: Any) -> KeyringFile:
    if document["format"] != FORMAT:
        raise OperatorError(
            f"format {document['format']!r} is not known here, only {FORMAT}; "
            "another version of the gateway wrote it"
        )
    keks = tuple(_parse_kek(entry) for entry in document["key_encryption_keys"])
    in_force = document["in_force"]
    if in_force not in {one.name for one in keks}:
        raise OperatorError("the key-encryption key in force is not among those it names")
    return KeyringFile(
        keks=keks,
        in_force=in_force,
        keys=tuple(_parse_key(entry) for entry in document["keys"]),
        proof=_base64(document["proof"]),
    )


def _parse_kek(entry: Mapping[str, Any]) -> KekRecord:
    source, name = entry["source"], entry["name"]
    if source not in _SOURCES or type(name) is not str:
        raise ValueError
    log2_n = entry.get("log2_n", 0)
    if type(log2_n) is not int or not 0 <= log2_n <= LOG2_N_MAX:
        raise OperatorError(f"scrypt's log2_n is not a number up to {LOG2_N_MAX}")
    return KekRecord(
        name=name, source=source, salt=bytes.fromhex(entry.get("salt", "")), log2_n=log2_n
    )


def _parse_key(entry: Mapping[str, Any]) -> StoredKey:
    purpose = KeyPurpose(entry["purpose"])
    algorithm = OWN_ALGORITHMS[purpose]
    version = entry["version"]
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise OperatorError(f"a version of {purpose.value} is not a number from 1 to {VERSION_MAX}")
    name = f"{purpose.value}.{version}"
    if entry["algorithm"] != algorithm.value:
        raise OperatorError(f"{name}: algorithm is not {algorithm.value}")
    times = entry["start_ms"], entry["end_ms"]
    if any(type(time) is not int for time in times):
        raise OperatorError(f"{name}: start_ms and end_ms are whole numbers")
    return StoredKey(
        owner=GATEWAY,
        purpose=purpose,
        version=version,
        algorithm=KeyAlgorithm(algorithm),
        state=StoredKeyState(entry["state"]),
        start_ms=times[0],
        end_ms=times[1],
        check_value=str(entry["check_value"]),
        kek=str(entry["kek"]),
        wrapped=_base64(entry["wrapped"]),
    )


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
