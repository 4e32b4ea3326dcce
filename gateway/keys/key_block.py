"""Key blocks (ASC X9.143, TR-31) of versions B and D: a key bound to what it may be used for."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.cmac import CMAC

from gateway.errors import OperatorError
from gateway.keys.block_ciphers import (
    AES_FAMILY,
    DES_FAMILY,
    BlockCipher,
    block_bytes,
    library_cipher,
)
from gateway.keys.records import KeyAlgorithm, KeyPurpose

HEADER_CHARS = 16
EXPORTABLE = "E"  # under a trusted key
BLOCK_CHARS_MAX = 9992  # what four digits can say, and blocks of 8

_LENGTH_BYTES = 2
_MAC_BYTES = {"B": 8, "D": 16}
_PROTECTION = {
    "B": frozenset({KeyAlgorithm.TDES_2, KeyAlgorithm.TDES_3}),
    "D": AES_FAMILY,
}
# Derivation data: the key that is derived, and how much of it (X9.143, 7.3.2 and 7.3.3).
_INDICATOR = {
    KeyAlgorithm.TDES_2: 0x0000,
    KeyAlgorithm.TDES_3: 0x0001,
    KeyAlgorithm.AES_128: 0x0002,
    KeyAlgorithm.AES_192: 0x0003,
    KeyAlgorithm.AES_256: 0x0004,
}
_ENCRYPTION, _AUTHENTICATION = 0x0000, 0x0001
# A key's data is as long as the algorithm's longest key, so that its length does not show.
_MASKED_BYTES = {"A": 32, "T": 24, "D": 8, "H": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a key block says of its key, in the clear but authenticated (X9.143, table 1)."""

    version: str  # "B": protected by a TDES key, "D": by an AES key
    usage: str  # "P0" PIN encryption, "M3" ISO 9797-1 MAC algorithm 3, "K0" wrapping, …
    algorithm: str  # "T" TDES, "D" DES, "A" AES, "H" HMAC
    mode: str  # "E" encrypt only, "B" both ways, "C" make and verify MACs, "X" derive, …
    key_version: str = "00"
    exportability: str = "N"  # "E" under a trusted key, "N" not, "S" by the sender's rule
    optional: str = ""  # optional blocks as they stand, with the one that pads
    optional_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What a key block may say for a purpose, the first of it being what is written."""

    usages: tuple[str, ...]
    modes: tuple[str, ...]
    sent_as: str = ""  # the mode for the other side, where its part is another than ours


_MAC_USAGES = ("M3", "M1", "M0", "M6")
# Our own side of each key. What the block permits has to cover it, so that a key that a terminal
# may only encrypt with does not become one that decrypts.
_USES = {
    KeyPurpose.PIN: _Use(usages=("P0",), modes=("D", "B", "N"), sent_as="E"),
    KeyPurpose.ZONE_PIN: _Use(usages=("P0",), modes=("E", "B", "N"), sent_as="D"),
    KeyPurpose.MAC: _Use(usages=_MAC_USAGES, modes=("C", "N")),
    KeyPurpose.ZONE_MAC: _Use(usages=_MAC_USAGES, modes=("C", "N")),
    KeyPurpose.DATA: _Use(usages=("D0",), modes=("B", "N")),
    KeyPurpose.ZONE_DATA: _Use(usages=("D0",), modes=("B", "N")),
    KeyPurpose.BASE_DERIVATION: _Use(usages=("B0",), modes=("X", "N")),
    KeyPurpose.TERMINAL_MASTER: _Use(usages=("K0", "K1"), modes=("B", "E", "N"), sent_as="D"),
    KeyPurpose.ZONE_MASTER: _Use(usages=("K0", "K1"), modes=("B", "N")),
}


def header_for(
    purpose: KeyPurpose, algorithm: KeyAlgorithm, *, version: str, exportability: str = "N"
) -> Header:
    """The header of a block in which a key goes to the other side, as its part of the key is.

    Raises ValueError where key blocks know no such purpose or algorithm.
    """
    use = _use(purpose)
    usage = use.usages[0]
    if usage == "M3" and algorithm in AES_FAMILY:
        usage = "M6"  # AES keys make CMACs
    return Header(
        version=version,
        usage=usage,
        algorithm=_letter(algorithm),
        mode=use.sent_as or use.modes[0],
        exportability=exportability,
    )


def check_header(header: Header, purpose: KeyPurpose, algorithm: KeyAlgorithm) -> None:
    """Raises OperatorError where a block's key is not for a purpose, or of an algorithm."""
    use = _use(purpose)
    if header.usage not in use.usages:
        raise OperatorError(
            f"the key block holds a key of usage {header.usage}, and a {purpose.value} key has "
            f"{' or '.join(use.usages)}: import it as what it is"
        )
    if header.mode not in use.modes:
        raise OperatorError(
            f"the key block permits mode of use {header.mode}, and a {purpose.value} key wants "
            f"{' or '.join(use.modes)}: ask the sender for another block"
        )
    if header.algorithm != _letter(algorithm):
        raise OperatorError(
            f"the key block's algorithm is {header.algorithm}, and {algorithm.value} is "
            f"{_letter(algorithm)}: check the algorithm that was named"
        )


