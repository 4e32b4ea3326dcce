from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.admin.api import BadArguments
from gateway.errors import KeyUnavailable, OperatorError, StoreError
from gateway.keys import key_block
from gateway.keys.block_ciphers import BlockCipher
from gateway.keys.check_value import check_value
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKeyState
from gateway.telemetry.events import Event
from tests.support.fake_store import FakeStore
from tests.support.key_rooms import NOW_MS, Room, a_room

DAY_MS = 86_400_000
TERMINAL = {"owner": "terminal:T0000001", "purpose": "terminal-master", "algorithm": "TDES-2"}
ZONE = {"owner": "transport:maker", "purpose": "zone-master", "algorithm": "TDES-3"}
UNDER_ZONE = {"master_owner": "transport:maker", "master_purpose": "zone-master", "form": "ecb"}


@pytest.fixture
async def room(tmp_path: Path) -> Room:
    return await a_room(tmp_path)


def components(clear: bytes, count: int = 2) -> list[bytes]:
    parts = [os.urandom(len(clear)) for _ in range(count - 1)]
    last = clear
    for part in parts:
        last = bytes(a ^ b for a, b in zip(last, part, strict=True))
    return [*parts, last]


def kcv(algorithm: str, clear: bytes) -> str:
    return check_value(KeyAlgorithm(algorithm), clear).hex().upper()


async def enter(room: Room, clear: bytes, key: dict[str, str], count: int = 2) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for number, part in enumerate(components(clear, count), start=1):
        answer = await room.run(
            "component",
            **key,
            part=number,
            of=count,
            component=part.hex(),
            check_value=kcv(key["algorithm"], part),
        )
        assert (answer["key"] is None) == (number < count)
    found = answer["key"]
    assert isinstance(found, dict)
    return found


def held(room: Room, owner: str, purpose: KeyPurpose) -> bytes:
    key = room.holdings.table.current(owner, purpose, room.wall.ms)
    return room.holdings.wrapping.unwrap(key)


# --- made and entered ------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
async def test_a_key_is_entered_by_components(room: Room, count: int) -> None:
    clear = os.urandom(16)
    shown = await enter(room, clear, TERMINAL, count)
    assert held(room, "terminal:T0000001", KeyPurpose.TERMINAL_MASTER) == clear
    assert shown["check_value"] == kcv("TDES-2", clear)
    assert (shown["state"], shown["version"], shown["works"]) == ("active", 1, True)
    assert [key.state for key in await room.store.keys()] == [StoredKeyState.ACTIVE]


async def test_nothing_that_is_told_holds_a_component_or_the_key(room: Room) -> None:
    clear = os.urandom(16)
    parts = components(clear)
    texts = []
    operation = room.operations.named("component")
    for number, part in enumerate(parts, start=1):
        arguments = {
            **TERMINAL,
            "part": number,
            "of": 2,
            "component": part.hex(),
            "check_value": kcv("TDES-2", part),
        }
        parsed = room.operations.parse(operation, arguments)
        shown = operation.shown(parsed)
        texts += [json.dumps(shown), repr(parsed), str(parsed)]
        texts.append(json.dumps(operation.told(await room.run("component", **arguments))))
        texts.append(repr(room.operations._ceremonies))
    texts += [repr(key) for key in room.holdings.table] + [repr(room.events)]
    for secret in (clear, *parts):
        for text in texts:
            assert secret.hex() not in text.lower()
            assert repr(secret)[2:-1] not in text
        for file in room.folder.rglob("*"):
            if file.is_file():
                assert secret not in file.read_bytes()
                assert secret.hex() not in file.read_text(errors="replace").lower()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"check_value": "000000"}, "part 1: its check value is not the one stated"),
        ({"check_value": "12"}, "a check value has 4 to 10 hex digits"),
        ({"component": "zz"}, "part 1: not hex digits"),
        ({"component": "ab" * 8}, "part 1: 16 hex digits, and a component of TDES-2 has 32"),
        ({"component": "00" * 16, "check_value": "8CA64D"}, "part 1: all zeros"),
        ({"part": 3, "of": 2}, "part 3 of 2: there is no such part"),
        ({"algorithm": "DES", "component": "ab" * 8, "check_value": ""}, "hex digits"),
    ],
)
async def test_a_wrong_component_is_refused_and_not_repeated(
    room: Room, change: dict[str, Any], reason: str
) -> None:
    part = bytes(range(3, 19))
    arguments = {
        **TERMINAL,
        "part": 1,
        "of": 2,
        "component": part.hex(),
        "check_value": kcv("TDES-2", part),
    }
    with pytest.raises(OperatorError) as caught:
        await room.run("component", **{**arguments, **change})
    assert reason in str(caught.value)
    assert part.hex() not in str(caught.value)
    assert len(room.holdings.table) == 0


