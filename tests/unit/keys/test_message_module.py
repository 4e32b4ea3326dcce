"""The software module: what each key may do, what is held of it, and keys under keys."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys import key_block
from gateway.keys.block_ciphers import BlockCipher
from gateway.keys.check_value import check_value
from gateway.keys.des_keys import is_weak, with_odd_parity
from gateway.keys.message_module import SoftwareMessageSecurity
from gateway.keys.message_security import (
    KeyForm,
    MacScheme,
    MalformedPin,
    MessageSecurity,
    PinFormat,
    PinKey,
)
from gateway.keys.pin_block import encipher
from gateway.keys.records import GATEWAY, KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from tests.support.message_keys import OWNER, PlainWrapping, clear, record, software, stored

UPSTREAM = "upstream:acquirer-a"
PAN = "4321987654321098"
TDES = KeyAlgorithm.TDES_2
MASTERS = {KeyPurpose.TERMINAL_MASTER, KeyPurpose.ZONE_MASTER}


def key(
    purpose: KeyPurpose,
    algorithm: KeyAlgorithm = TDES,
    *,
    owner: str = OWNER,
    state: StoredKeyState = StoredKeyState.ACTIVE,
    version: int = 1,
) -> StoredKey:
    value = bytes((len(purpose.value) + i) % 256 for i in range(algorithm.bytes))
    return stored(value, purpose, algorithm, owner=owner, state=state, version=version)


def pin_block(under: StoredKey, pin_format: PinFormat = PinFormat.ISO_0) -> bytes:
    return encipher(
        BlockCipher(under.algorithm, clear(under)),
        bytearray((1, 2, 3, 4)),
        pin_format=pin_format,
        pan=PAN,
        random=bytes,
    )


USES: dict[str, tuple[Callable[[SoftwareMessageSecurity, StoredKey], Any], set[KeyPurpose]]] = {
    "mac": (
        lambda module, used: module.mac(used, MacScheme.X9_19, b"data"),
        {KeyPurpose.MAC, KeyPurpose.ZONE_MAC},
    ),
    "verify": (
        lambda module, used: module.verify_mac(used, MacScheme.X9_19, b"data", bytes(8)),
        {KeyPurpose.MAC, KeyPurpose.ZONE_MAC},
    ),
    "encrypt": (
        lambda module, used: module.encrypt(used, bytes(16)),
        {KeyPurpose.DATA, KeyPurpose.ZONE_DATA},
    ),
    "decrypt": (
        lambda module, used: module.decrypt(used, bytes(16)),
        {KeyPurpose.DATA, KeyPurpose.ZONE_DATA},
    ),
    "translate from": (
        lambda module, used: module.translate_pin(
            pin_block(used),
            source=PinKey(key=used, format=PinFormat.ISO_0),
            target=PinKey(key=key(KeyPurpose.ZONE_PIN), format=PinFormat.ISO_0),
            pan=PAN,
        ),
        {KeyPurpose.PIN},
    ),
    "translate to": (
        lambda module, used: module.translate_pin(
            pin_block(key(KeyPurpose.PIN)),
            source=PinKey(key=key(KeyPurpose.PIN), format=PinFormat.ISO_0),
            target=PinKey(key=used, format=PinFormat.ISO_0),
            pan=PAN,
        ),
        {KeyPurpose.ZONE_PIN},
    ),
    "wrap under a terminal's master": (
        lambda module, used: module.export_under(
            used, key(KeyPurpose.TERMINAL_MASTER, version=9), KeyForm.ECB
        ),
        {KeyPurpose.TERMINAL_MASTER, KeyPurpose.PIN, KeyPurpose.MAC, KeyPurpose.DATA},
    ),
    "wrap under a zone master": (
        lambda module, used: module.export_under(
            used, key(KeyPurpose.ZONE_MASTER, version=9), KeyForm.ECB
        ),
        {
            KeyPurpose.ZONE_MASTER,
            KeyPurpose.ZONE_PIN,
            KeyPurpose.ZONE_MAC,
            KeyPurpose.ZONE_DATA,
            KeyPurpose.TERMINAL_MASTER,
            KeyPurpose.BASE_DERIVATION,
        },
    ),
    "wrap a working key": (
        lambda module, used: module.export_under(key(KeyPurpose.MAC), used, KeyForm.ECB),
        {KeyPurpose.TERMINAL_MASTER},
    ),
    "import a working key": (
        lambda module, used: module.import_under(
            bytes(16), used, KeyForm.ECB, as_=record(KeyPurpose.MAC, TDES)
        ),
        {KeyPurpose.TERMINAL_MASTER},
    ),
}


def test_is_what_messages_ask_of_a_security_module() -> None:
    module: MessageSecurity = software()
    assert repr(module) == "<SoftwareMessageSecurity, 0 keys held>"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("purpose", KeyPurpose)
def test_a_key_does_what_it_is_for_and_nothing_else(use: str, purpose: KeyPurpose) -> None:
    act, allowed = USES[use]
    used = key(purpose)
    if purpose is KeyPurpose.BASE_DERIVATION and use.startswith("translate"):
        # It derives keys, and never is one; without a KSN there is nothing to derive.
        with pytest.raises(MalformedPin, match="KSN"):
            act(software(), used)
    elif purpose in allowed:
        act(software(), used)
    else:
        with pytest.raises(KeyUnavailable) as caught:
            act(software(), used)
        assert used.name in str(caught.value)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("state", StoredKeyState)
def test_an_expired_or_destroyed_key_does_nothing(use: str, state: StoredKeyState) -> None:
    act, allowed = USES[use]
    for purpose in allowed:
        used = key(purpose, state=state)
        module = software()
        act(module, replace(used, state=StoredKeyState.ACTIVE))  # so that it is held
        if state in (StoredKeyState.EXPIRED, StoredKeyState.DESTROYED):
            with pytest.raises(KeyUnavailable, match=state.value):
                act(module, used)
        else:
            act(module, used)


# --- MACs and data ------------------------------------------------------------------------------


def test_eight_bytes_of_a_mac_go_on_the_wire_and_are_verified() -> None:
    module = software()
    used = key(KeyPurpose.MAC, KeyAlgorithm.AES_128)
    mac = module.mac(used, MacScheme.AES_CMAC, b"data")
    assert len(mac) == 8
    assert module.verify_mac(used, MacScheme.AES_CMAC, b"data", mac)
    assert not module.verify_mac(used, MacScheme.AES_CMAC, b"date", mac)
    for wrong in (b"", mac[:7], mac + b"\0", bytes(8)):
        assert not module.verify_mac(used, MacScheme.AES_CMAC, b"data", wrong)


def test_one_key_serves_two_schemes() -> None:
    module = software()
    used = key(KeyPurpose.MAC)
    first = module.mac(used, MacScheme.X9_19, b"data")
    digits = module.mac(used, MacScheme.UNIONPAY_ECB, b"data")
    assert digits.isalnum()
    assert digits.upper() == digits
    assert module.mac(used, MacScheme.X9_19, b"data") == first


@pytest.mark.parametrize(
    "algorithm", [each for each in KeyAlgorithm if each is not KeyAlgorithm.HMAC_SHA256]
)
def test_data_comes_back_and_wants_whole_blocks(algorithm: KeyAlgorithm) -> None:
    module = software()
    used = key(KeyPurpose.DATA, algorithm)
    data = b"4321987654321098=25121011234567890123456"[:32]
    sealed = module.encrypt(used, data)
    assert sealed != data
    assert len(sealed) == len(data)
    assert module.decrypt(used, sealed) == data
    # It is chained: equal blocks do not show.
    twice = module.encrypt(used, bytes(32))
    assert twice[:16] != twice[16:]
    for act in (module.encrypt, module.decrypt):
        with pytest.raises(ValueError, match="whole blocks"):
            act(used, data[:31])
    # A refused call has left nothing behind in the cipher.
    assert module.encrypt(used, data) == sealed


# --- PINs ---------------------------------------------------------------------------------------


def test_a_translated_pin_decrypts_under_the_target_key() -> None:
    source, target = key(KeyPurpose.PIN), key(KeyPurpose.ZONE_PIN, KeyAlgorithm.TDES_3)
    block = software(random=bytes).translate_pin(
        pin_block(source),
        source=PinKey(key=source, format=PinFormat.ISO_0),
        target=PinKey(key=target, format=PinFormat.ISO_0),
        pan=PAN,
    )
    assert block == pin_block(target)


def test_a_block_of_another_format_or_card_holds_no_pin() -> None:
    source, target = key(KeyPurpose.PIN), key(KeyPurpose.ZONE_PIN)
    into = PinKey(key=target, format=PinFormat.ISO_0)
    for block, pin_format, pan in (
        (pin_block(source), PinFormat.ISO_3, PAN),
        (pin_block(source), PinFormat.ISO_0, "9" * 16),
        (pin_block(source)[:7], PinFormat.ISO_0, PAN),
    ):
        with pytest.raises(MalformedPin):
            software().translate_pin(
                block, source=PinKey(key=source, format=pin_format), target=into, pan=pan
            )


def test_a_serial_number_comes_with_a_base_key_only_and_has_to_be_one() -> None:
    base, plain = key(KeyPurpose.BASE_DERIVATION), key(KeyPurpose.PIN)
    into = PinKey(key=key(KeyPurpose.ZONE_PIN), format=PinFormat.ISO_0)
    ksn = bytes.fromhex("FFFF9876543210E00001")
    for source, refused in (
        (PinKey(key=plain, format=PinFormat.ISO_0, ksn=ksn), KeyUnavailable),
        (PinKey(key=base, format=PinFormat.ISO_0, ksn=ksn[:-1]), MalformedPin),
        (PinKey(key=base, format=PinFormat.ISO_0, ksn=ksn[:7] + bytes(3)), MalformedPin),
        (
            PinKey(
                key=key(KeyPurpose.BASE_DERIVATION, KeyAlgorithm.SM4),
                format=PinFormat.ISO_0,
                ksn=ksn,
            ),
            KeyUnavailable,
        ),
        (
            PinKey(
                key=key(KeyPurpose.BASE_DERIVATION, KeyAlgorithm.AES_128),
                format=PinFormat.ISO_4,
                ksn=ksn + b"\0\1",
                working=KeyAlgorithm.AES_256,
            ),
            MalformedPin,
        ),
    ):
        with pytest.raises(refused):
            software().translate_pin(bytes(8), source=source, target=into, pan=PAN)


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_a_generated_key_is_random_pending_and_as_long_as_it_should_be(
    algorithm: KeyAlgorithm,
) -> None:
    module = software()
    one, other = (
        module.generate(
            owner=OWNER,
            purpose=KeyPurpose.MAC,
            version=3,
            algorithm=algorithm,
            start_ms=7,
            end_ms=9,
        )
        for _ in range(2)
    )
    value = clear(one)
    assert value != clear(other)
    assert len(value) == algorithm.bytes
    assert one.check_value == check_value(algorithm, value).hex().upper()
    assert (one.state, one.version, one.start_ms, one.end_ms) == (StoredKeyState.PENDING, 3, 7, 9)
    if algorithm in (KeyAlgorithm.DES, KeyAlgorithm.TDES_2, KeyAlgorithm.TDES_3):
        assert all(byte.bit_count() % 2 for byte in value)


def test_odd_parity_changes_one_bit_at_most() -> None:
    every = bytes(range(256))
    for before, after in zip(every, with_odd_parity(every), strict=True):
        assert after.bit_count() % 2 == 1
        assert before ^ after in (0, 1)


def test_weak_keys_of_des_are_not_kept() -> None:
    module = software()
    weak = ("0101010101010101", "0000000000000000", "FEFEFEFEFEFEFEFE", "01FE01FE01FE01FE")
    fine = bytes.fromhex("0123456789ABCDEF")
    for value in map(bytes.fromhex, weak):
        for whole in (value + fine, fine + value):
            assert is_weak(whole)
            with pytest.raises(OperatorError, match="weak keys of DES"):
                module.keep(whole, as_=record(KeyPurpose.MAC, TDES))
    assert not is_weak(fine)
    module.keep(bytes(16), as_=record(KeyPurpose.MAC, KeyAlgorithm.SM4))


def test_a_weak_key_of_des_undoes_itself() -> None:
    for value in ("0101010101010101", "1F1F1F1F0E0E0E0E"):
        cipher = BlockCipher(KeyAlgorithm.DES, bytes.fromhex(value))
        assert cipher.encrypt(cipher.encrypt(b"8 bytes.")) == b"8 bytes."


FORMS = {
    TDES: (KeyForm.ECB, KeyForm.CBC, KeyForm.TR31_B),
    KeyAlgorithm.TDES_3: (KeyForm.ECB, KeyForm.CBC, KeyForm.TR31_B),
    KeyAlgorithm.SM4: (KeyForm.ECB, KeyForm.CBC),
    KeyAlgorithm.AES_128: (KeyForm.ECB, KeyForm.CBC, KeyForm.TR31_D),
    KeyAlgorithm.AES_192: (KeyForm.TR31_D,),
    KeyAlgorithm.AES_256: (KeyForm.ECB, KeyForm.CBC, KeyForm.TR31_D),
}


@pytest.mark.parametrize(
    ("algorithm", "form"), [(each, form) for each, forms in FORMS.items() for form in forms]
)
def test_what_one_side_exports_the_other_imports(algorithm: KeyAlgorithm, form: KeyForm) -> None:
    module = software()
    master = key(KeyPurpose.ZONE_MASTER, algorithm, owner=UPSTREAM)
    used = module.generate(
        owner=UPSTREAM, purpose=KeyPurpose.ZONE_MAC, version=1, algorithm=algorithm, start_ms=0
    )
    wrapped = module.export_under(used, master, form)
    assert clear(used) not in wrapped
    back = software().import_under(
        wrapped,
        master,
        form,
        as_=record(KeyPurpose.ZONE_MAC, algorithm, owner=UPSTREAM, version=4),
    )
    assert clear(back) == clear(used)
    assert back.check_value == used.check_value
    assert (back.version, back.state) == (4, StoredKeyState.PENDING)


def test_a_unionpay_key_is_wrapped_block_by_block() -> None:
    master, used = key(KeyPurpose.TERMINAL_MASTER), key(KeyPurpose.MAC, KeyAlgorithm.DES)
    wrapped = software().export_under(used, master, KeyForm.ECB)
    assert wrapped == BlockCipher(TDES, clear(master)).encrypt(clear(used))


def test_a_key_is_not_wrapped_under_a_weaker_one_or_another_terminals() -> None:
    used = key(KeyPurpose.MAC, KeyAlgorithm.AES_128)
    with pytest.raises(KeyUnavailable, match="weaker"):
        software().export_under(used, key(KeyPurpose.TERMINAL_MASTER), KeyForm.ECB)
    with pytest.raises(KeyUnavailable, match="another's master"):
        software().export_under(
            key(KeyPurpose.MAC),
            key(KeyPurpose.TERMINAL_MASTER, owner="terminal:T0000002"),
            KeyForm.ECB,
        )


def test_a_transport_key_carries_other_owners_masters() -> None:
    transport = key(KeyPurpose.ZONE_MASTER, owner=GATEWAY)
    module = software()
    master = key(KeyPurpose.TERMINAL_MASTER)
    wrapped = module.export_under(master, transport, KeyForm.ECB)
    back = module.import_under(wrapped, transport, KeyForm.ECB, as_=replace(master, wrapped=b""))
    assert clear(back) == clear(master)


@pytest.mark.parametrize(
    ("algorithm", "master", "form", "reason"),
    [
        (KeyAlgorithm.AES_192, KeyAlgorithm.AES_256, KeyForm.ECB, "whole blocks"),
        (KeyAlgorithm.DES, KeyAlgorithm.SM4, KeyForm.ECB, "whole blocks"),
        (TDES, TDES, KeyForm.TR31_D, "protected by a key of AES"),
        (KeyAlgorithm.AES_128, KeyAlgorithm.AES_128, KeyForm.TR31_B, "protected by a key of TDES"),
        (KeyAlgorithm.SM4, KeyAlgorithm.AES_128, KeyForm.TR31_D, "no letter"),
    ],
)
def test_a_form_that_cannot_carry_a_key_says_so(
    algorithm: KeyAlgorithm, master: KeyAlgorithm, form: KeyForm, reason: str
) -> None:
    with pytest.raises(OperatorError, match=reason):
        software().export_under(
            key(KeyPurpose.MAC, algorithm), key(KeyPurpose.TERMINAL_MASTER, master), form
        )


def test_what_does_not_unwrap_to_the_key_that_was_named() -> None:
    module = software()
    master = key(KeyPurpose.ZONE_MASTER, owner=UPSTREAM)
    mac = record(KeyPurpose.ZONE_MAC, TDES, owner=UPSTREAM)
    block = module.export_under(key(KeyPurpose.ZONE_MAC, owner=UPSTREAM), master, KeyForm.TR31_B)
    for wrapped, form, as_, reason in (
        (bytes(8), KeyForm.ECB, mac, "8 bytes do not hold a TDES-2 key"),
        (bytes(24), KeyForm.CBC, mac, "24 bytes do not hold"),
        (b"", KeyForm.ECB, mac, "0 bytes"),
        (block, KeyForm.TR31_D, mac, "no key block of version D"),
        (block[:-1], KeyForm.TR31_B, mac, "it was cut"),
        (b"B\xff" + block[2:], KeyForm.TR31_B, mac, "ascii"),
        (block[:-1] + b"x", KeyForm.TR31_B, mac, "hexadecimal"),
        (block, KeyForm.TR31_B, replace(mac, purpose=KeyPurpose.ZONE_PIN), "usage M3"),
        (block, KeyForm.TR31_B, replace(mac, purpose=KeyPurpose.ZONE_DATA), "usage M3"),
        (block, KeyForm.TR31_B, replace(mac, algorithm=KeyAlgorithm.DES), "algorithm is T"),
    ):
        with pytest.raises(OperatorError, match=reason) as caught:
            module.import_under(wrapped, master, form, as_=as_)
        assert as_.name in str(caught.value)
    strong = key(KeyPurpose.ZONE_MASTER, KeyAlgorithm.TDES_3, owner=UPSTREAM)
    block = module.export_under(key(KeyPurpose.ZONE_MAC, owner=UPSTREAM), strong, KeyForm.TR31_B)
    with pytest.raises(OperatorError, match="16 bytes, and TDES-3 has 24"):
        module.import_under(
            block, strong, KeyForm.TR31_B, as_=replace(mac, algorithm=KeyAlgorithm.TDES_3)
        )


@pytest.mark.parametrize(("letter", "further"), [("E", True), ("N", False), ("S", False)])
def test_a_key_goes_further_only_where_its_block_lets_it(letter: str, *, further: bool) -> None:
    module = software()
    transport = key(KeyPurpose.ZONE_MASTER, owner=GATEWAY)
    header = key_block.header_for(
        KeyPurpose.BASE_DERIVATION, TDES, version="B", exportability=letter
    )
    block = key_block.wrap(
        bytes(range(16)),
        header,
        protection=clear(transport),
        protected_by=TDES,
        random=secrets.token_bytes,
    )
    as_ = record(KeyPurpose.BASE_DERIVATION, TDES, owner="group:shops")
    taken = module.import_under(block.encode(), transport, KeyForm.TR31_B, as_=as_)
    assert taken.exportable is further
    for form in (KeyForm.ECB, KeyForm.TR31_B):
        if further:
            assert module.export_under(taken, transport, form)
        else:
            with pytest.raises(KeyUnavailable, match="does not let it go further"):
                module.export_under(taken, transport, form)
    kept = module.import_under(
        block.encode(), transport, KeyForm.TR31_B, as_=replace(as_, exportable=False)
    )
    assert not kept.exportable


# --- what is held -------------------------------------------------------------------------------


def test_a_key_is_unwrapped_once_and_again_after_it_was_forgotten() -> None:
    wrapping = PlainWrapping()
    module = software(wrapping=wrapping)
    mine, other = key(KeyPurpose.MAC), key(KeyPurpose.MAC, owner="terminal:T0000002")
    for _ in range(3):
        module.mac(mine, MacScheme.X9_19, b"data")
        module.mac(other, MacScheme.X9_19, b"data")
    assert wrapping.unwrapped == [mine.name, other.name]
    module.forget(OWNER)
    assert repr(module) == "<SoftwareMessageSecurity, 1 keys held>"
    module.mac(mine, MacScheme.X9_19, b"data")
    module.mac(other, MacScheme.X9_19, b"data")
    assert wrapping.unwrapped == [mine.name, other.name, mine.name]


def test_the_least_recently_used_key_goes_first() -> None:
    wrapping = PlainWrapping()
    module = software(wrapping=wrapping, held_max=2)
    one, two, three = (key(KeyPurpose.MAC, version=version) for version in (1, 2, 3))
    for used in (one, two, one, three, one, two):
        module.mac(used, MacScheme.X9_19, b"data")
    assert wrapping.unwrapped == [one.name, two.name, three.name, two.name]


def test_a_destroyed_keys_value_is_not_found_by_its_row() -> None:
    used = replace(key(KeyPurpose.MAC), wrapped=b"")
    with pytest.raises(KeyUnavailable, match="no value"):
        software().mac(used, MacScheme.X9_19, b"data")


@pytest.mark.parametrize(
    "change",
    [
        {"owner": "terminal:T0000002"},
        {"version": 2},
        {"algorithm": KeyAlgorithm.SM4},
        {"purpose": KeyPurpose.ZONE_MAC},
    ],
)
def test_a_value_moved_to_another_row_is_refused_held_or_not(change: dict[str, Any]) -> None:
    used = key(KeyPurpose.MAC)
    moved = replace(used, **change)
    module = software()
    with pytest.raises(KeyUnavailable):
        module.mac(moved, MacScheme.X9_19, b"data")
    module = software()
    module.mac(used, MacScheme.X9_19, b"data")
    with pytest.raises(KeyUnavailable, match="holds the value of"):
        module.mac(moved, MacScheme.X9_19, b"data")


def test_a_row_that_changed_otherwise_is_the_same_key() -> None:
    wrapping = PlainWrapping()
    module = software(wrapping=wrapping)
    used = key(KeyPurpose.MAC)
    mac = module.mac(used, MacScheme.X9_19, b"data")
    retiring = replace(used, state=StoredKeyState.RETIRING, end_ms=5)
    assert module.mac(retiring, MacScheme.X9_19, b"data") == mac
    assert wrapping.unwrapped == [used.name]


def test_no_text_of_it_holds_a_key() -> None:
    module = software()
    used = key(KeyPurpose.MAC)
    module.mac(used, MacScheme.X9_19, b"data")
    held = next(iter(module._held.values()))
    for text in (repr(module), repr(used), repr(held), repr(BlockCipher(TDES, clear(used)))):
        assert clear(used).hex() not in text
        assert repr(clear(used))[2:-1] not in text
