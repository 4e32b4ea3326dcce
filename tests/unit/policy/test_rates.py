"""Token buckets: a burst, then a steady rate, in a bounded table."""

from __future__ import annotations

from gateway.policy.rates import Buckets, Rates
from gateway.settings.schema_policy import Rate
from gateway.settings.schema_policy import Rates as Settings


def test_a_burst_and_then_the_rate() -> None:
    buckets = Buckets(Rate(per_s=2.0, burst=3), keys_max=10)
    assert [buckets.take("T1", 0.0) for _ in range(4)] == [True, True, True, False]
    assert buckets.take("T1", 0.5)
    assert not buckets.take("T1", 0.5)
    assert buckets.take("T2", 0.5)


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    buckets = Buckets(Rate(per_s=100.0, burst=2), keys_max=10)
    assert buckets.take("T1", 0.0)
    assert [buckets.take("T1", 1_000.0) for _ in range(3)] == [True, True, False]


def test_messages_that_are_refused_do_not_put_off_the_next() -> None:
    buckets = Buckets(Rate(per_s=1.0, burst=1), keys_max=10)
    assert buckets.take("T1", 0.0)
    assert not any(buckets.take("T1", tenth / 10) for tenth in range(1, 10))
    assert buckets.take("T1", 1.01)


def test_the_key_not_asked_for_longest_is_forgotten() -> None:
    buckets = Buckets(Rate(per_s=0.001, burst=1), keys_max=2)
    assert buckets.take("a", 0.0)
    assert buckets.take("b", 0.0)
    assert not buckets.take("a", 0.1)
    assert buckets.take("c", 0.2)
    assert len(buckets) == 2
    assert not buckets.take("a", 0.3)
    assert buckets.take("b", 0.4)


def test_the_narrowest_bound_is_named_and_spares_the_wider() -> None:
    one = Rate(per_s=0.001, burst=1)
    rates = Rates(Settings(device=one, address=Rate(per_s=0.001, burst=2)))

    def over(terminal_id: str) -> str:
        return rates.over(terminal_id=terminal_id, address="::1", listener="shops", now_s=0.0)

    assert over("T1") == ""
    assert over("T1") == "rates.device"
    assert over("T2") == ""
    assert over("T3") == "rates.address"


def test_what_is_not_bound_always_may_come() -> None:
    rates = Rates(Settings())
    assert not any(
        rates.over(terminal_id="T1", address="::1", listener="shops", now_s=0.0)
        for _ in range(1_000)
    )


def test_nobody_needs_to_ask_while_nothing_is_bound() -> None:
    rates = Rates(Settings())
    assert not rates.bounded
    for name in ("device", "address", "listener"):
        rates.use(Settings(**{name: Rate(per_s=1.0, burst=1)}))
        assert rates.bounded
        rates.use(Settings())
        assert not rates.bounded


def test_a_device_that_is_not_known_uses_up_nobodys_bucket() -> None:
    rates = Rates(Settings(device=Rate(per_s=0.001, burst=1)))
    for _ in range(3):
        assert rates.over(terminal_id="", address="::1", listener="shops", now_s=0.0) == ""


def test_other_settings_hold_at_once_and_what_did_not_change_goes_on() -> None:
    slow = Rate(per_s=0.001, burst=1)
    rates = Rates(Settings(device=slow, listener=slow))

    def over() -> str:
        return rates.over(terminal_id="T1", address="::1", listener="shops", now_s=0.0)

    assert over() == ""
    assert over() == "rates.device"
    rates.use(Settings(device=Rate(per_s=1.0, burst=5), listener=slow))
    assert over() == "rates.listener"
    rates.use(Settings())
    assert over() == ""