async def test_equal_components_are_refused(room: Room) -> None:
    part = os.urandom(16)
    same = {"component": part.hex(), "check_value": kcv("TDES-2", part)}
    await room.run("component", **TERMINAL, part=1, of=2, **same)
    with pytest.raises(OperatorError, match="two components are equal and cancel each other"):
        await room.run("component", **TERMINAL, part=2, of=2, **same)
    assert len(room.holdings.table) == 0


async def test_each_component_by_another_operator(tmp_path: Path) -> None:
    room = await a_room(tmp_path, different_operators=True)
    one, other = components(os.urandom(16))
    first = {"part": 1, "component": one.hex(), "check_value": kcv("TDES-2", one)}
    second = {"part": 2, "component": other.hex(), "check_value": kcv("TDES-2", other)}
    await room.run("component", "ann", **TERMINAL, of=2, **first)
    with pytest.raises(OperatorError, match="ann has entered a component of this key already"):
        await room.run("component", "ann", **TERMINAL, of=2, **second)
    done = await room.run("component", "bob", **TERMINAL, of=2, **second)
    assert done["key"]["state"] == "active"


async def test_components_are_waited_for_so_long(room: Room) -> None:
    one, other = components(os.urandom(16))
    await room.run(
        "component",
        **TERMINAL,
        part=1,
        of=2,
        component=one.hex(),
        check_value=kcv("TDES-2", one),
    )
    room.wall.ms += 900_000
    late = await room.run(
        "component",
        **TERMINAL,
        part=2,
        of=2,
        component=other.hex(),
        check_value=kcv("TDES-2", other),
    )
    assert late["key"] is None  # the first one's time was over


async def test_a_generated_key_and_its_successor(room: Room) -> None:
    first = await room.run("generate", **TERMINAL)
    assert first["state"] == "active"
    waiting = await room.run("generate", **TERMINAL, pending=True)
    assert (waiting["version"], waiting["state"], waiting["works"]) == (2, "pending", False)
    done = await room.run("activate", owner=TERMINAL["owner"], purpose="terminal-master", version=2)
    assert done["state"] == "active"
    table = room.holdings.table
    versions = table.versions("terminal:T0000001", KeyPurpose.TERMINAL_MASTER)
    assert [(key.version, key.state.value) for key in versions] == [(2, "active"), (1, "retiring")]
    assert versions[1].end_ms == NOW_MS + 3_600_000
    assert await room.store.keys() == sorted(versions, key=lambda key: key.version)


async def test_a_rotation_can_be_taken_back_while_the_overlap_lasts(room: Room) -> None:
    await room.run("generate", **TERMINAL)
    named = {"owner": TERMINAL["owner"], "purpose": "terminal-master"}
    waiting = await room.run("rotate", **named)
    assert (waiting["version"], waiting["state"]) == (2, "pending")
    assert held(room, "terminal:T0000001", KeyPurpose.TERMINAL_MASTER)
    await room.run("activate", **named, version=2)
    back = await room.run("rollback", **named)
    assert (back["version"], back["state"], back["end"]) == (1, "active", "")
    states = {key.version: key.state.value for key in room.holdings.table}
    assert states == {1: "active", 2: "expired"}
    await room.run("generate", **TERMINAL)
    room.wall.ms += 3_600_000
    with pytest.raises(OperatorError, match="its overlap is over"):
        await room.run("rollback", **named)


async def test_a_working_key_comes_with_a_sign_on(room: Room) -> None:
    await room.run("generate", **{**TERMINAL, "purpose": "mac"})
    for purpose in ("mac", "pin", "data"):
        with pytest.raises(OperatorError, match="when it signs on: set rotate_after_h"):
            await room.run("rotate", owner=TERMINAL["owner"], purpose=purpose)


