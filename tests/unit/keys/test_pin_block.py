"""PIN blocks: the standards' examples, every wrong block, and the buffers afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from gateway.errors import KeyUnavailable
from gateway.keys.block_ciphers import BlockCipher
from gateway.keys.message_security import MalformedPin, PinFormat
from gateway.keys.pin_block import carries, deciphered, encipher, permitted
from gateway.keys.records import KeyAlgorithm

PAN = "4321987654321098"
TDES = BlockCipher(KeyAlgorithm.TDES_2, bytes(range(16)))
AES = BlockCipher(KeyAlgorithm.AES_128, bytes.fromhex("AF8CB133A78F8DC2D1359F18527593FB"))
SM4 = BlockCipher(KeyAlgorithm.SM4, bytes(range(16)))
CIPHERS = [
    BlockCipher(algorithm, bytes(range(algorithm.bytes)))
    for algorithm in KeyAlgorithm
    if algorithm is not KeyAlgorithm.HMAC_SHA256
]
PAIRS = [
    (cipher, pin_format)
    for cipher in CIPHERS
    for pin_format in PinFormat
    if carries(cipher.algorithm, pin_format)
]


def digits(pin: str) -> bytearray:
    return bytearray(int(digit) for digit in pin)


def sealed(cipher: BlockCipher, pin: str, pin_format: PinFormat, pan: str = PAN) -> bytes:
    return encipher(cipher, digits(pin), pin_format=pin_format, pan=pan, random=secrets.token_bytes)


def opened(cipher: BlockCipher, block: bytes, pin_format: PinFormat, pan: str = PAN) -> str:
    with deciphered(cipher, block, pin_format=pin_format, pan=pan) as pin:
        return "".join(map(str, pin))


def fixed(*nibbles: int) -> Callable[[int], bytes]:
    return lambda count: bytes(nibbles[:count])


# --- examples -----------------------------------------------------------------------------------


def test_format_0_is_the_pin_against_the_card_number() -> None:
    block = sealed(TDES, "1234", PinFormat.ISO_0, pan="43219876543210987")
    assert TDES.decrypt(block).hex().upper() == "0412AC89ABCDEF67"


def test_format_4_of_ansi_x9_24_3_annex_b() -> None:
    random = fixed(*bytes.fromhex("020F06090A0D0D0E020E090E070A0C0E"))
    block = encipher(
        AES, digits("1234"), pin_format=PinFormat.ISO_4, pan="4111111111111111", random=random
    )
    assert block.hex().upper() == "A912150391AB65A67E52883D81CE2D15"
    assert opened(AES, block, PinFormat.ISO_4, pan="4111111111111111") == "1234"


def test_under_sm4_format_0_is_as_wide_as_its_block() -> None:
    block = sealed(SM4, "123456", PinFormat.ISO_0, pan="6222600000000000123")
    pin_field = "06123456" + "F" * 24
    pan_field = "0" * 20 + "000000000012"
    assert SM4.decrypt(block).hex().upper() == f"{int(pin_field, 16) ^ int(pan_field, 16):032X}"


def test_what_follows_a_pin_in_formats_1_and_3_is_random() -> None:
    first, second = (sealed(TDES, "1234", PinFormat.ISO_1) for _ in range(2))
    assert first != second
    assert TDES.decrypt(first).hex().startswith("141234")
    pan_field = bytes.fromhex("0000" + PAN[-13:-1])
    seen = set()
    for _ in range(100):
        clear = TDES.decrypt(sealed(TDES, "1234", PinFormat.ISO_3))
        field = bytes(a ^ b for a, b in zip(clear, pan_field, strict=True)).hex()
        assert field.startswith("341234")
        seen |= set(field[6:])
    assert seen == set("abcdef")


@pytest.mark.parametrize(("cipher", "pin_format"), PAIRS)
@pytest.mark.parametrize("pin", ["0000", "98765", "123456", "999999999999"])
def test_comes_out_as_it_went_in(cipher: BlockCipher, pin_format: PinFormat, pin: str) -> None:
    assert opened(cipher, sealed(cipher, pin, pin_format), pin_format) == pin


@pytest.mark.parametrize("pan", ["4", "123456789012", "1234567890123456789"])
@pytest.mark.parametrize("pin_format", [PinFormat.ISO_0, PinFormat.ISO_3, PinFormat.ISO_4])
def test_short_and_long_card_numbers_do(pin_format: PinFormat, pan: str) -> None:
    cipher = AES if pin_format is PinFormat.ISO_4 else TDES
    assert opened(cipher, sealed(cipher, "1234", pin_format, pan), pin_format, pan) == "1234"


# --- what is refused ----------------------------------------------------------------------------

BAD_FIELDS = {
    "another control": "1412AC89ABCDEF67",
    "a PIN of three": "0312FC89ABCDEF67",
    "a PIN of thirteen": "0D12AC89ABCDEF67",
    "a letter in the PIN": "041AAC89ABCDEF67",
    "a fill of E": "0412AC89ABCDEF66",
    "a fill that begins with a digit": "0412AC19ABCDEF67",
}


@pytest.mark.parametrize("clear", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_block_of_format_0_with_one_thing_wrong(clear: str) -> None:
    block = TDES.encrypt(bytes.fromhex(clear))
    with pytest.raises(MalformedPin):
        opened(TDES, block, PinFormat.ISO_0, pan="43219876543210987")


def test_format_3_wants_letters_and_format_4_ten_behind_the_pin() -> None:
    pan_field = int("0000" + PAN[-13:-1], 16)
    with_f, with_9 = (
        TDES.encrypt((int(f"341234FFFFFFFFF{end}", 16) ^ pan_field).to_bytes(8, "big"))
        for end in "F9"
    )
    assert opened(TDES, with_f, PinFormat.ISO_3) == "1234"
    with pytest.raises(MalformedPin):
        opened(TDES, with_9, PinFormat.ISO_3)
    wide_pan_field = int(("4" + PAN).ljust(32, "0"), 16)
    for fill, fine in (("A", True), ("B", False)):
        once = int.from_bytes(AES.encrypt(bytes.fromhex(f"441234AAAAAAAAA{fill}0123456789ABCDEF")))
        block = AES.encrypt((once ^ wide_pan_field).to_bytes(16, "big"))
        if fine:
            assert opened(AES, block, PinFormat.ISO_4) == "1234"
        else:
            with pytest.raises(MalformedPin):
                opened(AES, block, PinFormat.ISO_4)


@pytest.mark.parametrize("length", [0, 7, 9, 15, 17])
def test_a_block_of_another_length(length: int) -> None:
    with pytest.raises(MalformedPin, match=f"has {length} bytes, and format 0 under TDES-2 has 8"):
        opened(TDES, bytes(length), PinFormat.ISO_0)


@pytest.mark.parametrize("pan", ["", "41111111111111x1", "4" * 20, "٤" * 16])
@pytest.mark.parametrize("pin_format", [PinFormat.ISO_0, PinFormat.ISO_3, PinFormat.ISO_4])
def test_a_card_number_that_is_none(pin_format: PinFormat, pan: str) -> None:
    cipher = AES if pin_format is PinFormat.ISO_4 else TDES
    block = sealed(cipher, "1234", pin_format)
    for act in (
        lambda: opened(cipher, block, pin_format, pan),
        lambda: sealed(cipher, "1234", pin_format, pan),
    ):
        with pytest.raises(MalformedPin, match="card number") as caught:
            act()
        assert pan == "" or pan not in str(caught.value)


def test_format_1_asks_for_no_card_number() -> None:
    assert opened(TDES, sealed(TDES, "1234", PinFormat.ISO_1, pan=""), PinFormat.ISO_1) == "1234"


@pytest.mark.parametrize("pin", ["", "123", "1234567890123"])
def test_a_pin_of_another_length_is_not_written(pin: str) -> None:
    with pytest.raises(MalformedPin, match="4 to 12 digits"):
        sealed(TDES, pin, PinFormat.ISO_0)
    with pytest.raises(MalformedPin):
        encipher(TDES, bytearray((1, 2, 3, 10)), pin_format=PinFormat.ISO_0, pan=PAN, random=bytes)


def test_a_pin_block_that_does_not_fit_the_keys_block_is_refused() -> None:
    for cipher in CIPHERS:
        for pin_format in PinFormat:
            if carries(cipher.algorithm, pin_format):
                continue
            with pytest.raises(KeyUnavailable, match="does not carry PIN blocks"):
                sealed(cipher, "1234", pin_format)
            with pytest.raises(KeyUnavailable, match="does not carry PIN blocks"):
                opened(cipher, bytes(cipher.block_bytes), pin_format)


def test_iso_9564_does_not_let_a_bound_pin_become_unbound() -> None:
    refused = {(a, b) for a in PinFormat for b in PinFormat if not permitted(a, b)}
    bound = (PinFormat.ISO_0, PinFormat.ISO_3, PinFormat.ISO_4)
    assert refused == {(source, PinFormat.ISO_1) for source in bound}


# --- afterwards ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("cipher", "pin_format"), PAIRS)
def test_every_buffer_is_wiped_whatever_happens(
    cipher: BlockCipher, pin_format: PinFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytearray] = []

    class Noted(bytearray):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)

    block = sealed(cipher, "123456", pin_format)
    wrong = bytes((block[0] ^ 1,)) + block[1:]
    monkeypatch.setattr("gateway.keys.pin_block.bytearray", Noted, raising=False)
    with deciphered(cipher, block, pin_format=pin_format, pan=PAN) as pin:
        assert bytes(pin) == bytes((1, 2, 3, 4, 5, 6))
        sealed(cipher, "123456", pin_format)
        assert len(made) >= 6
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117 (the error passes through the context)
        with deciphered(cipher, block, pin_format=pin_format, pan=PAN):
            raise ZeroDivisionError
    if pin_format is not PinFormat.ISO_1:
        with pytest.raises(MalformedPin):
            opened(cipher, wrong, pin_format)
    assert all(not any(buffer) for buffer in made)


def test_no_message_says_what_was_in_a_block() -> None:
    block = TDES.encrypt(bytes.fromhex("0412AC89ABCDEF66"))
    with pytest.raises(MalformedPin) as caught:
        opened(TDES, block, PinFormat.ISO_0, pan="43219876543210987")
    text = str(caught.value)
    assert "1234" not in text
    assert "4321" not in text
    assert "fill" not in text
