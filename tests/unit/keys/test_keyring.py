from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.kek_sources import AskedComponentsSource, PassphraseSource, kek_component
from gateway.keys.key_encryption import AesKeyEncryption, kek_check_value
from gateway.keys.keyring import KEY_BYTES, OWN_ALGORITHMS, Key, Keyring
from gateway.keys.keyring_file import KeyringFile
from gateway.keys.own_keys import OwnKeys
from gateway.keys.records import GATEWAY, KeyPurpose, StoredKeyState

NOW_MS = 1_800_000_000_000
STORE_DATA, CARD_TOKEN, CONTENT = (
    KeyPurpose.STORE_DATA,
    KeyPurpose.CARD_TOKEN,
    KeyPurpose.CONTENT,
)


def passphrase(folder: Path, text: str = "correct horse battery", name: str = "pass") -> Any:
    file = folder / name
    file.write_text(text + "\n")
    file.chmod(0o600)
    return PassphraseSource(file, log2_n=4)


def components(*bytes_: int) -> AskedComponentsSource:
    def ask() -> list[Any]:
        made = []
        for byte in bytes_:
            clear = bytes([byte]) * 31 + b"\x01" * (byte == 1) + bytes([7]) * (byte != 1)
            made.append(kek_component(clear.hex(), kek_check_value(clear), where="test"))
        return made

    return AskedComponentsSource(ask)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keyring.json"


@pytest.fixture
def source(tmp_path: Path) -> PassphraseSource:
    made = passphrase(tmp_path)
    assert isinstance(made, PassphraseSource)
    return made


@pytest.fixture
def own(path: Path, source: PassphraseSource) -> OwnKeys:
    return OwnKeys.create(path, source, now_ms=NOW_MS)


