"""A security module in software: clear keys live in this process, for as long as they are used."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys import dukpt_aes, dukpt_tdes, key_block
from gateway.keys.block_ciphers import AES_FAMILY, DES_FAMILY, BlockCipher
from gateway.keys.check_value import check_value
from gateway.keys.des_keys import is_weak, with_odd_parity
from gateway.keys.mac import WIRE_BYTES, MacFunction, mac_function
from gateway.keys.message_security import KeyForm, MacScheme, MalformedPin, PinFormat, PinKey
from gateway.keys.pin_block import PinCipher, deciphered, encipher
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.keys.usage import (
    DATA_KEYS,
    MAC_KEYS,
    PIN_SOURCES,
    PIN_TARGETS,
    check_use,
    check_wrapping,
)

Unwrap = Callable[[StoredKey], bytes]
Wrap = Callable[[bytes, StoredKey], StoredKey]

_BLOCK_VERSIONS = {KeyForm.TR31_B: "B", KeyForm.TR31_D: "D"}

HELD_MAX = 20_000  # prepared keys; about 5 KiB each


class PinCiphers(Protocol):
    """PIN keys that are used somewhere else, as inside a token."""

    def of(self, key: StoredKey) -> PinCipher | None:
        """A key's cipher; None where it is to be used here. Raises KeyUnavailable."""
        ...

    def forget(self, owner: str) -> None:
        """Drop whatever is held of an owner's keys."""
        ...


