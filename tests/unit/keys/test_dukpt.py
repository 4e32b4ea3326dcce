"""DUKPT against the vectors of ANSI X9.24, parts 1 and 3, and what is no serial number."""

from __future__ import annotations

import pytest

from gateway.keys import dukpt_aes, dukpt_tdes
from gateway.keys.block_ciphers import AES_FAMILY, BlockCipher
from gateway.keys.records import KeyAlgorithm

# ANSI X9.24-1:2009, annex A.4.
TDES_BASE = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
TDES_INITIAL = "6AC292FAA1315B4D858AB3A3D7D5933A"
# ANSI X9.24-3:2017, annex B.1, and its supplement for the longer key.
AES_BASE = bytes.fromhex("FEDCBA9876543210F1F1F1F1F1F1F1F1")
DEVICE = bytes.fromhex("1234567890123456")
AES_256_TRANSACTIONS = {
    0x00000001: "54AC2B32B145EA4A554CB8BC44B17467063A799856B1CCC2A138D36E8DBF78B3",
    0x00000003: "8EEEF7C464AE415BB1D73FAED21993CD669F7999092A579EC6DD3CC680C65171",
    0x0001FFFE: "A289508CBF1228452CD86AB77B15CB35577AC828C18BB66681E5A16D6C9CCED3",
    0xFFFF0000: "6D6DB7AAAE8B3EA90E57A39E4BBA71E173B21B446B30A78D64BFC6A8806C55EE",
}


def test_the_initial_tdes_key() -> None:
    for ksn in ("FFFF9876543210E00000", "FFFF9876543210E00001", "FFFF9876543210FFF800"):
        assert dukpt_tdes.initial_key(TDES_BASE, bytes.fromhex(ksn)).hex().upper() == TDES_INITIAL


@pytest.mark.parametrize(
    ("counter", "clear", "enciphered"),
    # PIN 1234 in format 0 with card number 4012345678909.
    [("E00001", "041274EDCBA9876F", "1B9C1845EB993A7A"), ("EFF800", "", "33365F5CC6F23C35")],
)
def test_a_tdes_pin_key(counter: str, clear: str, enciphered: str) -> None:
    ksn = bytes.fromhex("FFFF9876543210" + counter)
    key = dukpt_tdes.transaction_key(TDES_BASE, ksn, dukpt_tdes.Variant.PIN)
    block = bytes.fromhex(clear or "041274EDCBA9876F")
    assert BlockCipher(KeyAlgorithm.TDES_2, key).encrypt(block).hex().upper() == enciphered


def test_a_tdes_transaction_has_a_key_of_its_own_for_each_use() -> None:
    ksn = bytes.fromhex("FFFF9876543210E00001")
    keys = {
        variant: dukpt_tdes.transaction_key(TDES_BASE, ksn, variant)
        for variant in dukpt_tdes.Variant
    }
    assert len(set(keys.values())) == len(dukpt_tdes.Variant)
    # Annex A.4, the first transaction's.
    assert keys[dukpt_tdes.Variant.PIN].hex().upper() == "042666B49184CF5C68DE9628D0397B36"
    assert keys[dukpt_tdes.Variant.MAC_REQUEST].hex().upper() == "042666B4918430A368DE9628D03984C9"
    data = keys[dukpt_tdes.Variant.DATA_REQUEST]
    assert data.hex().upper() == "448D3F076D8304036A55A3D7E0055A78"


@pytest.mark.parametrize("length", [0, 8, 9, 11, 12])
def test_a_tdes_serial_number_has_ten_bytes(length: int) -> None:
    with pytest.raises(ValueError, match=f"10 bytes, not {length}"):
        dukpt_tdes.transaction_key(TDES_BASE, bytes(length), dukpt_tdes.Variant.PIN)


