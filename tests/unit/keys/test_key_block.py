"""Key blocks: what others made, what is made here, and what is refused, with the reason."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest

from gateway.errors import OperatorError
from gateway.keys import key_block
from gateway.keys.key_block import Header, check_header, header_for
from gateway.keys.records import KeyAlgorithm, KeyPurpose

PROTECTION = {
    KeyAlgorithm.TDES_2: "B",
    KeyAlgorithm.TDES_3: "B",
    KeyAlgorithm.AES_128: "D",
    KeyAlgorithm.AES_192: "D",
    KeyAlgorithm.AES_256: "D",
}
CARRIED = [
    KeyAlgorithm.DES,
    KeyAlgorithm.TDES_2,
    KeyAlgorithm.TDES_3,
    KeyAlgorithm.AES_128,
    KeyAlgorithm.AES_192,
    KeyAlgorithm.AES_256,
    KeyAlgorithm.HMAC_SHA256,
]
MASTER = bytes(range(1, 33))


def made(
    key: bytes,
    *,
    under: KeyAlgorithm = KeyAlgorithm.AES_256,
    purpose: KeyPurpose = KeyPurpose.ZONE_MASTER,
    algorithm: KeyAlgorithm = KeyAlgorithm.AES_128,
    header: Header | None = None,
) -> str:
    used = header or header_for(purpose, algorithm, version=PROTECTION[under])
    return key_block.wrap(
        key,
        used,
        protection=MASTER[: under.bytes],
        protected_by=under,
        random=secrets.token_bytes,
    )


def opened(block: str, under: KeyAlgorithm = KeyAlgorithm.AES_256) -> tuple[Header, bytes]:
    return key_block.unwrap(block, protection=MASTER[: under.bytes], protected_by=under)


@pytest.mark.parametrize("under", PROTECTION)
@pytest.mark.parametrize("algorithm", CARRIED)
def test_a_key_comes_out_as_it_went_in(under: KeyAlgorithm, algorithm: KeyAlgorithm) -> None:
    key = secrets.token_bytes(algorithm.bytes)
    block = made(key, under=under, purpose=KeyPurpose.MAC, algorithm=algorithm)
    header, value = opened(block, under)
    assert value == key
    assert header == header_for(KeyPurpose.MAC, algorithm, version=PROTECTION[under])
    assert int(block[1:5]) == len(block)
    assert block != made(key, under=under, purpose=KeyPurpose.MAC, algorithm=algorithm)


def test_the_length_of_a_block_tells_nothing_of_the_keys() -> None:
    lengths = {
        len(made(bytes(algorithm.bytes), algorithm=algorithm))
        for algorithm in (KeyAlgorithm.AES_128, KeyAlgorithm.AES_192, KeyAlgorithm.AES_256)
    }
    assert len(lengths) == 1


def test_optional_blocks_are_kept_and_authenticated() -> None:
    plain = header_for(KeyPurpose.ZONE_PIN, KeyAlgorithm.AES_128, version="D")
    for optional, count in (
        ("KS1800604B120F9292800000", 1),
        ("KS1800604B120F9292800000PB080000", 2),
        ("KP00020012AAAAAAAA", 1),  # a length in more digits
    ):
        header = replace(plain, optional=optional, optional_count=count)
        block = made(bytes(16), header=header)
        assert opened(block)[0] == header
        at = block.index(optional) + 8
        changed = block[:at] + ("1" if block[at] == "0" else "0") + block[at + 1 :]
        with pytest.raises(OperatorError):
            opened(changed)


@pytest.mark.parametrize("at", [5, 7, 8, 9, 11, 14, 16, 40, 100, 111])
def test_one_changed_character_is_noticed(at: int) -> None:
    block = made(bytes(16))
    changed = block[:at] + ("1" if block[at] != "1" else "2") + block[at + 1 :]
    with pytest.raises(OperatorError):
        opened(changed)


def test_another_protecting_key_is_noticed() -> None:
    block = made(bytes(16))
    with pytest.raises(OperatorError, match="another protecting key") as caught:
        key_block.unwrap(block, protection=bytes(32), protected_by=KeyAlgorithm.AES_256)
    assert block[16:40] not in str(caught.value)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("", "16 ASCII characters"),
        ("D0112P0", "16 ASCII characters"),
        ("D0016P0AE00N0000\n", "16 ASCII characters"),
        ("A0016P0TE00E0000", "withdrew"),
        ("C0016P0TE00E0000", "withdrew"),
        ("E0016P0TE00E0000", "version E is not known"),
        ("D0017P0AE00N0000", "says 0017 characters, and 16 are there"),
        ("Dxxxxx0AE00N0000", "says xxxx characters"),
        ("D0016P0AE00Nx000", "optional blocks"),
        ("D0016P0AE00N0100", "optional block at character 16"),
        ("D0020P0AE00N0100KS02", "optional block at character 16"),
        ("D0020P0AE00N0100KSxx", "optional block at character 16"),
        ("D0020P0AE00N0100KSFF", "optional block at character 16"),
        ("D0016P0AE00N0000", "not whole blocks"),
        ("D0080P0AE00N0000" + "0" * 64, "another protecting key"),
        ("D0082P0AE00N0000" + "0" * 66, "not whole blocks"),
        ("D0080P0AE00N0000" + "x" * 64, "hexadecimal digits from character 16"),
        ("D0080P0AE00N0000" + " 0" * 32, "hexadecimal digits|not whole blocks"),
        ("B0080P0TE00N0000" + "0" * 64, "version B is protected by a key of TDES-2 or TDES-3"),
    ],
)
def test_what_is_no_key_block_is_refused_with_the_reason(block: str, reason: str) -> None:
    with pytest.raises(OperatorError, match=reason):
        opened(block)


@pytest.mark.parametrize("bits", [0, 1, 127, 8 * 63, 0xFFF8])
def test_a_length_that_cannot_be(bits: int) -> None:
    # Made by a sender that has the key, and writes down another length.
    header = header_for(KeyPurpose.ZONE_PIN, KeyAlgorithm.AES_128, version="D")
    block = _with_clear(bits.to_bytes(2, "big") + bytes(46), header)
    with pytest.raises(OperatorError, match=f"{bits} bits"):
        opened(block)


def _with_clear(clear: bytes, header: Header) -> str:
    encryption, authentication = key_block._derived(MASTER, KeyAlgorithm.AES_256)
    chars = 16 + 2 * (len(clear) + 16)
    text = f"D{chars:04d}{header.usage}{header.algorithm}{header.mode}00N0000"
    mac = key_block._mac(authentication, KeyAlgorithm.AES_256, text.encode() + clear)
    cipher = key_block.BlockCipher(KeyAlgorithm.AES_256, encryption)
    return text + cipher.encrypt_cbc(clear, iv=mac).hex() + mac.hex()


# --- what a key is for --------------------------------------------------------------------------

PURPOSES = sorted(key_block._USES)


@pytest.mark.parametrize("carried", PURPOSES)
@pytest.mark.parametrize("wanted", PURPOSES)
def test_a_block_for_one_use_does_not_become_a_key_for_another(
    carried: KeyPurpose, wanted: KeyPurpose
) -> None:
    same = {
        frozenset({KeyPurpose.PIN, KeyPurpose.ZONE_PIN}),
        frozenset({KeyPurpose.MAC, KeyPurpose.ZONE_MAC}),
        frozenset({KeyPurpose.DATA, KeyPurpose.ZONE_DATA}),
        frozenset({KeyPurpose.TERMINAL_MASTER, KeyPurpose.ZONE_MASTER}),
    }
    both = replace(header_for(carried, KeyAlgorithm.TDES_2, version="B"), mode="N")
    if carried is wanted or frozenset({carried, wanted}) in same:
        check_header(both, wanted, KeyAlgorithm.TDES_2)
        return
    with pytest.raises(OperatorError, match=f"usage {both.usage}"):
        check_header(both, wanted, KeyAlgorithm.TDES_2)


@pytest.mark.parametrize(
    ("purpose", "usage", "mode", "allowed"),
    [
        (KeyPurpose.PIN, "P0", "D", True),
        (KeyPurpose.PIN, "P0", "B", True),
        (KeyPurpose.PIN, "P0", "E", False),  # we decrypt with it
        (KeyPurpose.ZONE_PIN, "P0", "E", True),
        (KeyPurpose.ZONE_PIN, "P0", "D", False),  # and encrypt with this
        (KeyPurpose.MAC, "M3", "C", True),
        (KeyPurpose.MAC, "M6", "C", True),
        (KeyPurpose.MAC, "M3", "G", False),
        (KeyPurpose.MAC, "M3", "V", False),
        (KeyPurpose.MAC, "M7", "C", False),
        (KeyPurpose.ZONE_DATA, "D0", "B", True),
        (KeyPurpose.ZONE_DATA, "D0", "E", False),
        (KeyPurpose.BASE_DERIVATION, "B0", "X", True),
        (KeyPurpose.BASE_DERIVATION, "B1", "X", False),
        (KeyPurpose.TERMINAL_MASTER, "K1", "B", True),
        (KeyPurpose.TERMINAL_MASTER, "K0", "D", False),
        (KeyPurpose.ZONE_MASTER, "K0", "B", True),
        (KeyPurpose.ZONE_MASTER, "K2", "B", False),
    ],
)
def test_usage_and_mode_have_to_cover_our_side_of_the_key(
    purpose: KeyPurpose, usage: str, mode: str, *, allowed: bool
) -> None:
    header = Header(version="D", usage=usage, algorithm="A", mode=mode)
    if allowed:
        check_header(header, purpose, KeyAlgorithm.AES_128)
        return
    with pytest.raises(OperatorError, match=f"usage {usage}|mode of use {mode}"):
        check_header(header, purpose, KeyAlgorithm.AES_128)


def test_the_algorithm_is_part_of_what_is_bound() -> None:
    header = header_for(KeyPurpose.ZONE_PIN, KeyAlgorithm.AES_128, version="D")
    with pytest.raises(OperatorError, match="algorithm is A, and TDES-2 is T"):
        check_header(replace(header, mode="E"), KeyPurpose.ZONE_PIN, KeyAlgorithm.TDES_2)


@pytest.mark.parametrize(
    ("purpose", "algorithm", "expected"),
    [
        (KeyPurpose.PIN, KeyAlgorithm.TDES_2, "P0TE"),  # a terminal only encrypts with it
        (KeyPurpose.ZONE_PIN, KeyAlgorithm.AES_256, "P0AD"),  # an upstream only decrypts
        (KeyPurpose.MAC, KeyAlgorithm.TDES_2, "M3TC"),
        (KeyPurpose.MAC, KeyAlgorithm.AES_128, "M6AC"),
        (KeyPurpose.ZONE_DATA, KeyAlgorithm.AES_128, "D0AB"),
        (KeyPurpose.TERMINAL_MASTER, KeyAlgorithm.TDES_3, "K0TD"),
        (KeyPurpose.BASE_DERIVATION, KeyAlgorithm.AES_256, "B0AX"),
    ],
)
def test_a_key_goes_out_for_the_other_sides_part_and_no_further(
    purpose: KeyPurpose, algorithm: KeyAlgorithm, expected: str
) -> None:
    header = header_for(purpose, algorithm, version="D")
    assert header.usage + header.algorithm + header.mode == expected
    assert header.exportability == "N"


def test_what_key_blocks_do_not_know() -> None:
    with pytest.raises(ValueError, match="no letter for SM4"):
        header_for(KeyPurpose.MAC, KeyAlgorithm.SM4, version="D")
    for purpose in (KeyPurpose.STORE_DATA, KeyPurpose.CARD_TOKEN, KeyPurpose.CONTENT):
        with pytest.raises(ValueError, match="do not leave or enter"):
            header_for(purpose, KeyAlgorithm.AES_256, version="D")
    with pytest.raises(ValueError, match="no header"):
        made(bytes(16), header=Header(version="D", usage="P", algorithm="A", mode="E"))
    with pytest.raises(ValueError, match="version D is protected by"):
        key_block.wrap(
            bytes(16),
            header_for(KeyPurpose.MAC, KeyAlgorithm.AES_128, version="D"),
            protection=bytes(16),
            protected_by=KeyAlgorithm.TDES_2,
            random=secrets.token_bytes,
        )