async def test_keys_end_as_the_settings_say(tmp_path: Path) -> None:
    room = await a_room(tmp_path, lifetime_days=365)
    await room.run("generate", **TERMINAL)
    (key,) = room.holdings.table
    assert key.end_ms == NOW_MS + 365 * DAY_MS
    room.wall.ms = key.end_ms
    with pytest.raises(KeyUnavailable, match="ended at"):
        room.holdings.table.current(key.owner, key.purpose, room.wall.ms)
    with pytest.raises(OperatorError, match="would end before it starts"):
        await room.run("generate", **TERMINAL, end_ms=5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"purpose": "zone-pin"}, "terminal:T0000001 has no zone-pin key"),
        ({"purpose": "card-token"}, "has no card-token key"),
        ({"algorithm": "HMAC-SHA256"}, "is not used with HMAC-SHA256"),
        ({"algorithm": "DES"}, "a terminal-master key is not used with DES"),
        ({"owner": "nobody"}, "'nobody' owns no keys"),
        ({"owner": "gateway", "purpose": "store-data", "algorithm": "AES-256"}, "keys rotate"),
        ({"owner": "terminal:T00000001X"}, "owns no keys"),
    ],
)
async def test_what_there_cannot_be(room: Room, change: dict[str, str], reason: str) -> None:
    with pytest.raises(OperatorError, match=reason):
        await room.run("generate", **{**TERMINAL, **change})


async def test_there_is_a_bound(tmp_path: Path) -> None:
    room = await a_room(tmp_path, keys_max=10)
    for number in range(10):
        await room.run("generate", **{**TERMINAL, "owner": f"terminal:T{number}"})
    with pytest.raises(OperatorError, match=r"keys\.keys_max is 10"):
        await room.run("generate", **TERMINAL)


async def test_a_store_that_fails_leaves_what_was(tmp_path: Path) -> None:
    store = FakeStore()
    room = await a_room(tmp_path, store=store)
    await room.run("generate", **TERMINAL)
    before = list(room.holdings.table)
    store.failing = True
    named = {"owner": TERMINAL["owner"], "purpose": "terminal-master"}
    for act in ("rotate", "destroy"):
        with pytest.raises(StoreError):
            await room.run(act, **named)
    assert list(room.holdings.table) == before


# --- weak keys ------------------------------------------------------------


async def test_weak_keys_are_refused_and_known_ones_in_production(tmp_path: Path) -> None:
    for production in (False, True):
        folder = tmp_path / str(production)
        folder.mkdir()
        room = await a_room(folder, production=production)
        with pytest.raises(OperatorError, match="refused: two parts of the key are equal"):
            await enter(room, os.urandom(8) * 2, TERMINAL)
        known = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
        if production:
            with pytest.raises(OperatorError, match="a published test key, and this node is in"):
                await enter(room, known, TERMINAL)
        else:
            await enter(room, known, TERMINAL)
            report = await room.run("check")
            assert [one["key"] for one in report["problems"]] == [
                "terminal:T0000001/terminal-master.1"
            ]


# --- under a master key ------------------------------------------------------------


async def test_a_key_comes_and_goes_under_a_master(room: Room) -> None:
    zone, clear = os.urandom(24), os.urandom(16)
    await enter(room, zone, ZONE)
    cipher = BlockCipher(KeyAlgorithm.TDES_3, zone)
    came = await room.run(
        "import_wrapped",
        **TERMINAL,
        **UNDER_ZONE,
        wrapped=cipher.encrypt(clear).hex(),
        check_value=kcv("TDES-2", clear) + "",
    )
    assert came["check_value"] == kcv("TDES-2", clear)
    assert held(room, "terminal:T0000001", KeyPurpose.TERMINAL_MASTER) == clear
    left = await room.run(
        "export",
        owner="terminal:T0000001",
        purpose="terminal-master",
        **UNDER_ZONE,
    )
    assert bytes.fromhex(left["wrapped"]) == cipher.encrypt(clear)
    told = room.operations.named("export").told(left)
    assert left["wrapped"] not in json.dumps(told)
    block = await room.run(
        "export",
        owner="terminal:T0000001",
        purpose="terminal-master",
        **{**UNDER_ZONE, "form": "tr31-b"},
    )
    assert block["wrapped"].startswith("B0")
    theirs = key_block.wrap(
        clear,
        key_block.Header(version="B", usage="K0", algorithm="T", mode="B"),
        protection=zone,
        protected_by=KeyAlgorithm.TDES_3,
        random=os.urandom,
    )
    again = await room.run(
        "import_wrapped",
        **{**TERMINAL, "owner": "terminal:T0000002"},
        **{**UNDER_ZONE, "form": "tr31-b"},
        wrapped=theirs,
    )
    assert again["check_value"] == kcv("TDES-2", clear)