@pytest.mark.parametrize("counter", ["E00000", "EFFFFF", "FFFFFF", "E007FF"])
def test_no_device_gets_to_such_a_tdes_counter(counter: str) -> None:
    ksn = bytes.fromhex("FFFF9876543210" + counter)
    with pytest.raises(ValueError, match="counter"):
        dukpt_tdes.transaction_key(TDES_BASE, ksn, dukpt_tdes.Variant.PIN)


def test_the_initial_aes_keys() -> None:
    short = dukpt_aes.initial_key(KeyAlgorithm.AES_128, AES_BASE, DEVICE)
    assert short.hex().upper() == "1273671EA26AC29AFA4D1084127652A1"
    long = dukpt_aes.initial_key(KeyAlgorithm.AES_256, AES_BASE * 2, DEVICE)
    assert long.hex().upper() == "CE9CE0C101D1138F97FB6CAD4DF045A7083D4EAE2D35A31789D01CCF0949550F"


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (dukpt_aes.KeyUse.PIN, "AF8CB133A78F8DC2D1359F18527593FB"),
        (dukpt_aes.KeyUse.MAC_GENERATION, "A2DC23DE6FDE0824A2BC321E08E4B8B7"),
        (dukpt_aes.KeyUse.DATA_ENCRYPTION, "A35C412EFD41FDB98B69797C02DCD08F"),
    ],
)
def test_aes_working_keys_of_the_first_transaction(use: dukpt_aes.KeyUse, expected: str) -> None:
    ksn = DEVICE + (1).to_bytes(4, "big")
    key = dukpt_aes.transaction_key(KeyAlgorithm.AES_128, AES_BASE, ksn, use, KeyAlgorithm.AES_128)
    assert key.hex().upper() == expected


@pytest.mark.parametrize(("counter", "expected"), AES_256_TRANSACTIONS.items())
def test_the_intermediate_key_of_a_counter(counter: int, expected: str) -> None:
    ksn = DEVICE + counter.to_bytes(4, "big")
    key = dukpt_aes.derivation_key(KeyAlgorithm.AES_256, AES_BASE * 2, ksn)
    assert key.hex().upper() == expected


@pytest.mark.parametrize("base", sorted(AES_FAMILY))
def test_a_working_key_is_as_long_as_its_algorithm_and_no_stronger_than_its_base(
    base: KeyAlgorithm,
) -> None:
    ksn = DEVICE + (8675309).to_bytes(4, "big")
    value = (AES_BASE * 2)[: base.bytes]
    made = {}
    for working in KeyAlgorithm:
        refused = working not in dukpt_aes.WORKING or (
            working in AES_FAMILY and working.bytes > base.bytes
        )
        if refused:
            with pytest.raises(ValueError, match=working.value):
                dukpt_aes.transaction_key(base, value, ksn, dukpt_aes.KeyUse.PIN, working)
            continue
        key = dukpt_aes.transaction_key(base, value, ksn, dukpt_aes.KeyUse.PIN, working)
        assert len(key) == working.bytes
        made[working] = key[:16]
    assert len(set(made.values())) == len(made)


def test_what_is_no_aes_serial_number_or_base_key() -> None:
    for length in (0, 10, 11, 13):
        with pytest.raises(ValueError, match=f"12 bytes, not {length}"):
            dukpt_aes.derivation_key(KeyAlgorithm.AES_128, AES_BASE, bytes(length))
    for counter in (0, 0x1FFFF, 0xFFFFFFFF):
        with pytest.raises(ValueError, match="counter"):
            dukpt_aes.derivation_key(
                KeyAlgorithm.AES_128, AES_BASE, DEVICE + counter.to_bytes(4, "big")
            )
    with pytest.raises(ValueError, match="8 bytes, not 7"):
        dukpt_aes.initial_key(KeyAlgorithm.AES_128, AES_BASE, DEVICE[:7])
    with pytest.raises(ValueError, match="starts from an AES key, not TDES-2"):
        dukpt_aes.initial_key(KeyAlgorithm.TDES_2, TDES_BASE, DEVICE)