def document(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def materials(own: OwnKeys) -> dict[tuple[KeyPurpose, int], bytes]:
    ring = own.keyring()
    return {
        (key.purpose, key.version): key.material
        for purpose in OWN_ALGORITHMS
        for key in ring.of(purpose)
    }


def test_a_new_keyring_has_one_active_key_to_each_purpose(
    own: OwnKeys, path: Path, source: PassphraseSource
) -> None:
    again = OwnKeys.open(path, [source])
    for purpose in OWN_ALGORITHMS:
        key = again.keyring().active(purpose)
        assert key == own.keyring().active(purpose)
        assert (key.version, len(key.material)) == (1, KEY_BYTES)
    assert len(set(materials(own).values())) == 3
    assert not own.rewrapping


def test_the_file_is_its_owners_alone(own: OwnKeys, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["keyring.json"]


def test_a_keyring_is_not_overwritten(own: OwnKeys, path: Path, source: PassphraseSource) -> None:
    before = path.read_bytes()
    with pytest.raises(OperatorError, match="exists already; a keyring is not overwritten"):
        OwnKeys.create(path, source, now_ms=NOW_MS)
    assert path.read_bytes() == before


def test_a_file_open_to_others_is_refused(
    own: OwnKeys, path: Path, source: PassphraseSource
) -> None:
    path.chmod(0o640)
    with pytest.raises(OperatorError, match="mode 0640 lets others at the keyring"):
        OwnKeys.open(path, [source])


def test_an_absent_one_says_how_to_make_one(path: Path, source: PassphraseSource) -> None:
    with pytest.raises(OperatorError, match="no keyring there; `gateway keys init` makes one"):
        OwnKeys.open(path, [source])


def test_no_clear_key_is_in_the_file_or_a_text(own: OwnKeys, path: Path) -> None:
    content = path.read_bytes()
    texts = [repr(own), str(own), repr(own.keyring()), repr(own.keys), repr(own.wrapping)]
    texts += [repr(key) for key in own.keyring().of(STORE_DATA)]

    for material in materials(own).values():
        assert material not in content
        assert base64.b64encode(material) not in content
        assert material.hex().encode() not in content.lower()
        for text in texts:
            assert material.hex() not in text
            assert repr(material)[2:-1] not in text


def test_another_passphrase_opens_nothing_and_says_so(
    own: OwnKeys, path: Path, tmp_path: Path
) -> None:
    other = passphrase(tmp_path, "another one entirely", name="other")
    with pytest.raises(OperatorError) as caught:
        OwnKeys.open(path, [other])
    assert "wrapped under passphrase-" in str(caught.value)
    assert f"what is given by {tmp_path / 'other'} is another key" in str(caught.value)
    assert "another one entirely" not in str(caught.value)
    with pytest.raises(OperatorError, match=r"\[keys\.kek\] has no source 'passphrase'"):
        OwnKeys.open(path, [components(3, 5)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format=1), "format 1 is not known here, only 2"),
        (lambda d: d.pop("format"), "not a keyring file"),
        (lambda d: d.update(in_force="other"), "in force is not among those it names"),
        (lambda d: d["keys"][0].update(state="lively"), "not a keyring file"),
        (lambda d: d["keys"][0].update(version=0), "not a number from 1 to 65535"),
        (lambda d: d["keys"][0].update(version=True), "not a number from 1 to 65535"),
        (lambda d: d["keys"][0].update(algorithm="DES"), "algorithm is not"),
        (lambda d: d["keys"][0].update(purpose="pin"), "not a keyring file"),
        (lambda d: d["keys"][0].update(start_ms="5"), "whole numbers"),
        (lambda d: d["keys"][0].update(wrapped="%"), "not a keyring file"),
        (lambda d: d.update(proof="AAAA"), "a wrapped key of 3 bytes is none"),
        (lambda d: d["key_encryption_keys"][0].update(log2_n=40), "not a number up to 20"),
        (lambda d: d["key_encryption_keys"][0].update(source="moon"), "not a keyring file"),
        # What is well-formed and was changed all the same.
        (lambda d: d["keys"].pop(), "changed by something else than a gateway"),
        (lambda d: d["keys"][0].update(state="retiring"), "changed by something else"),
        (lambda d: d["keys"][0].update(check_value="000000"), "changed by something else"),
        (lambda d: d["keys"][0].update(wrapped=d["keys"][1]["wrapped"]), "changed by something"),
    ],
)
def test_a_changed_file_is_refused(
    own: OwnKeys,
    path: Path,
    source: PassphraseSource,
    change: Callable[[dict[str, Any]], object],
    reason: str,
) -> None:
    changed = document(path)
    change(changed)
    path.write_text(json.dumps(changed))
    with pytest.raises(OperatorError, match=reason) as caught:
        OwnKeys.open(path, [source])
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "{", '{"format": 2}', "\x00\xff"])
def test_what_is_no_keyring_at_all(
    own: OwnKeys, path: Path, source: PassphraseSource, text: str
) -> None:
    path.write_text(text)
    with pytest.raises(OperatorError, match="not a keyring file"):
        OwnKeys.open(path, [source])


# --- rotation --------------------------------------------------------------------------------


def test_a_rotated_key_goes_on_reading(own: OwnKeys, path: Path, source: PassphraseSource) -> None:
    before = own.keyring().active(CARD_TOKEN)
    new = own.rotate(CARD_TOKEN, now_ms=NOW_MS + 5)
    assert (new.version, new.state, new.start_ms) == (2, StoredKeyState.ACTIVE, NOW_MS + 5)
    ring = OwnKeys.open(path, [source]).keyring()
    assert ring.active(CARD_TOKEN).version == 2
    assert ring.get(CARD_TOKEN, 1) == replace(before, active=False)
    assert ring.active(STORE_DATA).version == 1
    with pytest.raises(OperatorError, match="mac is no key of the gateway's own"):
        own.rotate(KeyPurpose.MAC, now_ms=NOW_MS)


