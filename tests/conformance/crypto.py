"""The vectors of cryptography that others published: each through our own interfaces."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import OperatorError
from gateway.keys import dukpt_aes, dukpt_tdes
from gateway.keys.block_ciphers import BlockCipher
from gateway.keys.check_value import check_value
from gateway.keys.mac import mac_function
from gateway.keys.message_security import KeyForm, MacScheme, PinFormat, PinKey
from gateway.keys.pin_block import deciphered, encipher
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey
from tests.support.message_keys import clear, record, software, stored

# The vectors belong to their sources: they are read in place, never copied here.
VECTORS = Path(__file__).resolve().parents[3] / "shared" / "domain" / "crypto_vectors.json"

OUT_OF_SCOPE = {
    "sm3-": "the gateway hashes nothing with SM3",
    "sm2-": "the gateway signs and verifies nothing with SM2",
    "sm4-gcm-": "what the gateway seals is sealed with AES-GCM; SM4 is for messages and keys",
    "tr31-A": "X9.143 withdrew version A; import_under refuses it",
}

Vector = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CryptoOutcome:
    """What became of one vector."""

    id: str
    text: str
    as_it_should: bool
    in_scope: bool = True


def vectors() -> list[Vector]:
    """All vectors; none where the folder is absent."""
    if not VECTORS.is_file():
        return []
    found: list[Vector] = json.loads(VECTORS.read_text("utf-8"))
    return found


def out_of_scope(vector: Vector) -> str:
    """Why a vector is not run; empty where it is."""
    reasons = [OUT_OF_SCOPE[each] for each in OUT_OF_SCOPE if vector["id"].startswith(each)]
    return reasons[0] if reasons else ""


def crypto_outcome(vector: Vector, everything: dict[str, Vector]) -> CryptoOutcome:
    """Whether a vector comes out as its source says; some take inputs of others."""
    reason = out_of_scope(vector)
    if reason:
        refused = vector["id"] != "tr31-A" or _is_refused(vector)
        return CryptoOutcome(vector["id"], f"out of scope: {reason}", refused, in_scope=False)
    for pattern, run in _RUNS:
        if re.fullmatch(pattern, vector["id"]):
            # One vector is not published, but was computed by others from published inputs.
            expected = vector["expected"]
            found, through = run(vector, everything)
            if expected is None:
                expected = vector["got"]["mac_ascii"]
            if isinstance(expected, str):
                expected, found = expected.upper(), found.upper()
            return CryptoOutcome(vector["id"], through, found == expected)
    return CryptoOutcome(vector["id"], "nothing here runs it", False)


# --- how each is run: what came out, and through what --------------------------------------------


def _key_under_master(vector: Vector, _: dict[str, Vector]) -> tuple[str, str]:
    master = stored(_hex(vector, "tmk"), KeyPurpose.TERMINAL_MASTER, KeyAlgorithm.TDES_2)
    as_ = record(KeyPurpose.MAC, KeyAlgorithm.DES)
    key = software().import_under(_hex(vector, "tak_enc"), master, KeyForm.ECB, as_=as_)
    return clear(key).hex(), "import_under, ecb"


def _unionpay_folding(vector: Vector, everything: dict[str, Vector]) -> tuple[Any, str]:
    """A message of one block is its own folding: it has the MAC of what folds to it."""
    key = bytes.fromhex(everything["cup-ecb-final-computed"]["inputs"]["key"])
    compute = mac_function(MacScheme.UNIONPAY_ECB, KeyAlgorithm.DES, key)
    data, expected = _hex(vector, "mab"), vector["expected"]
    if isinstance(expected, str):
        folds = compute(data) == compute(bytes.fromhex(expected))
        return expected if folds else "", "unionpay-ecb of the message and of its folding"
    found = [
        step
        for blocks, step in enumerate(expected, start=2)
        if compute(data[: 8 * blocks]) == compute(bytes.fromhex(step))
    ]
    return found, "unionpay-ecb of the message's beginnings and of their foldings"


def _unionpay_mac(vector: Vector, _: dict[str, Vector]) -> tuple[str, str]:
    key = stored(_hex(vector, "key"), KeyPurpose.MAC, KeyAlgorithm.DES)
    mac = software().mac(key, MacScheme.UNIONPAY_ECB, _hex(vector, "mab"))
    return mac.decode(), "mac, unionpay-ecb"


def _component(vector: Vector, _: dict[str, Vector]) -> tuple[str, str]:
    value = check_value(KeyAlgorithm.TDES_2, _hex(vector, "component"), length=2)
    return value.hex(), "check value of a component"


def _working_key(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    purpose = KeyPurpose.ZONE_PIN if "pik" in vector["id"] else KeyPurpose.ZONE_MAC
    key = _from_field_62(vector, everything, purpose)
    return check_value(key.algorithm, clear(key), length=4).hex(), "import_under, ecb; check value"


def _from_field_62(vector: Vector, everything: dict[str, Vector], purpose: KeyPurpose) -> StoredKey:
    parts = (_hex(everything[f"java8583-zmk-part{n}-kcv"], "component") for n in (1, 2))
    zone = bytes(a ^ b for a, b in zip(*parts, strict=True))
    master = stored(zone, KeyPurpose.ZONE_MASTER, KeyAlgorithm.TDES_2)
    (field,) = vector["inputs"].keys() - {"zmk"}
    as_ = record(purpose, KeyAlgorithm.TDES_2)
    return software().import_under(_hex(vector, field)[:16], master, KeyForm.ECB, as_=as_)


def _published_reversal(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    key = _from_field_62(everything["java8583-mak-kcv"], everything, KeyPurpose.ZONE_MAC)
    mac = software().mac(key, MacScheme.X9_19, _hex(vector, "mab"))
    return mac.hex(), "mac, x9.19, under the imported key"


def _retail(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    inputs = vector["inputs"] or everything["iso9797-alg3-bc"]["inputs"]
    scheme = MacScheme.X9_19_PAD_2 if vector["alg"].endswith("pad 2") else MacScheme.X9_19
    key = stored(bytes.fromhex(inputs["key"]), KeyPurpose.MAC, KeyAlgorithm.TDES_2)
    return software().mac(key, scheme, inputs["data"].encode()).hex(), f"mac, {scheme.value}"


def _cmac(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    key = vector["inputs"].get("key") or everything["cmac-rfc4493-1"]["inputs"]["key"]
    tdes = "tdes" in vector["id"]
    scheme = MacScheme.TDES_CMAC if tdes else MacScheme.AES_CMAC
    algorithm = KeyAlgorithm.TDES_3 if tdes else KeyAlgorithm.AES_128
    mac = mac_function(scheme, algorithm, bytes.fromhex(key))(_hex(vector, "data"))
    used = stored(bytes.fromhex(key), KeyPurpose.MAC, algorithm)
    assert software().mac(used, scheme, _hex(vector, "data")) == mac[:8]
    return mac.hex(), f"mac, {scheme.value}"


def _sm4(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    inputs = vector["inputs"] or everything["sm4-gbt32907-ex1"]["inputs"]
    value, block = (bytes.fromhex(inputs[name]) for name in ("key", "pt"))
    if "1,000,000" in vector["alg"]:
        encrypt = BlockCipher(KeyAlgorithm.SM4, value).encrypt
        for _ in range(1_000_000):
            block = encrypt(block)
        return block.hex(), "the block cipher"
    # One block chained to zeros is the block by itself.
    key = stored(value, KeyPurpose.DATA, KeyAlgorithm.SM4)
    sealed = software().encrypt(key, block)
    assert software().decrypt(key, sealed) == block
    return sealed.hex(), "encrypt and decrypt"


def _pin_field(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    inputs = vector["inputs"] or everything["pin-iso0"]["inputs"]
    cipher = BlockCipher(KeyAlgorithm.TDES_2, bytes(range(16)))
    block = encipher(
        cipher,
        bytearray(map(int, inputs["pin"])),
        pin_format=PinFormat.ISO_0,
        pan=inputs["pan"],
        random=secrets.token_bytes,
    )
    if vector["id"] == "pin-iso0":
        return cipher.decrypt(block).hex(), "encipher, format 0"
    with deciphered(cipher, block, pin_format=PinFormat.ISO_0, pan=inputs["pan"]) as pin:
        return "".join(map(str, pin)), "decipher, format 0"


def _pin_there_and_back(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    """To the format that is asked for, and read as the upstream reads it."""
    pan = everything["pin-iso0"]["inputs"]["pan"]
    wide = "iso4" in vector["id"]
    algorithm = KeyAlgorithm.AES_128 if wide else KeyAlgorithm.TDES_2
    value = bytes.fromhex(vector["inputs"].get("key", "")) or bytes(range(16))
    pin_format = PinFormat.ISO_4 if wide else PinFormat.ISO_3
    block = _translated(
        "1234", pan, PinKey(key=stored(value, KeyPurpose.ZONE_PIN, algorithm), format=pin_format)
    )
    cipher = BlockCipher(algorithm, value)
    with deciphered(cipher, block, pin_format=pin_format, pan=pan) as pin:
        return "".join(map(str, pin)), f"translate_pin, format 0 to {pin_format.value}"


def _pin_translated(_: Vector, __: dict[str, Vector]) -> tuple[str, str]:
    value = bytes(range(100, 116))
    target = stored(value, KeyPurpose.ZONE_PIN, KeyAlgorithm.TDES_2)
    block = _translated("123456", "1234567890123456", PinKey(key=target, format=PinFormat.ISO_0))
    return BlockCipher(KeyAlgorithm.TDES_2, value).decrypt(block).hex(), "translate_pin"


def _translated(pin: str, pan: str, target: PinKey) -> bytes:
    value = bytes(range(1, 17))
    source = stored(value, KeyPurpose.PIN, KeyAlgorithm.TDES_2)
    block = encipher(
        BlockCipher(KeyAlgorithm.TDES_2, value),
        bytearray(map(int, pin)),
        pin_format=PinFormat.ISO_0,
        pan=pan,
        random=secrets.token_bytes,
    )
    return software().translate_pin(
        block, source=PinKey(key=source, format=PinFormat.ISO_0), target=target, pan=pan
    )


def _tdes_initial_key(_: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    inputs = everything["dukpt-tdes-ipek"]["inputs"]
    key = dukpt_tdes.initial_key(bytes.fromhex(inputs["bdk"]), bytes.fromhex(inputs["ksn"]))
    return key.hex(), "DUKPT, TDES: initial key"


def _tdes_pin(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    inputs = vector["inputs"] or everything["dukpt-tdes-pin-E00001"]["inputs"]
    base = bytes.fromhex(everything["dukpt-tdes-ipek"]["inputs"]["bdk"])
    key = stored(base, KeyPurpose.BASE_DERIVATION, KeyAlgorithm.TDES_2)
    target = PinKey(key=key, format=PinFormat.ISO_0, ksn=bytes.fromhex(inputs["ksn"]))
    # What the vectors' algorithm names: PIN and card number.
    block = _translated("1234", "4012345678909", target)
    return block.hex(), "translate_pin, DUKPT with TDES"


def _aes_key(vector: Vector, everything: dict[str, Vector]) -> tuple[str, str]:
    inputs = everything["dukpt-aes128-ik"]["inputs"]
    base, device = (bytes.fromhex(inputs[name]) for name in ("bdk", "ikid"))
    if vector["id"].endswith("-ik"):
        key = dukpt_aes.initial_key(KeyAlgorithm.AES_128, base, device)
        return key.hex(), "DUKPT, AES: initial key"
    use = {
        "pin": dukpt_aes.KeyUse.PIN,
        "mac": dukpt_aes.KeyUse.MAC_GENERATION,
        "enc": dukpt_aes.KeyUse.DATA_ENCRYPTION,
    }[vector["id"].split("-")[2]]
    ksn = device + vector["inputs"]["ctr"].to_bytes(4, "big")
    key = dukpt_aes.transaction_key(KeyAlgorithm.AES_128, base, ksn, use, KeyAlgorithm.AES_128)
    return key.hex(), f"DUKPT, AES: {use.name.lower()} key"


def _is_refused(vector: Vector) -> bool:
    try:
        _imported(vector, KeyForm.TR31_B, KeyAlgorithm.TDES_2, KeyAlgorithm.TDES_2)
    except OperatorError:
        return True
    return False


def _block_b(vector: Vector, _: dict[str, Vector]) -> tuple[str, str]:
    key = _imported(vector, KeyForm.TR31_B, KeyAlgorithm.TDES_2, KeyAlgorithm.TDES_2)
    return clear(key).hex(), "import_under, tr31-b"


def _block_d(vector: Vector, _: dict[str, Vector]) -> tuple[str, str]:
    key = _imported(vector, KeyForm.TR31_D, KeyAlgorithm.AES_256, KeyAlgorithm.AES_128)
    return clear(key).hex(), "import_under, tr31-d"


def _imported(
    vector: Vector, form: KeyForm, master: KeyAlgorithm, algorithm: KeyAlgorithm
) -> StoredKey:
    # The blocks let their key encrypt PINs, which is what an upstream's is used for here.
    return software().import_under(
        vector["inputs"]["block"].encode(),
        stored(_hex(vector, "kbpk"), KeyPurpose.ZONE_MASTER, master),
        form,
        as_=record(KeyPurpose.ZONE_PIN, algorithm),
    )


def _block_there_and_back(vector: Vector, _: dict[str, Vector]) -> tuple[str, str]:
    master = stored(bytes(range(32)), KeyPurpose.ZONE_MASTER, KeyAlgorithm.AES_256)
    key = stored(bytes.fromhex(vector["expected"]), KeyPurpose.ZONE_DATA, KeyAlgorithm.AES_128)
    block = software().export_under(key, master, KeyForm.TR31_D)
    back = software().import_under(
        block, master, KeyForm.TR31_D, as_=record(KeyPurpose.ZONE_DATA, KeyAlgorithm.AES_128)
    )
    return clear(back).hex(), "export_under and import_under, tr31-d"


def _hex(vector: Vector, name: str) -> bytes:
    return bytes.fromhex(vector["inputs"][name])


_RUNS: list[tuple[str, Callable[[Vector, dict[str, Vector]], tuple[Any, str]]]] = [
    ("cup-tmk-tak", _key_under_master),
    ("cup-ecb-xor-.*", _unionpay_folding),
    ("cup-ecb-final-.*", _unionpay_mac),
    ("java8583-zmk-.*", _component),
    ("java8583-[pm][ia]k-kcv", _working_key),
    ("x919-java8583-0400", _published_reversal),
    ("iso9797-.*", _retail),
    ("cmac-.*", _cmac),
    ("sm4-.*", _sm4),
    ("pin-iso0.*", _pin_field),
    ("pin-iso[34].*", _pin_there_and_back),
    ("pin-translate", _pin_translated),
    ("dukpt-(tdes|pydukpt)-ipek", _tdes_initial_key),
    ("dukpt-(tdes|pydukpt)-pin.*", _tdes_pin),
    ("dukpt-aes128-.*", _aes_key),
    ("tr31-B", _block_b),
    ("tr31-D", _block_d),
    ("tr31-d-roundtrip", _block_there_and_back),
]