def wrap(
    key: bytes,
    header: Header,
    *,
    protection: bytes,
    protected_by: KeyAlgorithm,
    random: Callable[[int], bytes],
) -> str:
    """A key as a key block: header, then enciphered key and MAC as hexadecimal digits.

    Raises ValueError where the protecting key is of the wrong kind for the version, or what is
    handed in is no header.
    """
    size = _check_protection(header.version, protected_by)
    masked = max(_MASKED_BYTES.get(header.algorithm, 0), len(key))
    padding = masked - len(key) + -(_LENGTH_BYTES + masked) % size
    clear = (8 * len(key)).to_bytes(_LENGTH_BYTES, "big") + key + random(padding)
    mac_bytes = _MAC_BYTES[header.version]
    chars = HEADER_CHARS + len(header.optional) + 2 * (len(clear) + mac_bytes)
    text = (
        f"{header.version}{chars:04d}{header.usage}{header.algorithm}{header.mode}"
        f"{header.key_version}{header.exportability}{header.optional_count:02d}00{header.optional}"
    )
    if chars > BLOCK_CHARS_MAX or parse(text.ljust(chars, "0")) != header:
        raise ValueError(f"{text[:HEADER_CHARS]} is no header of a key block")
    encryption, authentication = _derived(protection, protected_by)
    mac = _mac(authentication, protected_by, text.encode() + clear)
    enciphered = BlockCipher(protected_by, encryption).encrypt_cbc(clear, iv=mac)
    return text + enciphered.hex().upper() + mac.hex().upper()