def test_a_former_version_can_be_destroyed_and_its_number_is_not_used_again(
    own: OwnKeys, path: Path, source: PassphraseSource
) -> None:
    with pytest.raises(OperatorError, match=r"content\.1 is in use"):
        own.destroy(CONTENT, 1, now_ms=NOW_MS)
    with pytest.raises(OperatorError, match=r"there is no key gateway/content\.9"):
        own.destroy(CONTENT, 9, now_ms=NOW_MS)
    own.rotate(CONTENT, now_ms=NOW_MS)
    own.destroy(CONTENT, 1, now_ms=NOW_MS)
    again = OwnKeys.open(path, [source])
    with pytest.raises(KeyUnavailable, match=r"content\.1 is not in the keyring"):
        again.keyring().get(CONTENT, 1)
    assert again.next_version(CONTENT) == 3
    gone = next(key for key in again.keys if key.state is StoredKeyState.DESTROYED)
    assert (gone.owner, gone.wrapped, gone.version) == (GATEWAY, b"", 1)


# --- another key-encryption key ------------------------------------------------------------------


def test_the_key_encryption_key_is_changed(
    own: OwnKeys, path: Path, source: PassphraseSource
) -> None:
    before = materials(own)
    old_name = own.wrapping.in_force.name
    new = components(3, 5)
    name = own.begin_rewrap(new)
    assert name.startswith("components-")
    assert own.rewrapping
    assert own.wrapping.names == [old_name, name]
    assert materials(own) == before
    # A kill here: both are needed, since keys in the store may be under either.
    between = OwnKeys.open(path, [source, new])
    assert between.rewrapping
    assert set(between.wrapping.names) == {old_name, name}
    assert materials(between) == before
    # With the new one alone the own keys can be read.
    assert OwnKeys.open(path, [new]).wrapping.names == [name]
    with pytest.raises(OperatorError, match=r"no source 'components'; passphrase-.* is there"):
        OwnKeys.open(path, [source])
    own.finish_rewrap()
    after = OwnKeys.open(path, [new])
    assert not after.rewrapping
    assert materials(after) == before
    assert {key.kek for key in after.keys} == {name}
    assert own.wrapping.names == [name]


def test_a_change_of_the_key_encryption_key_is_not_begun_twice(own: OwnKeys) -> None:
    own.begin_rewrap(components(3, 5))
    with pytest.raises(OperatorError, match=r"components-.* is in force already"):
        own.begin_rewrap(components(5, 3))
    with pytest.raises(OperatorError, match="is being changed already"):
        own.begin_rewrap(components(3, 6))


def test_a_write_that_fails_changes_nothing(
    own: OwnKeys, path: Path, source: PassphraseSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, texts = materials(own), path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for act in (
        lambda: own.rotate(STORE_DATA, now_ms=NOW_MS),
        lambda: own.begin_rewrap(components(3, 5)),
    ):
        with pytest.raises(OperatorError, match="cannot be written: No space left"):
            act()
    monkeypatch.undo()
    assert path.read_bytes() == texts
    assert materials(own) == before
    assert not own.rewrapping
    assert len(own.wrapping.names) == 1
    assert materials(OwnKeys.open(path, [source])) == before


# --- in memory -----------------------------------------------------------------------------------


def a_key(purpose: KeyPurpose, version: int = 1, *, active: bool = True) -> Key:
    return Key(purpose=purpose, version=version, active=active, material=bytes(32))


def test_a_ring_has_one_active_key_to_each_purpose() -> None:
    with pytest.raises(OperatorError, match="0 active keys for content"):
        Keyring([a_key(STORE_DATA), a_key(CARD_TOKEN)])
    with pytest.raises(OperatorError, match="2 active keys for store-data"):
        Keyring([a_key(STORE_DATA), a_key(STORE_DATA, 2), a_key(CARD_TOKEN), a_key(CONTENT)])
    with pytest.raises(OperatorError, match=r"store-data\.1 occurs twice"):
        Keyring([a_key(STORE_DATA), a_key(STORE_DATA)])
    with pytest.raises(OperatorError, match="not 32 bytes"):
        Keyring([replace(a_key(STORE_DATA), material=b"short")])


def test_a_keyring_file_is_proven_by_the_key_in_force(path: Path, own: OwnKeys) -> None:
    other = AesKeyEncryption(bytes(32), source="passphrase")
    with pytest.raises(KeyUnavailable, match="does not unwrap"):
        KeyringFile.read(path).check(other)
