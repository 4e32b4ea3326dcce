"""Lockout: by connection, by address, by sign-ons; in windows, bounded."""

from __future__ import annotations

from gateway.settings.schema_keys_use import Lockout as LockoutSettings
from gateway.terminals.lockout import Lockout

SETTINGS = LockoutSettings(
    bad_macs_per_connection_max=3,
    bad_macs_per_address_max=4,
    window_s=10.0,
    lockout_s=30.0,
    addresses_max=2,
    sign_ons_max=2,
    devices_max=2,
)


def test_a_connection_ends_after_so_many() -> None:
    lockout = Lockout(SETTINGS)
    assert [lockout.ends_connection(count) for count in (0, 2, 3, 4)] == [False, False, True, True]


def test_an_address_is_locked_out_for_a_time_and_told_so_once() -> None:
    lockout = Lockout(SETTINGS)
    assert [lockout.wrong_mac("10.0.0.1", 0.1 * n) for n in range(5)] == [False] * 3 + [True, False]
    assert lockout.locked("10.0.0.1", 1.0)
    assert not lockout.locked("10.0.0.2", 1.0)
    assert not lockout.locked("10.0.0.1", 31.0)


def test_what_is_long_ago_does_not_count() -> None:
    lockout = Lockout(SETTINGS)
    assert not any(lockout.wrong_mac("10.0.0.1", 11.0 * n) for n in range(20))


def test_who_was_counted_longest_ago_is_forgotten_first() -> None:
    lockout = Lockout(SETTINGS)
    for _ in range(4):
        lockout.wrong_mac("10.0.0.1", 0.0)
    lockout.wrong_mac("10.0.0.2", 0.0)
    assert lockout.locked("10.0.0.1", 1.0)
    lockout.wrong_mac("10.0.0.3", 0.0)
    assert not lockout.locked("10.0.0.1", 1.0)


def test_sign_ons_are_limited_by_device_and_address() -> None:
    lockout = Lockout(SETTINGS)

    def may(terminal_id: str, address: str = "10.0.0.1", now_s: float = 0.0) -> bool:
        return lockout.may_sign_on(terminal_id, address, now_s)

    assert [may("T0000001") for _ in range(3)] == [True, True, False]
    assert may("T0000002")
    assert may("T0000001", "10.0.0.2")  # a stranger elsewhere uses up nothing of the shop's
    assert may("T0000001", now_s=11.0)


def test_other_settings_hold_at_once() -> None:
    lockout = Lockout(SETTINGS)
    lockout.use(LockoutSettings(bad_macs_per_connection_max=1))
    assert lockout.ends_connection(1)