def unwrap(block: str, *, protection: bytes, protected_by: KeyAlgorithm) -> tuple[Header, bytes]:
    """What a key block says of its key, and the key.

    Raises OperatorError where it is no block of version B or D, or was not made with this
    protecting key; whether the key suits is then for `check_header`.
    """
    header = parse(block)
    try:
        size = _check_protection(header.version, protected_by)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    mac_bytes = _MAC_BYTES[header.version]
    start = HEADER_CHARS + len(header.optional)
    try:
        body = bytes.fromhex(block[start:])
    except ValueError:
        raise OperatorError(
            f"the key block holds something else than hexadecimal digits from character {start} on"
        ) from None
    enciphered, mac = body[:-mac_bytes], body[-mac_bytes:]
    if not enciphered or len(enciphered) % size or 2 * len(body) != len(block) - start:
        raise OperatorError(f"the key block's key is not whole blocks of {size} bytes")
    encryption, authentication = _derived(protection, protected_by)
    clear = BlockCipher(protected_by, encryption).decrypt_cbc(enciphered, iv=mac)
    made = _mac(authentication, protected_by, block[:start].encode() + clear)
    if not hmac.compare_digest(made, mac):
        raise OperatorError(
            "the key block was changed, or made with another protecting key: compare the "
            "check values of both sides' masters"
        )
    bits = int.from_bytes(clear[:_LENGTH_BYTES], "big")
    if bits % 8 or not 0 < bits // 8 <= len(clear) - _LENGTH_BYTES:
        raise OperatorError(f"the key block says that its key has {bits} bits: that cannot be")
    return header, clear[_LENGTH_BYTES : _LENGTH_BYTES + bits // 8]


def parse(block: str) -> Header:
    """What a key block says of itself, not authenticated yet. Raises OperatorError."""
    if not block.isascii() or not block.isprintable() or len(block) < HEADER_CHARS:
        raise OperatorError(f"a key block begins with {HEADER_CHARS} ASCII characters of header")
    version = block[0]
    if version in "AC":
        raise OperatorError(
            f"the key block is of version {version}, whose key is not bound to its header well "
            "enough (X9.143 withdrew it): ask the sender for version B or D"
        )
    if version not in _MAC_BYTES:
        raise OperatorError(f"a key block of version {version} is not known here, only B and D")
    if not block[1:5].isdecimal() or int(block[1:5]) != len(block):
        raise OperatorError(
            f"the key block says {block[1:5]} characters, and {len(block)} are there: "
            "it was cut, or has a line end in it"
        )
    if not block[12:14].isdecimal():
        raise OperatorError("the key block's number of optional blocks (characters 13, 14) is none")
    count = int(block[12:14])
    return Header(
        version=version,
        usage=block[5:7],
        algorithm=block[7],
        mode=block[8],
        key_version=block[9:11],
        exportability=block[11],
        optional=block[HEADER_CHARS : _end_of_optional(block, count)],
        optional_count=count,
    )


def _end_of_optional(block: str, count: int) -> int:
    """Where the optional blocks end: each is an id (2), its length with both (2 hex digits), data;
    length 00 says that its length follows in more digits (X9.143, 6.3.6)."""
    at = HEADER_CHARS
    for _ in range(count):
        try:
            length = int(block[at + 2 : at + 4], 16)
            shortest = 4
            if not length:
                digits = 2 * int(block[at + 4 : at + 6], 16)
                length = int(block[at + 6 : at + 6 + digits], 16)
                shortest = 6 + digits
        except ValueError:
            length, shortest = 0, 4
        if length < shortest or at + length > len(block):
            raise OperatorError(f"the key block's optional block at character {at} has no length")
        at += length
    return at


def _check_protection(version: str, protected_by: KeyAlgorithm) -> int:
    allowed = _PROTECTION.get(version, frozenset())
    if protected_by not in allowed:
        raise ValueError(
            f"a key block of version {version} is protected by a key of "
            f"{' or '.join(sorted(each.value for each in allowed))}, not {protected_by.value}"
        )
    return block_bytes(protected_by)


def _derived(protection: bytes, algorithm: KeyAlgorithm) -> tuple[bytes, bytes]:
    """The keys that encipher and authenticate: CMACs of derivation data (X9.143, 7.3.2, 7.3.3)."""
    keyed = CMAC(library_cipher(algorithm, protection))
    size = block_bytes(algorithm)

    def derive(use: int) -> bytes:
        parts = []
        for number in range(1, -(-algorithm.bytes // size) + 1):
            mac = keyed.copy()
            mac.update(
                number.to_bytes(1, "big")
                + use.to_bytes(2, "big")
                + b"\0"
                + _INDICATOR[algorithm].to_bytes(2, "big")
                + (8 * algorithm.bytes).to_bytes(2, "big")
            )
            parts.append(mac.finalize())
        return b"".join(parts)[: algorithm.bytes]

    return derive(_ENCRYPTION), derive(_AUTHENTICATION)


def _mac(key: bytes, algorithm: KeyAlgorithm, data: bytes) -> bytes:
    mac = CMAC(library_cipher(algorithm, key))
    mac.update(data)
    return mac.finalize()


def _use(purpose: KeyPurpose) -> _Use:
    use = _USES.get(purpose)
    if use is None:
        raise ValueError(f"{purpose.value} keys do not leave or enter in key blocks")
    return use


def _letter(algorithm: KeyAlgorithm) -> str:
    if algorithm in AES_FAMILY:
        return "A"
    if algorithm in DES_FAMILY:
        return "D" if algorithm is KeyAlgorithm.DES else "T"
    if algorithm is KeyAlgorithm.HMAC_SHA256:
        return "H"
    raise ValueError(f"X9.143 has no letter for {algorithm.value} keys: use form ecb or cbc")
