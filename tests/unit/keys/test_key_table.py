from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.key_table import KeyTable
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState

NOW_MS = 1_800_000_000_000
T1, T2 = "terminal:T1", "terminal:T2"
MAC, PIN, MASTER = KeyPurpose.MAC, KeyPurpose.PIN, KeyPurpose.TERMINAL_MASTER
PENDING, ACTIVE, RETIRING, EXPIRED, DESTROYED = StoredKeyState


def a_key(
    owner: str = T1, purpose: KeyPurpose = MAC, version: int = 1, **changes: object
) -> StoredKey:
    key = StoredKey(
        owner=owner,
        purpose=purpose,
        version=version,
        algorithm=KeyAlgorithm.TDES_2,
        state=ACTIVE,
        start_ms=NOW_MS - 1_000,
        kek="kek-1",
        wrapped=b"wrapped",
    )
    return replace(key, **changes)  # type: ignore[arg-type]


def table(*keys: StoredKey, keys_max: int = 100) -> KeyTable:
    return KeyTable(keys, keys_max=keys_max)


def test_the_newest_active_key_is_the_one_to_use() -> None:
    keys = table(
        a_key(version=4, start_ms=NOW_MS + 5),
        a_key(version=3, state=PENDING),
        a_key(version=2),
        a_key(version=1, state=RETIRING, end_ms=NOW_MS + 5),
        a_key(purpose=PIN),
    )
    assert keys.current(T1, MAC, NOW_MS).version == 2
    assert [key.version for key in keys.usable(T1, MAC, NOW_MS)] == [2, 1]
    assert [key.version for key in keys.usable(T1, MAC, NOW_MS + 5)] == [4, 2]
    assert keys.current(T1, MAC, NOW_MS + 5).version == 4
    waiting = keys.pending(T1, MAC)
    assert waiting is not None
    assert waiting.version == 3
    assert keys.pending(T1, PIN) is None


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([], r"terminal:T1 has no mac key: the terminal has to sign on"),
        ([a_key(end_ms=NOW_MS)], r"mac\.1 ended at .*: the terminal has to sign on"),
        ([a_key(state=EXPIRED)], r"mac\.1 is expired"),
        ([a_key(state=PENDING)], r"mac\.1 is pending"),
        ([a_key(state=DESTROYED, end_ms=5)], r"mac\.1 is destroyed"),
        ([a_key(start_ms=NOW_MS + 1)], r"mac\.1 starts at"),
        ([a_key(purpose=PIN)], r"terminal:T1 has no mac key"),
        ([a_key(owner=T2)], r"terminal:T1 has no mac key"),
    ],
)
def test_what_is_wrong_where_there_is_no_key(keys: list[StoredKey], reason: str) -> None:
    with pytest.raises(KeyUnavailable, match=reason):
        table(*keys).current(T1, MAC, NOW_MS)


def test_a_purpose_is_never_served_by_another() -> None:
    for purpose in KeyPurpose:
        keys = table(a_key(purpose=purpose))
        for other in KeyPurpose:
            if other is not purpose:
                assert keys.usable(T1, other, NOW_MS) == []
                with pytest.raises(KeyUnavailable):
                    keys.current(T1, other, NOW_MS)


def test_versions_are_counted_on() -> None:
    keys = table(a_key(version=7, state=DESTROYED), a_key(version=2))
    assert keys.next_version(T1, MAC) == 8
    assert keys.next_version(T1, PIN) == 1
    assert keys.next_version(T2, MAC) == 1
    assert keys.version(T1, MAC, 2).version == 2
    with pytest.raises(KeyUnavailable, match=r"no key terminal:T1/mac\.3"):
        keys.version(T1, MAC, 3)


def test_what_is_destroyed_stays_so() -> None:
    keys = table(a_key(), a_key(purpose=PIN), a_key(purpose=MASTER), a_key(owner=T2))
    gone = keys.destroyed(T1, at_ms=NOW_MS, purposes=(MAC, PIN))
    assert [(key.purpose, key.state, key.wrapped) for key in gone] == [
        (MAC, DESTROYED, b""),
        (PIN, DESTROYED, b""),
    ]
    keys.install(a_key())
    with pytest.raises(KeyUnavailable):
        keys.current(T1, MAC, NOW_MS)
    assert keys.current(T1, MASTER, NOW_MS)
    assert [key.purpose for key in keys.destroyed(T1, at_ms=NOW_MS)] == [MASTER]
    assert keys.current(T2, MAC, NOW_MS)
    assert len(keys) == 4


def test_a_key_is_taken_up_wrapped_anew_unless_it_changed_meanwhile() -> None:
    keys = table(a_key(), a_key(purpose=PIN))
    before = keys.current(T1, MAC, NOW_MS)
    keys.rewrapped(before, kek="kek-2", wrapped=b"anew")
    assert keys.current(T1, MAC, NOW_MS) == replace(before, kek="kek-2", wrapped=b"anew")
    keys.rewrapped(before, kek="kek-3", wrapped=b"late")
    assert keys.current(T1, MAC, NOW_MS).kek == "kek-2"
    keys.destroyed(T1, at_ms=NOW_MS, purposes=(PIN,))
    keys.rewrapped(a_key(purpose=PIN), kek="kek-2", wrapped=b"anew")
    assert keys.versions(T1, PIN)[0].wrapped == b""


def test_old_versions_are_forgotten() -> None:
    keys = table(
        *(a_key(version=n, state=EXPIRED) for n in range(1, 5)),
        a_key(version=5),
        a_key(version=6, state=EXPIRED),
    )
    keys.forgotten(T1, MAC, below_version=3)
    assert [key.version for key in keys.versions(T1, MAC)] == [6, 5, 4, 3]
    assert len(keys) == 4
    keys.forgotten(T1, MAC, below_version=99)
    assert [key.version for key in keys] == [6, 5]
    keys.forgotten(T2, MAC, below_version=99)
    assert keys.owners() == [T1]


def test_there_is_a_bound() -> None:
    keys = table(a_key(), a_key(purpose=PIN), keys_max=3)
    keys.check_room()
    with pytest.raises(
        OperatorError, match=r"2 versions of keys are kept, and keys\.keys_max is 3"
    ):
        keys.check_room(2)


def test_a_table_shows_no_key() -> None:
    assert "wrapped" not in repr(table(a_key(wrapped=b"wrapped")))