async def test_what_does_not_come_under_a_master(room: Room) -> None:
    zone, clear = os.urandom(24), os.urandom(16)
    await enter(room, zone, ZONE)
    wrapped = BlockCipher(KeyAlgorithm.TDES_3, zone).encrypt(clear).hex()
    imported = {**TERMINAL, **UNDER_ZONE, "wrapped": wrapped}
    for change, reason in (
        ({"check_value": "000000"}, "and 000000 was stated: it is damaged, or not under"),
        ({}, "say its check value"),
        ({"wrapped": "zz", "check_value": "000000"}, "the wrapped key is not hex digits"),
        ({"wrapped": wrapped[:16], "check_value": "000000"}, "16 were expected"),
        ({"master_purpose": "mac", "check_value": "000000"}, "a mac key carries no keys"),
        ({"master_owner": "transport:other", "check_value": "000000"}, "transport:other has no"),
    ):
        with pytest.raises(OperatorError, match=reason):
            await room.run("import_wrapped", **{**imported, **change})
    assert len(room.holdings.table) == 1


async def test_no_key_leaves_under_a_working_key_or_from_the_gateway_itself(room: Room) -> None:
    await enter(room, os.urandom(24), ZONE)
    with pytest.raises(OperatorError, match="card-token"):
        await room.run("export", owner="gateway", purpose="card-token", **UNDER_ZONE)
    await room.run("generate", **TERMINAL)
    with pytest.raises(OperatorError, match="carries no keys"):
        await room.run(
            "export",
            owner="terminal:T0000001",
            purpose="terminal-master",
            **{**UNDER_ZONE, "master_purpose": "zone-pin"},
        )


# --- in bulk ------------------------------------------------------------


async def a_file(room: Room, count: int) -> tuple[str, dict[str, bytes]]:
    zone = os.urandom(24)
    await enter(room, zone, ZONE)
    cipher = BlockCipher(KeyAlgorithm.TDES_3, zone)
    clear = {f"T{number:07}": os.urandom(16) for number in range(count)}
    lines = [
        f"{name},{cipher.encrypt(key).hex()},{kcv('TDES-2', key)}" for name, key in clear.items()
    ]
    return "\n".join(["terminal_id,key,check_value", *lines, ""]), clear


MANY = {**UNDER_ZONE, "algorithm": "TDES-2"}


async def test_keys_of_many_terminals(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    room = await a_room(tmp_path, step_rows=7)
    text, clear = await a_file(room, 20)
    seen: list[tuple[int, int]] = []
    arguments = {**MANY, "csv": text}
    done = await room.operations.run("import_many", arguments, lambda *at: seen.append(at))
    assert done == {"keys": 20, "unchanged": 0, "unknown": 0}
    assert seen == [(7, 20), (14, 20), (20, 20)]
    for name, key in clear.items():
        assert held(room, f"terminal:{name}", KeyPurpose.TERMINAL_MASTER) == key
    assert len(await room.store.keys()) == 21
    again = await room.run("import_many", **arguments)
    assert again == {"keys": 0, "unchanged": 20, "unknown": 0}
    assert len(room.holdings.table) == 21


async def test_one_mistake_and_nothing_is_kept(room: Room) -> None:
    text, _ = await a_file(room, 5)
    lines = text.splitlines()
    lines[2] = lines[2][:-1] + ("0" if lines[2][-1] != "0" else "1")
    lines[4] = lines[4].replace("T0000003", "T" + "0" * 12)
    lines.append("# a remark")
    before = len(room.holdings.table)
    with pytest.raises(OperatorError) as caught:
        await room.run("import_many", **MANY, csv="\n".join(lines))
    assert "nothing was kept: line 3: " in str(caught.value)
    assert "line 5: " in str(caught.value)
    assert len(room.holdings.table) == before == len(await room.store.keys())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no key in it"),
        ("terminal_id,key,check_value\n", "there is no key in it"),
        ("T1,abcd\n", "line 1: 2 columns"),
        ("T1,nohex,000000\n", "line 1: the key is not hex digits"),
        ("T1,abcd,00\nT1,abcd,00\n", "line 2: T1 stands on line 1 already"),
        ('T1,"abcd,00\n', "no CSV"),
    ],
)
async def test_what_is_no_such_file(room: Room, text: str, reason: str) -> None:
    await enter(room, os.urandom(24), ZONE)
    with pytest.raises(OperatorError, match=reason):
        await room.run("import_many", **MANY, csv=text)