class SoftwareMessageSecurity:
    """MACs, PINs, data and keys with the keys of this process.

    `unwrap` gives the clear value of a stored key or raises KeyUnavailable; `wrap` gives the
    stored key that it is handed, with its value wrapped and the key-encryption key named. Both
    see to it that what a key is bound to (owner, purpose, version, algorithm) is authenticated.

    What was prepared of a key (its ciphers; of a base derivation key its value) is held for the
    next message, the least recently used going first above `held_max`. Not for use by two threads
    at once. What it is worth that a clear key is in no variable: the library keeps its own copy of
    it, and of the round keys, for as long as the cipher lives. Someone who can read this process's
    memory has the keys; that is why a software module claims no compliance (docs/keys.md).
    """

    __slots__ = ("_held", "_held_max", "_pin_ciphers", "_random", "_unwrap", "_wrap")

    def __init__(
        self,
        *,
        unwrap: Unwrap,
        wrap: Wrap,
        pin_ciphers: PinCiphers | None = None,
        held_max: int = HELD_MAX,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._unwrap = unwrap
        self._wrap = wrap
        self._pin_ciphers = pin_ciphers
        self._held_max = held_max
        self._random = random
        # By wrapped value, which names a key and its version; the key is compared as well.
        self._held: OrderedDict[bytes, _Held] = OrderedDict()

    # --- messages -----------------------------------------------------------------------------

    def mac(self, key: StoredKey, scheme: MacScheme, data: bytes) -> bytes:
        """The MAC over `data` as it goes on the wire: 8 bytes (UnionPay's: 8 ASCII digits)."""
        check_use(key, MAC_KEYS, "make or verify MACs")
        held = self._of(key)
        if held.mac is None or held.scheme is not scheme:
            held.mac = mac_function(scheme, key.algorithm, self._unwrap(key))
            held.scheme = scheme
        return held.mac(data)[:WIRE_BYTES]

    def verify_mac(self, key: StoredKey, scheme: MacScheme, data: bytes, mac: bytes) -> bool:
        """Whether a MAC is right, compared in constant time."""
        return hmac.compare_digest(self.mac(key, scheme, data), mac)

    def translate_pin(self, block: bytes, *, source: PinKey, target: PinKey, pan: str) -> bytes:
        """The same PIN under another key and format (8 bytes; ISO_4, and any under SM4: 16).

        The PIN exists between deciphering and enciphering, in buffers that are wiped. Raises
        MalformedPin where the block holds no PIN of the source's format, or the KSN is none that
        a device sends.
        """
        check_use(source.key, PIN_SOURCES, "decrypt a terminal's PIN")
        check_use(target.key, PIN_TARGETS, "encrypt a PIN for an upstream")
        outgoing = self._pin_cipher(target)
        incoming = self._pin_cipher(source)
        with deciphered(incoming, block, pin_format=source.format, pan=pan) as pin:
            return encipher(outgoing, pin, pin_format=target.format, pan=pan, random=self._random)

    def encrypt(self, key: StoredKey, data: bytes) -> bytes:
        """Data under a data key: CBC, initial vector of zeros; whole blocks only (ValueError)."""
        check_use(key, DATA_KEYS, "encrypt data")
        return self._cipher(key).encrypt_cbc(data)

    def decrypt(self, key: StoredKey, data: bytes) -> bytes:
        """The data again; whole blocks only (ValueError)."""
        check_use(key, DATA_KEYS, "decrypt data")
        return self._cipher(key).decrypt_cbc(data)

    # --- keys ---------------------------------------------------------------------------------

    def generate(
        self,
        *,
        owner: str,
        purpose: KeyPurpose,
        version: int,
        algorithm: KeyAlgorithm,
        start_ms: int,
        end_ms: int = 0,
    ) -> StoredKey:
        """A new random key in state PENDING, wrapped under the key-encryption key in force.

        DES and TDES keys have odd parity, which some devices ask for.
        """
        value = self._random(algorithm.bytes)
        if algorithm in DES_FAMILY:
            value = with_odd_parity(value)
        record = StoredKey(
            owner=owner,
            purpose=purpose,
            version=version,
            algorithm=algorithm,
            state=StoredKeyState.PENDING,
            start_ms=start_ms,
            end_ms=end_ms,
        )
        return self.keep(value, as_=record)

    def keep(self, value: bytes, *, as_: StoredKey) -> StoredKey:
        """A clear value, as components give it, kept as `as_` says: check value and wrapped value
        filled in. Raises OperatorError where it has not its algorithm's length, or is a DES key
        that is known to be weak."""
        if len(value) != as_.algorithm.bytes:
            raise OperatorError(
                f"{as_.name}: the key has {len(value)} bytes, and {as_.algorithm.value} has "
                f"{as_.algorithm.bytes}; check the algorithm that was named"
            )
        if as_.algorithm in DES_FAMILY and is_weak(value):
            raise OperatorError(f"{as_.name}: the key is one of the weak keys of DES; make another")
        stated = check_value(as_.algorithm, value).hex().upper()
        return self._wrap(value, replace(as_, check_value=stated))

    def export_under(self, key: StoredKey, master: StoredKey, form: KeyForm) -> bytes:
        """A key wrapped under a master key, for the other side; never under a working key.

        Key blocks are ASCII, and say that the key is not to be passed on. Raises KeyUnavailable
        where the master may not carry it, and OperatorError where the form cannot: ECB and CBC
        take whole blocks of the master's cipher.
        """
        check_wrapping(key, master)
        if not key.exportable:
            raise KeyUnavailable(f"{key.name} came in a key block that does not let it go further")
        version = _BLOCK_VERSIONS.get(form)
        try:
            if version is not None:
                header = key_block.header_for(key.purpose, key.algorithm, version=version)
                block = key_block.wrap(
                    self._unwrap(key),
                    header,
                    protection=self._unwrap(master),
                    protected_by=master.algorithm,
                    random=self._random,
                )
                return block.encode()
            cipher = self._cipher(master)
            value = self._unwrap(key)
            return cipher.encrypt(value) if form is KeyForm.ECB else cipher.encrypt_cbc(value)
        except ValueError as error:
            raise OperatorError(f"{key.name} under {master.name}: {error}") from None

    def import_under(
        self, wrapped: bytes, master: StoredKey, form: KeyForm, *, as_: StoredKey
    ) -> StoredKey:
        """The other side's key, kept as `as_` says, its check value and wrapped value filled in.

        In ECB and CBC nothing tells a wrong master or a damaged key: the caller compares the check
        value with the one that came along. A key block is authenticated, and says what its key is
        for, and whether it may go further: if not, `export_under` refuses it. Raises
        KeyUnavailable where the master may not carry it, and OperatorError where it does not
        unwrap, is for another purpose, or has not its algorithm's length.
        """
        check_wrapping(as_, master)
        version = _BLOCK_VERSIONS.get(form)
        if version is not None:
            header, value = self._from_block(wrapped, master, version, as_=as_)
            exportable = as_.exportable and header.exportability == key_block.EXPORTABLE
            return self.keep(value, as_=replace(as_, exportable=exportable))
        cipher = self._cipher(master)
        if len(wrapped) != as_.algorithm.bytes or len(wrapped) % cipher.block_bytes:
            raise OperatorError(
                f"{as_.name}: {len(wrapped)} bytes do not hold a {as_.algorithm.value} key "
                f"under a {master.algorithm.value} key in {form.value}; "
                f"{as_.algorithm.bytes} were expected"
            )
        clear = cipher.decrypt if form is KeyForm.ECB else cipher.decrypt_cbc
        return self.keep(clear(wrapped), as_=as_)

    def _from_block(
        self, wrapped: bytes, master: StoredKey, version: str, *, as_: StoredKey
    ) -> tuple[key_block.Header, bytes]:
        if wrapped[:1] != version.encode():
            raise OperatorError(f"{as_.name}: what came is no key block of version {version}")
        try:
            header, value = key_block.unwrap(
                wrapped.decode("ascii"),
                protection=self._unwrap(master),
                protected_by=master.algorithm,
            )
            key_block.check_header(header, as_.purpose, as_.algorithm)
        except (OperatorError, ValueError) as error:
            raise OperatorError(f"{as_.name}: {error}") from None
        return header, value

    def check_value_of(self, key: StoredKey, length: int) -> bytes:
        """The check value that goes on the wire beside a key: 2 to 5 bytes (else ValueError)."""
        return check_value(key.algorithm, self._unwrap(key), length=length)

    def forget(self, owner: str) -> None:
        """Drop whatever is held in memory of an owner's clear keys."""
        for name in [name for name, held in self._held.items() if held.key.owner == owner]:
            del self._held[name]
        if self._pin_ciphers is not None:
            self._pin_ciphers.forget(owner)

    # --- what is held -------------------------------------------------------------------------

    def _cipher(self, key: StoredKey) -> BlockCipher:
        held = self._of(key)
        if held.cipher is None:
            held.cipher = BlockCipher(key.algorithm, self._unwrap(key))
        return held.cipher

    def _pin_cipher(self, pin_key: PinKey) -> PinCipher:
        key = pin_key.key
        if key.purpose is not KeyPurpose.BASE_DERIVATION:
            if pin_key.ksn:
                raise KeyUnavailable(f"{key.name} came with a KSN, and derives no keys")
            elsewhere = self._pin_ciphers.of(key) if self._pin_ciphers is not None else None
            return self._cipher(key) if elsewhere is None else elsewhere
        held = self._of(key)
        if held.base is None:
            held.base = self._unwrap(key)
        try:
            algorithm, value = _derived_pin_key(pin_key, held.base)
        except ValueError as error:
            raise MalformedPin(str(error)) from None
        return BlockCipher(algorithm, value)

    def _of(self, key: StoredKey) -> _Held:
        held = self._held.get(key.wrapped)
        if held is None:
            if not key.wrapped:
                raise KeyUnavailable(f"{key.name} has no value")
            held = self._held[key.wrapped] = _Held(key)
            if len(self._held) > self._held_max:
                self._held.popitem(last=False)
            return held
        self._held.move_to_end(key.wrapped)
        if held.key is not key:
            if _bound(held.key) != _bound(key):
                # Unwrapping would notice it too: the value was wrapped for another row.
                raise KeyUnavailable(f"{key.name} holds the value of {held.key.name}")
            held.key = key
        return held

    def __repr__(self) -> str:
        return f"<SoftwareMessageSecurity, {len(self._held)} keys held>"


class _Held:
    """What was prepared of one key."""

    __slots__ = ("base", "cipher", "key", "mac", "scheme")

    def __init__(self, key: StoredKey) -> None:
        self.key = key
        self.cipher: BlockCipher | None = None
        self.mac: MacFunction | None = None
        self.scheme: MacScheme | None = None
        self.base: bytes | None = None  # a base derivation key itself: all comes from it anew


def _derived_pin_key(pin_key: PinKey, base: bytes) -> tuple[KeyAlgorithm, bytes]:
    """The key that DUKPT derives for a PIN block; raises ValueError where the KSN is none."""
    algorithm = pin_key.key.algorithm
    if algorithm is KeyAlgorithm.TDES_2:
        derived = dukpt_tdes.transaction_key(base, pin_key.ksn, dukpt_tdes.Variant.PIN)
        return algorithm, derived
    if algorithm not in AES_FAMILY:
        raise KeyUnavailable(f"{pin_key.key.name}: DUKPT has no {algorithm.value} base keys")
    usual = algorithm if pin_key.format is PinFormat.ISO_4 else KeyAlgorithm.TDES_2
    working = pin_key.working or usual
    derived = dukpt_aes.transaction_key(algorithm, base, pin_key.ksn, dukpt_aes.KeyUse.PIN, working)
    return working, derived


def _bound(key: StoredKey) -> tuple[str, KeyPurpose, int, KeyAlgorithm]:
    return key.owner, key.purpose, key.version, key.algorithm
