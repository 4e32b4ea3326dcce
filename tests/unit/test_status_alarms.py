"""What `gateway status` says an alarm is about."""

from __future__ import annotations

import pytest

from gateway.clock import VirtualClock
from gateway.status import detail_of
from gateway.telemetry.alarms import Alarms
from gateway.telemetry.events import Event


@pytest.mark.parametrize(
    ("event", "fields", "expected"),
    [
        (Event.CONFIG_REFUSED, {"file": "/etc/gateway.toml", "line": 12}, "/etc/gateway.toml:12"),
        (Event.CONFIG_REFUSED, {"file": "/etc/gateway.toml"}, "/etc/gateway.toml"),
        (Event.UPSTREAM_DOWN, {"upstream": "north", "file": "a", "line": 1}, "north"),
        (Event.CONFIG_WAITS, {"reason": "half a list"}, ""),
    ],
)
async def test_what_an_alarm_is_about(
    event: Event, fields: dict[str, object], expected: str
) -> None:
    alarms = Alarms(
        [],
        timeout_s=1.0,
        running_max=1,
        repeat_s=60.0,
        clock=VirtualClock(0),
        emit=lambda event, /, **fields: None,
    )
    alarms.raise_alarm(event, fields)
    (alarm,) = alarms.active
    assert detail_of(alarm) == expected
