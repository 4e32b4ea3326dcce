from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.store.store import DestroyKeys, ForgetKeys, PutKey, RewrapKey, Store
from tests.support.fake_store import FakeStore
from tests.support.stores import opened

NOW_MS = 1_800_000_000_000


def a_key(
    owner: str = "terminal:T1",
    purpose: KeyPurpose = KeyPurpose.MAC,
    version: int = 1,
    **changes: object,
) -> StoredKey:
    key = StoredKey(
        owner=owner,
        purpose=purpose,
        version=version,
        algorithm=KeyAlgorithm.TDES_2,
        state=StoredKeyState.ACTIVE,
        start_ms=NOW_MS,
        check_value="08D7B4",
        kek="kek-1",
        wrapped=b"\x00wrapped\xff" + bytes([version]),
    )
    return replace(key, **changes)  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeStore()
        return
    async with opened(tmp_path / "gateway.db") as store:
        yield store


async def test_a_key_comes_back_as_it_went_in(store: Store) -> None:
    keys = [
        a_key(purpose=KeyPurpose.PIN, version=2, end_ms=NOW_MS + 1),
        a_key("upstream:a", KeyPurpose.ZONE_PIN, 1, algorithm=KeyAlgorithm.AES_256),
        a_key("upstream:b", KeyPurpose.ZONE_MASTER, 1, exportable=False),
    ]
    await store.commit(*map(PutKey, reversed(keys)))
    assert await store.keys() == keys
    retiring = replace(keys[0], state=StoredKeyState.RETIRING, end_ms=NOW_MS)
    await store.commit(PutKey(retiring))
    assert (await store.keys())[0] == retiring


async def test_destroyed_keys_leave_a_row_and_no_value(store: Store) -> None:
    others = a_key("terminal:T2")
    keys = [a_key(purpose=KeyPurpose.MAC), a_key(purpose=KeyPurpose.PIN, end_ms=NOW_MS + 10)]
    master = a_key(purpose=KeyPurpose.TERMINAL_MASTER)
    await store.commit(*map(PutKey, (*keys, master, others)))
    await store.commit(DestroyKeys("terminal:T1", NOW_MS + 5, (KeyPurpose.MAC, KeyPurpose.PIN)))
    gone = [
        replace(key, state=StoredKeyState.DESTROYED, wrapped=b"", end_ms=NOW_MS + 5) for key in keys
    ]
    assert await store.keys() == [*gone, master, others]
    await store.commit(DestroyKeys("terminal:T1", NOW_MS + 7))
    after = await store.keys()
    assert after[:2] == gone  # when they went stays as it was
    assert after[2].wrapped == b""
    assert after[3] == others


async def test_a_destroyed_key_never_comes_back(store: Store) -> None:
    await store.commit(PutKey(a_key()), PutKey(a_key(version=2)))
    await store.commit(DestroyKeys("terminal:T1", NOW_MS))
    with pytest.raises(StoreError, match="destroyed"):
        await store.commit(PutKey(a_key(version=3)), PutKey(a_key(version=2)))
    assert [key.version for key in await store.keys()] == [1, 2]  # the whole call failed
    await store.commit(RewrapKey(a_key(), "kek-2", b"anew"))
    assert all(key.wrapped == b"" for key in await store.keys())


async def test_a_key_is_wrapped_anew_only_where_it_is_still_as_it_was(store: Store) -> None:
    await store.commit(PutKey(a_key()), PutKey(a_key(version=2)))
    await store.commit(
        RewrapKey(a_key(), "kek-2", b"anew"),
        RewrapKey(replace(a_key(version=2), wrapped=b"other"), "kek-2", b"anew"),
        RewrapKey(a_key(version=3), "kek-2", b"anew"),
    )
    assert await store.keys() == [a_key(kek="kek-2", wrapped=b"anew"), a_key(version=2)]


async def test_old_versions_go_but_never_the_highest_or_one_that_works(store: Store) -> None:
    expired, destroyed = StoredKeyState.EXPIRED, StoredKeyState.DESTROYED
    await store.commit(
        PutKey(a_key(version=1, state=expired)),
        PutKey(a_key(version=2, state=destroyed, wrapped=b"")),
        PutKey(a_key(version=3)),
        PutKey(a_key(version=4, state=expired)),
        PutKey(a_key(purpose=KeyPurpose.PIN, version=1, state=expired)),
    )
    await store.commit(ForgetKeys("terminal:T1", KeyPurpose.MAC, below_version=2))
    assert [key.version for key in await store.keys()] == [2, 3, 4, 1]
    await store.commit(ForgetKeys("terminal:T1", KeyPurpose.MAC, below_version=99))
    assert [key.version for key in await store.keys()] == [3, 4, 1]
