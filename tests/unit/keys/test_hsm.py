"""What is behind PKCS#11, with a real token: SoftHSM2 in a folder of each test's own."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.block_ciphers import BlockCipher
from gateway.keys.kek_settings import open_own_keys, pin_ciphers_of, sources_of
from gateway.keys.key_encryption import AesKeyEncryption, KeyEncryption, KeyWrapping, binding
from gateway.keys.message_module import SoftwareMessageSecurity
from gateway.keys.message_security import MacScheme, MalformedPin, PinFormat, PinKey
from gateway.keys.own_keys import OwnKeys
from gateway.keys.pin_block import encipher
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.keys.security_module import SoftwareSecurityModule
from gateway.settings.schema_keys import Kek, Keys
from tests.support.token import KEY_LABEL, SoftToken, create_key, missing, soft_token

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a token")

if not missing():
    import pkcs11

    from gateway.keys import hsm
    from gateway.keys.hsm import TokenKeyEncryption, TokenSession, open_token
    from gateway.keys.hsm_pins import TokenCipher, TokenPinCiphers

PAN = "4321987654321098"
INSIDE = [
    KeyAlgorithm.TDES_2,
    KeyAlgorithm.TDES_3,
    KeyAlgorithm.AES_128,
    KeyAlgorithm.AES_192,
    KeyAlgorithm.AES_256,
]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    with soft_token(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def kek(token: SoftToken) -> Iterator[TokenKeyEncryption]:
    create_key(token)
    opened = opening(token)
    yield opened
    opened.session.close()


def opening(token: SoftToken, *, key_label: str = KEY_LABEL, pin: str = "") -> TokenKeyEncryption:
    return open_token(
        token.module, token_label=token.label, key_label=key_label, pin=pin or token.pin
    )


def named(purpose: KeyPurpose, algorithm: KeyAlgorithm, version: int = 1) -> StoredKey:
    return StoredKey(
        owner="terminal:T0000001",
        purpose=purpose,
        version=version,
        algorithm=algorithm,
        state=StoredKeyState.ACTIVE,
        start_ms=0,
    )


# --- the key-encryption key -----------------------------------------------------------------------


def test_wraps_and_unwraps_and_binds(kek: TokenKeyEncryption) -> None:
    protocol: KeyEncryption = kek
    for length in (8, 16, 24, 32):
        value = secrets.token_bytes(length)
        wrapped = protocol.wrap(value, b"terminal:T1|mac|1")
        assert value not in wrapped
        assert wrapped != protocol.wrap(value, b"terminal:T1|mac|1")
        assert protocol.unwrap(wrapped, b"terminal:T1|mac|1") == value
        with pytest.raises(KeyUnavailable, match=kek.name):
            protocol.unwrap(wrapped, b"terminal:T2|mac|1")


@pytest.mark.parametrize("at", [0, 1, 12, 13, 20, -1])
def test_a_changed_wrapping_is_noticed(kek: TokenKeyEncryption, at: int) -> None:
    wrapped = bytearray(kek.wrap(bytes(range(16)), b"bound"))
    wrapped[at] ^= 3
    with pytest.raises(KeyUnavailable):
        kek.unwrap(bytes(wrapped), b"bound")
    # The token is none the worse for it.
    assert kek.unwrap(kek.wrap(bytes(16), b"bound"), b"bound") == bytes(16)


@pytest.mark.parametrize("wrapped", [b"", b"\x02", b"\x02" + bytes(28), b"\x07" + bytes(60)])
def test_what_is_no_wrapped_key(kek: TokenKeyEncryption, wrapped: bytes) -> None:
    with pytest.raises(KeyUnavailable, match=f"wrapped key of {len(wrapped)} bytes is none"):
        kek.unwrap(wrapped, b"bound")


def test_the_name_is_the_keys_and_survives_a_restart(token: SoftToken) -> None:
    create_key(token, "one")
    create_key(token, "two")
    one = opening(token, key_label="one")
    two = opening(token, key_label="two")  # the login is already made
    assert one.name != two.name
    assert one.name.startswith("pkcs11-")
    wrapped = one.wrap(bytes(range(16)), b"")
    with pytest.raises(KeyUnavailable):
        two.unwrap(wrapped, b"")
    for each in (one, two):
        each.session.close()
    again = opening(token, key_label="one")
    assert again.name == one.name
    assert again.unwrap(wrapped, b"") == bytes(range(16))
    again.session.close()


def test_the_key_itself_does_not_come_out(kek: TokenKeyEncryption) -> None:
    key = kek.session.open().get_key(label=KEY_LABEL)
    assert key[pkcs11.Attribute.SENSITIVE]
    assert not key[pkcs11.Attribute.EXTRACTABLE]
    with pytest.raises(pkcs11.PKCS11Error):
        key[pkcs11.Attribute.VALUE]


def test_a_key_that_may_not_wrap_others_still_seals_them(token: SoftToken) -> None:
    create_key(token, "plain", wraps=False)
    with (
        pkcs11.lib(str(token.module))
        .get_token(token_label=token.label)
        .open(rw=True, user_pin=token.pin) as session
    ):
        session.generate_key(pkcs11.KeyType.AES, 128, label="short", store=True)
    plain = opening(token, key_label="plain")
    wrapped = plain.wrap(bytes(range(16)), b"bound")
    assert plain.unwrap(wrapped, b"bound") == bytes(range(16))
    assert not hsm.is_kept_inside(wrapped)
    with pytest.raises(KeyUnavailable, match="cannot be used inside"):
        plain.unwrap_inside(wrapped, b"bound", pkcs11.KeyType.AES)
    key = KeyWrapping(plain).wrap(bytes(range(16)), named(KeyPurpose.PIN, KeyAlgorithm.AES_128))
    assert TokenPinCiphers(KeyWrapping(plain), held_max=10).of(key) is None
    plain.session.close()
    with pytest.raises(OperatorError, match="no AES key of 256 bits"):
        opening(token, key_label="short")


def settings(token: SoftToken, folder: Path) -> Keys:
    pin_file = folder / "pin"
    pin_file.write_text(token.pin + "\n", encoding="ascii")
    pin_file.chmod(0o600)
    return Keys(
        keyring=str(folder / "keyring"),
        kek=Kek(
            source="pkcs11",
            pkcs11_module=str(token.module),
            token_label=token.label,
            key_label=KEY_LABEL,
            pin_file=str(pin_file),
        ),
    )


def test_a_keyring_is_opened_by_its_token_alone(token: SoftToken, tmp_path: Path) -> None:
    create_key(token)
    keys = settings(token, tmp_path)
    (source,) = sources_of(keys, Path)
    own = OwnKeys.create(Path(keys.keyring), source, now_ms=1_800_000_000_000)
    sealed = SoftwareSecurityModule(own.keyring()).seal(b"a request", context=b"row 1")
    own.wrapping.in_force.session.close()  # type: ignore[attr-defined]
    own = open_own_keys(keys, Path, now_ms=1_800_000_000_000)
    assert own.wrapping.in_force.name.startswith("pkcs11-")
    opened = SoftwareSecurityModule(own.keyring()).unseal(sealed, context=b"row 1")
    assert opened == b"a request"
    own.wrapping.in_force.session.close()  # type: ignore[attr-defined]


def test_pin_keys_follow_the_key_encryption_key(kek: TokenKeyEncryption) -> None:
    before = AesKeyEncryption(bytes(range(32)), source="passphrase")
    wrapping = KeyWrapping(before)
    ciphers = pin_ciphers_of(wrapping, held_max=10)
    assert ciphers is not None
    key = wrapping.wrap(bytes(range(16)), named(KeyPurpose.PIN, KeyAlgorithm.TDES_2))
    assert ciphers.of(key) is None
    wrapping.put_in_force(kek)
    assert ciphers.of(key) is None
    rewrapped = wrapping.rewrap(key)
    assert isinstance(ciphers.of(rewrapped), TokenCipher)
    wrapping.put_in_force(before)
    assert ciphers.of(rewrapped) is None


# --- what operators get wrong ---------------------------------------------------------------------


def test_what_is_not_there_is_named(token: SoftToken) -> None:
    for act, reason in (
        (lambda: opening(token), "no secret key 'gateway-kek'"),
        (
            lambda: open_token(
                token.module, token_label="another", key_label=KEY_LABEL, pin=token.pin
            ),
            "no such token",
        ),
        (
            lambda: open_token(
                token.folder / "none.so", token_label="another", key_label=KEY_LABEL, pin=token.pin
            ),
            "none.so",
        ),
    ):
        with pytest.raises(OperatorError, match=reason) as caught:
            act()
        assert token.pin not in str(caught.value)


def test_a_refused_pin_is_not_tried_again(
    token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = TokenSession(token.module, token_label=token.label, pin="000000")
    with pytest.raises(OperatorError, match="PIN is refused"):
        session.open()
    monkeypatch.setattr(hsm.pkcs11, "lib", pytest.fail)
    with pytest.raises(OperatorError, match="not tried again"):
        session.open()
    with pytest.raises(KeyUnavailable, match="not tried again"):
        session.ask(lambda _: None)


# --- PINs -----------------------------------------------------------------------------------------


class Watched(KeyWrapping):
    """Says which keys were unwrapped into this process."""

    def __init__(self, kek: KeyEncryption) -> None:
        super().__init__(kek)
        self.unwrapped: list[str] = []

    def unwrap(self, key: StoredKey) -> bytes:
        self.unwrapped.append(key.name)
        return super().unwrap(key)


def made(kek: TokenKeyEncryption) -> tuple[SoftwareMessageSecurity, Watched, TokenPinCiphers]:
    wrapping = Watched(kek)
    ciphers = TokenPinCiphers(wrapping, held_max=10)
    module = SoftwareMessageSecurity(
        unwrap=wrapping.unwrap, wrap=wrapping.wrap, pin_ciphers=ciphers
    )
    return module, wrapping, ciphers


def pin_format_of(algorithm: KeyAlgorithm) -> PinFormat:
    return PinFormat.ISO_4 if algorithm.value.startswith("AES") else PinFormat.ISO_0


@pytest.mark.parametrize("source", INSIDE)
@pytest.mark.parametrize("target", [KeyAlgorithm.TDES_2, KeyAlgorithm.AES_256])
def test_a_pin_is_translated_as_in_software_without_its_keys_in_this_process(
    kek: TokenKeyEncryption, source: KeyAlgorithm, target: KeyAlgorithm
) -> None:
    module, wrapping, _ = made(kek)
    incoming = wrapping.wrap(secrets.token_bytes(source.bytes), named(KeyPurpose.PIN, source))
    outgoing = wrapping.wrap(secrets.token_bytes(target.bytes), named(KeyPurpose.ZONE_PIN, target))
    software = SoftwareMessageSecurity(unwrap=KeyWrapping(kek).unwrap, wrap=wrapping.wrap)
    # In the role of the terminal: what it sends is what software makes of a PIN that comes in.
    sender = named(KeyPurpose.PIN, KeyAlgorithm.TDES_2, version=9)
    sender = wrapping.wrap(bytes(range(16)), sender)
    terminal_key = replace(incoming, purpose=KeyPurpose.ZONE_PIN)
    terminal_key = wrapping.wrap(KeyWrapping(kek).unwrap(incoming), terminal_key)
    first = PinKey(key=sender, format=PinFormat.ISO_1)
    block = software.translate_pin(
        _format_1(bytes(range(16))),
        source=first,
        target=PinKey(key=terminal_key, format=pin_format_of(source)),
        pan=PAN,
    )
    wrapping.unwrapped.clear()
    translated = module.translate_pin(
        block,
        source=PinKey(key=incoming, format=pin_format_of(source)),
        target=PinKey(key=outgoing, format=pin_format_of(target)),
        pan=PAN,
    )
    assert wrapping.unwrapped == []
    # In the role of the upstream.
    upstream_key = wrapping.wrap(
        KeyWrapping(kek).unwrap(outgoing), named(KeyPurpose.PIN, target, version=7)
    )
    back = software.translate_pin(
        translated,
        source=PinKey(key=upstream_key, format=pin_format_of(target)),
        target=PinKey(
            key=wrapping.wrap(bytes(range(16)), named(KeyPurpose.ZONE_PIN, KeyAlgorithm.TDES_2)),
            format=PinFormat.ISO_0,
        ),
        pan=PAN,
    )
    expected = software.translate_pin(
        _format_1(bytes(range(16))),
        source=first,
        target=PinKey(
            key=wrapping.wrap(bytes(range(16)), named(KeyPurpose.ZONE_PIN, KeyAlgorithm.TDES_2)),
            format=PinFormat.ISO_0,
        ),
        pan=PAN,
    )
    assert back == expected
    with pytest.raises(MalformedPin):
        module.translate_pin(
            bytes(len(block)),
            source=PinKey(key=incoming, format=pin_format_of(source)),
            target=PinKey(key=outgoing, format=pin_format_of(target)),
            pan=PAN,
        )


def _format_1(value: bytes) -> bytes:
    return encipher(
        BlockCipher(KeyAlgorithm.TDES_2, value),
        bytearray((1, 2, 3, 4, 5)),
        pin_format=PinFormat.ISO_1,
        pan="",
        random=bytes,
    )


def test_what_the_token_has_no_cipher_for_is_done_in_software(kek: TokenKeyEncryption) -> None:
    module, wrapping, ciphers = made(kek)
    sm4 = wrapping.wrap(bytes(range(16)), named(KeyPurpose.ZONE_PIN, KeyAlgorithm.SM4))
    source = wrapping.wrap(bytes(range(16)), named(KeyPurpose.PIN, KeyAlgorithm.TDES_2))
    assert ciphers.of(sm4) is None
    block = module.translate_pin(
        _format_1(bytes(range(16))),
        source=PinKey(key=source, format=PinFormat.ISO_1),
        target=PinKey(key=sm4, format=PinFormat.ISO_4),
        pan=PAN,
    )
    assert len(block) == 16
    assert wrapping.unwrapped == [sm4.name]
    mac_key = wrapping.wrap(bytes(range(16)), named(KeyPurpose.MAC, KeyAlgorithm.TDES_2))
    assert len(module.mac(mac_key, MacScheme.X9_19, b"data")) == 8


def test_keys_inside_are_held_bounded_and_destroyed_when_forgotten(
    kek: TokenKeyEncryption,
) -> None:
    wrapping = KeyWrapping(kek)
    ciphers = TokenPinCiphers(wrapping, held_max=2)
    one, two, three = (
        wrapping.wrap(bytes(range(16)), named(KeyPurpose.PIN, KeyAlgorithm.TDES_2, version))
        for version in (1, 2, 3)
    )
    first = ciphers.of(one)
    assert first is not None
    assert ciphers.of(one) is first
    assert inside(kek) == 1
    assert ciphers.of(two)
    assert ciphers.of(three)
    assert inside(kek) == 2
    assert repr(ciphers) == "<TokenPinCiphers, 2 keys inside>"
    ciphers.forget("terminal:T0000002")
    assert inside(kek) == 2
    ciphers.forget("terminal:T0000001")
    assert inside(kek) == 0


def inside(kek: TokenKeyEncryption) -> int:
    found = kek.session.open().get_objects({pkcs11.Attribute.TOKEN: False})
    return sum(1 for _ in found)


def test_no_wrapping_leaves_anything_inside(kek: TokenKeyEncryption) -> None:
    for _ in range(3):
        kek.unwrap(kek.wrap(bytes(range(16)), b""), b"")
    assert inside(kek) == 0


def test_a_key_inside_cannot_be_extracted(kek: TokenKeyEncryption) -> None:
    key = KeyWrapping(kek).wrap(bytes(range(16)), named(KeyPurpose.PIN, KeyAlgorithm.TDES_2))
    held = kek.unwrap_inside(key.wrapped, binding(key), pkcs11.KeyType.DES2)
    assert not held[pkcs11.Attribute.EXTRACTABLE]
    with pytest.raises(pkcs11.PKCS11Error):
        held[pkcs11.Attribute.VALUE]
    master = kek.session.open().get_key(label=KEY_LABEL)
    with pytest.raises(pkcs11.PKCS11Error):
        master.wrap_key(held, mechanism=pkcs11.Mechanism.AES_KEY_WRAP_PAD)
    with pytest.raises(KeyUnavailable):
        kek.unwrap_inside(key.wrapped, b"another binding", pkcs11.KeyType.DES2)


def test_threads_take_turns(kek: TokenKeyEncryption) -> None:
    failed: list[Exception] = []

    def use() -> None:
        try:
            for _ in range(30):
                value = secrets.token_bytes(16)
                assert kek.unwrap(kek.wrap(value, b"bound"), b"bound") == value
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# --- a token that fails ---------------------------------------------------------------------------


def test_after_a_failure_the_session_is_opened_anew_and_keys_go_in_again(
    kek: TokenKeyEncryption,
) -> None:
    wrapping = KeyWrapping(kek)
    ciphers = TokenPinCiphers(wrapping, held_max=10)
    key = wrapping.wrap(bytes(range(16)), named(KeyPurpose.PIN, KeyAlgorithm.TDES_2))
    before = ciphers.of(key)
    assert before is not None
    expected = before.encrypt(bytes(8))
    with pytest.raises(KeyUnavailable, match="does not unwrap"):
        kek.unwrap(key.wrapped, b"another")
    assert ciphers.of(key) is before  # the token is well, and keeps what is inside
    with pytest.raises(KeyUnavailable, match="gateway-test"):
        kek.session.ask(lambda session: session.get_key(label="none"))
    assert not kek.session.is_open
    after = ciphers.of(key)
    assert after is not None
    assert after is not before
    assert after.encrypt(bytes(8)) == expected
    before.close()  # nothing of its own is left to destroy
    assert inside(kek) == 1


def test_a_token_that_is_gone_is_a_key_that_is_unavailable(
    kek: TokenKeyEncryption, token: SoftToken
) -> None:
    wrapped = kek.wrap(bytes(16), b"")
    kek.session.close()
    pkcs11.lib(str(token.module)).finalize()
    shutil.move(token.folder / "tokens", token.folder / "gone")
    (token.folder / "tokens").mkdir()
    pkcs11.lib(str(token.module)).initialize()
    with pytest.raises(KeyUnavailable, match="no such token"):
        kek.unwrap(wrapped, b"")
    pkcs11.lib(str(token.module)).finalize()
    (token.folder / "tokens").rmdir()
    shutil.move(token.folder / "gone", token.folder / "tokens")
    pkcs11.lib(str(token.module)).initialize()
    assert kek.unwrap(wrapped, b"") == bytes(16)
