from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.errors import OperatorError
from gateway.keys.components import Component, combine
from gateway.keys.kek_settings import default_passphrase_file, open_own_keys, sources_of
from gateway.keys.kek_sources import (
    ComponentFilesSource,
    PassphraseSource,
    kek_component,
)
from gateway.keys.key_encryption import kek_check_value
from gateway.keys.records import KeyAlgorithm
from gateway.keys.secret_files import read_secret, write_secret
from gateway.settings.schema_keys import Kek, Keys


def a_file(folder: Path, name: str, text: str, mode: int = 0o600) -> Path:
    file = folder / name
    file.write_text(text)
    file.chmod(mode)
    return file


def component_file(folder: Path, name: str, clear: bytes, mode: int = 0o400) -> Path:
    text = f"# of {name}\n{clear.hex(' ', 4)}\n\n{kek_check_value(clear)}\n"
    return a_file(folder, name, text, mode)


# --- a passphrase -----------------------------------------------------------------------------


def test_the_same_passphrase_and_salt_give_the_same_key(tmp_path: Path) -> None:
    source = PassphraseSource(a_file(tmp_path, "p", "correct horse battery\n"), log2_n=4)
    record, kek = source.open(None)
    again_record, again = source.open(record)
    assert (again_record, again.name) == (record, kek.name)
    assert again.unwrap(kek.wrap(b"k" * 16, b"a"), b"a") == b"k" * 16
    other_record, other = source.open(None)
    assert other_record.salt != record.salt
    assert other.name != kek.name
    assert (record.source, record.log2_n, len(record.salt)) == ("passphrase", 4, 16)


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("short", 0o600, "the passphrase has 5 characters, and it takes 12"),
        ("\n", 0o600, "has 0 characters"),
        ("correct horse battery", 0o640, "mode 0640 lets others at the passphrase file"),
        ("correct horse battery", 0o604, "mode 0604"),
    ],
)
def test_a_passphrase_file_that_is_none(tmp_path: Path, text: str, mode: int, reason: str) -> None:
    with pytest.raises(OperatorError, match=reason):
        PassphraseSource(a_file(tmp_path, "p", text, mode), log2_n=4).open(None)


def test_an_absent_passphrase_file(tmp_path: Path) -> None:
    source = PassphraseSource(tmp_path / "p", log2_n=4)
    with pytest.raises(OperatorError, match="no passphrase file there; write the passphrase"):
        source.open(None)
    source.create_file()
    made = (tmp_path / "p").read_text()
    source.create_file()
    assert (tmp_path / "p").read_text() == made
    assert len(made) > 40
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o600


# --- components -------------------------------------------------------------------------------


def test_two_files_are_one_key_in_any_order(tmp_path: Path) -> None:
    files = [component_file(tmp_path, name, os.urandom(32)) for name in ("ann", "bob")]
    record, kek = ComponentFilesSource(files).open(None)
    _, same = ComponentFilesSource(files[::-1]).open(record)
    assert same.name == kek.name == record.name
    assert kek.name.startswith("components-")


def test_component_files_that_are_none(tmp_path: Path) -> None:
    good = component_file(tmp_path, "good", os.urandom(32))
    for name, text, reason in (
        ("one line", "00", "1 lines, and a component file has two"),
        ("three", "a\nb\nc\n", "3 lines"),
        ("wrong", f"{'ab' * 32}\n000000\n", "its check value is not the one stated"),
        ("short", f"{'ab' * 16}\n000000\n", "32 hex digits, and a component of AES-256 has 64"),
    ):
        file = a_file(tmp_path, name, text)
        with pytest.raises(OperatorError, match=reason) as caught:
            ComponentFilesSource([good, file]).open(None)
        assert str(file) in str(caught.value)
        assert "abab" not in str(caught.value)
    with pytest.raises(OperatorError, match="equal and cancel each other out"):
        ComponentFilesSource([good, good]).open(None)
    with pytest.raises(OperatorError, match="lets others at the component file"):
        ComponentFilesSource([good, component_file(tmp_path, "open", b"x" * 32, 0o644)]).open(None)


def test_components_that_cancel_out() -> None:
    one, other = os.urandom(32), os.urandom(32)
    third = bytes(a ^ b for a, b in zip(one, other, strict=True))
    parts = [Component(KeyAlgorithm.AES_256, part) for part in (one, other, third)]
    with pytest.raises(OperatorError, match="nothing is left of the key"):
        combine(parts)
    with pytest.raises(OperatorError, match="1 components"):
        combine(parts[:1])
    with pytest.raises(OperatorError, match="different algorithms"):
        combine([parts[0], Component(KeyAlgorithm.AES_128, os.urandom(16))])
    assert "b'" not in repr(parts[0])
    assert one.hex() not in f"{parts[0]!r}{parts[0]}"


def test_a_component_is_taken_with_blanks_and_either_check_value() -> None:
    clear = bytes(range(1, 33))
    text = clear.hex(" ", 2).upper()
    assert kek_component(text, kek_check_value(clear)[:6], where="x").clear == clear
    zeros = "F29000"  # AES over a block of zeros, as older devices have it
    with pytest.raises(OperatorError, match="check value"):
        kek_component(text, zeros[::-1], where="x")


# --- from the settings ------------------------------------------------------------------------


def test_a_development_keyring_is_made_with_its_passphrase(tmp_path: Path) -> None:
    keys = Keys(keyring="keyring.json", create=True)
    own = open_own_keys(keys, tmp_path.joinpath, now_ms=1)
    assert default_passphrase_file(own.path) == tmp_path / "keyring.json.passphrase"
    again = open_own_keys(keys, tmp_path.joinpath, now_ms=2)
    assert again.keys == own.keys
    (tmp_path / "keyring.json.passphrase").unlink()
    with pytest.raises(OperatorError, match="no passphrase file there"):
        open_own_keys(keys, tmp_path.joinpath, now_ms=3)


def test_components_need_files_or_somebody_to_ask(tmp_path: Path) -> None:
    keys = Keys(keyring="k", kek=Kek(source="components"))
    with pytest.raises(OperatorError, match=r"keys\.kek: the components have to be entered"):
        sources_of(keys, tmp_path.joinpath)
    asked = []

    def ask(what: str) -> list[Component]:
        asked.append(what)
        parts = [os.urandom(32), os.urandom(32)]
        return [kek_component(part.hex(), kek_check_value(part), where="x") for part in parts]

    (source,) = sources_of(keys, tmp_path.joinpath, ask=ask)
    assert asked == []
    assert source.open(None)[1].name.startswith("components-")
    assert asked == ["keys.kek"]


def test_a_token_without_its_pin_says_so(tmp_path: Path) -> None:
    pytest.importorskip("pkcs11", reason="the extra hsm is not installed")
    kek = Kek(source="pkcs11", pkcs11_module="absent.so", pin_file="pin", token_label="t")
    (source,) = sources_of(Keys(keyring="k", kek=kek), tmp_path.joinpath)
    with pytest.raises(OperatorError, match="no file with the token's PIN there"):
        source.open(None)


# --- files ----------------------------------------------------------------------------------------


def test_a_secret_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "folder" / "secret"
    write_secret(file, b"one")
    with pytest.raises(FileExistsError):
        write_secret(file, b"two")
    write_secret(file, b"three", replace=True)
    assert read_secret(file, "secret") == b"three"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_secret(file, b"four", replace=True)
    monkeypatch.undo()
    assert read_secret(file, "secret") == b"three"
    assert [one.name for one in file.parent.iterdir()] == ["secret"]
    with pytest.raises(OperatorError, match="cannot be read"):
        read_secret(tmp_path, "secret")
