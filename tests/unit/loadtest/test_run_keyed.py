"""A device with keys seals what it asks, and believes only what is sealed."""

import secrets

import pytest

from gateway.wire.message import Message
from loadtest.run.keyed import PIN, DeviceKeys, master_key
from loadtest.run.secure import NotGenuine
from loadtest.wire import shipped_wire
from loadtest.zone_crypto import check_value, decrypted, encrypted, pin_of_block_0

CODEC = shipped_wire().codec
PAN = "9999990000010010"


def keys_for(master: bytes, *working: bytes) -> Message:
    field = b"".join(encrypted(master, key) + check_value(key) for key in working)
    return Message("0810", {39: "00", 62: field.hex().upper()})


def sale() -> Message:
    return Message("0200", {2: PAN, 3: "000000", 4: "000000001250", 11: "000001", 41: "T0000001"})


def signed_on() -> tuple[DeviceKeys, bytes]:
    master, pin_key = master_key(b"s" * 16, "T0000001"), secrets.token_bytes(16)
    keys = DeviceKeys(master, CODEC)
    keys.signed_on(keys_for(master, pin_key, secrets.token_bytes(16)))
    return keys, pin_key


def test_what_it_seals_it_believes_and_nothing_that_was_changed() -> None:
    keys, pin_key = signed_on()
    body = keys.seal(sale(), pan=PAN, with_pin=True)
    read = CODEC.decode(body)
    keys.check(read)
    block = bytes.fromhex(read.get(52))
    assert pin_of_block_0(decrypted(pin_key, block), PAN) == PIN
    with pytest.raises(NotGenuine, match="MAC"):
        keys.check(CODEC.decode(body.replace(b"000000001250", b"000000009250")))


def test_without_a_customer_there_is_no_pin() -> None:
    keys, _ = signed_on()
    assert 52 not in CODEC.decode(keys.seal(sale(), pan=PAN, with_pin=False))
    assert 52 not in CODEC.decode(keys.seal(sale(), pan="", with_pin=True))


@pytest.mark.parametrize("field", ["", "zz", "00" * 40])
def test_keys_that_are_not_its_own_are_refused(field: str) -> None:
    keys = DeviceKeys(bytes(16), CODEC)
    with pytest.raises(NotGenuine, match="sign-on"):
        keys.signed_on(Message("0810", {39: "00", 62: field}))


def test_no_two_devices_have_a_master_key_in_common() -> None:
    secret = secrets.token_bytes(16)
    assert len({master_key(secret, f"T{number:07d}") for number in range(100)}) == 100