# --- destroyed ------------------------------------------------------------


async def test_keys_are_destroyed(room: Room) -> None:
    await room.run("generate", **TERMINAL)
    await room.run("generate", **TERMINAL)
    one = await room.run("destroy", owner=TERMINAL["owner"], purpose="terminal-master", version=1)
    assert [key["key"] for key in one["destroyed"]] == ["terminal:T0000001/terminal-master.1"]
    rest = await room.run("destroy", owner=TERMINAL["owner"])
    assert [key["version"] for key in rest["destroyed"]] == [2]
    with pytest.raises(OperatorError, match="has no such key"):
        await room.run("destroy", owner=TERMINAL["owner"])
    assert all(key.wrapped == b"" for key in await room.store.keys())
    assert [event for event, _ in room.events] == [Event.KEY_DESTROYED, Event.KEY_DESTROYED]


async def test_an_own_key_is_rotated_and_its_former_version_destroyed(room: Room) -> None:
    security = room.holdings.security
    sealed = security.seal(b"before", context=b"c")
    token = security.card_token("6228480000000001")
    for purpose in ("store-data", "card-token", "content"):
        assert (await room.run("rotate", owner="gateway", purpose=purpose))["version"] == 2
    assert security.unseal(sealed, context=b"c") == b"before"
    assert security.seal(b"after", context=b"c")[:3] == b"\x01\x00\x02"
    assert security.card_token("6228480000000001") != token
    assert security.former_card_tokens("6228480000000001") == (token,)
    with pytest.raises(OperatorError, match="say which version"):
        await room.run("destroy", owner="gateway", purpose="store-data")
    await room.run("destroy", owner="gateway", purpose="store-data", version=1)
    with pytest.raises(KeyUnavailable, match=r"store-data\.1 is not in the keyring"):
        security.unseal(sealed, context=b"c")


# --- looked at ------------------------------------------------------------


async def test_lists_come_in_pages(room: Room) -> None:
    for number in range(7):
        await room.run("generate", **{**TERMINAL, "owner": f"terminal:T{number}"})
    page = await room.run("list", limit=4)
    assert [key["key"] for key in page["keys"]] == [
        "gateway/card-token.1",
        "gateway/content.1",
        "gateway/store-data.1",
        "terminal:T0/terminal-master.1",
    ]
    assert page["next"] == "terminal:T0"
    rest = await room.run("list", after=page["next"])
    assert len(rest["keys"]) == 6
    assert rest["next"] == ""
    one = await room.run("list", owner="terminal:T3", state="active")
    assert len(one["keys"]) == 1
    assert (await room.run("list", purpose="zone-pin"))["keys"] == []
    with pytest.raises(BadArguments, match="owns no keys"):
        await room.run("list", owner="me")


async def test_a_damaged_key_is_found(room: Room) -> None:
    await room.run("generate", **TERMINAL)
    (key,) = room.holdings.table
    report = await room.run("check")
    assert report["problems"] == []
    assert (report["keys"], report["destroyed"]) == (4, 0)
    room.holdings.table.install(replace(key, wrapped=key.wrapped[:-1] + b"x"))
    report = await room.run("check")
    assert report["problems_count"] == 1
    assert "does not unwrap under passphrase-" in report["problems"][0]["problem"]
