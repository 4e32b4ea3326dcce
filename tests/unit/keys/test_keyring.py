from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.keyring import ALGORITHMS, KEY_BYTES, Keyring, KeyState, Purpose


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keyring.json"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_new_keyring_has_one_active_key_to_each_purpose(path: Path) -> None:
    made = Keyring.create(path)
    loaded = Keyring.load(path)
    for purpose in Purpose:
        key = loaded.active(purpose)
        assert key == made.active(purpose)
        assert (key.version, key.state, len(key.material)) == (1, KeyState.ACTIVE, KEY_BYTES)
    assert len({loaded.active(purpose).material for purpose in Purpose}) == len(Purpose)


def test_the_file_is_its_owners_alone_and_nothing_else_is_left(path: Path) -> None:
    Keyring.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["keyring.json"]


def test_a_keyring_is_not_overwritten(path: Path) -> None:
    Keyring.create(path)
    before = path.read_bytes()
    with pytest.raises(OperatorError, match="exists already"):
        Keyring.create(path)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    Keyring.create(path)
    path.chmod(mode)
    with pytest.raises(OperatorError, match="chmod 600"):
        Keyring.load(path)


def test_an_absent_file_says_what_makes_one(path: Path) -> None:
    with pytest.raises(OperatorError, match="create = true"):
        Keyring.load(path)


def test_neither_repr_nor_str_shows_a_key(path: Path) -> None:
    keyring = Keyring.create(path)
    for purpose in Purpose:
        key = keyring.active(purpose)
        for text in (repr(key), str(key), repr(keyring), str(keyring)):
            assert repr(key.material)[2:-1] not in text
            assert key.material.hex() not in text
            assert purpose.value in text


def test_a_key_that_is_not_there(path: Path) -> None:
    keyring = Keyring.create(path)
    assert keyring.get(Purpose.CONTENT, 1) == keyring.active(Purpose.CONTENT)
    with pytest.raises(KeyUnavailable, match=r"card-token\.7"):
        keyring.get(Purpose.CARD_TOKEN, 7)


def test_versions_are_told_apart(path: Path) -> None:
    Keyring.create(path)

    def rotate(document: Any) -> None:
        old = document["keys"][0]
        document["keys"].append({**old, "version": 2, "material": "A" * 43 + "="})
        old["state"] = "retired"

    edit(path, rotate)
    keyring = Keyring.load(path)
    purpose = Purpose(json.loads(path.read_text())["keys"][0]["purpose"])
    assert [key.version for key in keyring.of(purpose)] == [1, 2]
    assert keyring.active(purpose).version == 2


def _set(name: str, value: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        document["keys"][0][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=2), "format 2 is not known"),
        (lambda d: d.pop("format"), "not a keyring file"),
        (lambda d: d["keys"].pop(), "0 active keys"),
        (lambda d: d["keys"].append(d["keys"][0]), "occurs twice"),
        (_set("state", "retired"), "0 active keys"),
        (_set("state", "lively"), "not a keyring file"),
        (_set("version", 0), "not a number from 1"),
        (_set("version", True), "not a number from 1"),
        (_set("version", 65_536), "not a number from 1"),
        (_set("algorithm", "ROT13"), "algorithm is not"),
        (_set("material", "c2hvcnQ="), "not 32 bytes long"),
        (_set("material", "***"), "not 32 bytes long"),
        (_set("material", 5), "not a keyring file"),
        (_set("purpose", "anything"), "not a keyring file"),
    ],
)
def test_what_is_not_right_in_a_file_is_named(
    path: Path, change: Callable[[Any], object], says: str
) -> None:
    Keyring.create(path)
    material = json.loads(path.read_text())["keys"][0]["material"]

    def run(document: Any) -> None:
        change(document)

    edit(path, run)
    with pytest.raises(OperatorError, match=says) as caught:
        Keyring.load(path)
    assert str(path) in str(caught.value)
    assert material not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\xff"])
def test_what_is_no_keyring_at_all(path: Path, text: str) -> None:
    Keyring.create(path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(OperatorError, match="not a keyring file"):
        Keyring.load(path)


def test_every_purpose_has_an_algorithm() -> None:
    assert set(ALGORITHMS) == set(Purpose)
