"""What ends is told in each window once, in good time, and no more once it is renewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import isnan
from typing import Any

import pytest

from gateway.keys.authority import Issued, Use
from gateway.telemetry.events import Event
from gateway.terminals.expiries import Expiries
from gateway.wire.revocation import PeerCertificate

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY_MS = 86_400_000
NOW_MS = round(NOW.timestamp() * 1000)


class Clock:
    """Set by the test."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self.now_ms / 1000

    def days_later(self, days: float) -> None:
        self.now_ms += round(days * DAY_MS)


class List:
    """A revocation list, as far as its end is asked for."""

    def __init__(self, days: float, *, life_days: float) -> None:
        self.next_update_ms = NOW_MS + round(days * DAY_MS)
        self.last_update_ms = self.next_update_ms - round(life_days * DAY_MS)


class Tls:
    """A listener's files, as far as their ends are asked for."""

    def __init__(
        self, days: float, *, authority: float = 3_000, revocations: List | None = None
    ) -> None:
        self.certificate = a_certificate("localhost", days)
        self.authorities = (a_certificate("Our CA", authority),)
        self.revocations = revocations


def a_certificate(name: str, days: float) -> PeerCertificate:
    return PeerCertificate(
        common_name=name,
        issuer=b"",
        serial=1,
        sha256="",
        not_before_ms=0,
        not_after_ms=NOW_MS + round(days * DAY_MS),
    )


def issued(name: str, days: float, *, revoked: bool = False, use: Use = Use.CLIENT) -> Issued:
    return Issued(
        serial=1,
        name=name,
        use=use,
        sha256="",
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=days),
        revoked=NOW if revoked else None,
    )


class Desk:
    def __init__(self, **changes: Any) -> None:
        self.clock = Clock()
        self.told: list[tuple[Event, dict[str, object]]] = []
        values: dict[str, Any] = {"warn_days": [30, 7, 1], "devices_max": 100}
        self.expiries = Expiries(
            **values | changes, clock=self.clock, emit=lambda e, /, **f: self.told.append((e, f))
        )

    def look(self) -> list[tuple[str, object, object]]:
        """What is told at this look: the event, what it is about and in how many days."""
        self.told.clear()
        self.expiries.look()
        return [(e.value, f["certificate"], f.get("days")) for e, f in self.told]


def test_each_window_is_told_once() -> None:
    desk = Desk()
    found = []
    for _ in range(80):
        desk.expiries.note("shops", Tls(35))  # type: ignore[arg-type]
        found += [
            (days, round((desk.clock.now_ms - NOW_MS) / DAY_MS)) for _, _, days in desk.look()
        ]
        desk.clock.days_later(0.5)
    assert found == [(30, 5), (7, 28), (1, 34), (0, 35)]


def test_what_is_renewed_is_told_of_no_more() -> None:
    desk = Desk()
    desk.expiries.note("shops", Tls(3, authority=20))  # type: ignore[arg-type]
    assert sorted(desk.look()) == [
        ("certificate_expiring", "authority shops Our CA", 30),
        ("certificate_expiring", "listener shops", 7),
    ]
    assert desk.look() == []
    desk.expiries.note("shops", Tls(400, authority=20))  # type: ignore[arg-type]
    assert desk.look() == [("certificate_renewed", "listener shops", None)]
    assert desk.expiries.days_left() == {
        ("listener", "shops"): 400,
        ("authority", "shops Our CA"): 20,
    }


@pytest.mark.parametrize(
    ("days", "life_days", "window"),
    [
        (29, 30, None),
        (14, 30, None),
        (6, 30, 7),
        (0.5, 30, 1),
        (-1, 30, 0),
        (5, 7, None),
        (0.9, 7, 1),
    ],
)
def test_a_list_is_told_of_in_windows_shorter_than_half_its_life(
    days: float, life_days: float, window: int | None
) -> None:
    desk = Desk()
    revocations = List(days, life_days=life_days)
    desk.expiries.note("shops", Tls(400, revocations=revocations))  # type: ignore[arg-type]
    expected = [] if window is None else [("certificate_expiring", "revocation list shops", window)]
    assert desk.look() == expected


def test_devices_are_told_together() -> None:
    desk = Desk()
    desk.expiries.use_index(
        [
            *(issued(f"T{number:07d}", 5 + number / 100) for number in range(40)),
            issued("T0000001", 500),  # renewed since
            issued("T0000002", 600, revoked=True),
            issued("listener", 2, use=Use.SERVER),
            issued("T0000099", 3, revoked=True),
        ]
    )
    assert desk.look() == [("certificate_expiring", "devices", 7)]
    fields = desk.told[0][1]
    assert fields["count"] == 39
    assert str(fields["names"]).split()[:3] == ["T0000000", "T0000002", "T0000003"]
    assert len(str(fields["names"]).split()) == 10
    assert desk.expiries.devices_by_window() == {
        ("0",): 0,
        ("1",): 0,
        ("7",): 39,
        ("30",): 0,
    }
    assert desk.expiries.device_days_left() == pytest.approx(5)
    desk.clock.days_later(4.2)
    assert [days for _, _, days in desk.look()] == [1]
    # All of them get new ones.
    desk.expiries.use_index([issued(f"T{number:07d}", 800) for number in range(40)])
    assert desk.look() == [("certificate_renewed", "devices", None)]


def test_the_certificate_that_a_device_shows_is_the_one_it_uses() -> None:
    desk = Desk()
    desk.expiries.use_index([issued("T0000001", 800)])
    assert desk.look() == []
    # A new one lies ready, and the device still uses the old.
    desk.expiries.seen(a_certificate("T0000001", 5))
    desk.clock.days_later(0.01)
    assert desk.look() == [("certificate_expiring", "devices", 7)]
    desk.expiries.seen(a_certificate("T0000001", 800))
    desk.clock.days_later(0.01)
    assert desk.look() == [("certificate_renewed", "devices", None)]


def test_who_is_not_in_use_is_not_told_of_and_memory_is_bounded() -> None:
    desk = Desk(counts=lambda name: name != "T0000001", devices_max=3)
    for number in range(1, 6):
        desk.expiries.seen(a_certificate(f"T{number:07d}", 5))
    desk.expiries.seen(a_certificate("", 5))
    desk.look()
    assert desk.told[0][1]["names"] == "T0000003 T0000004 T0000005"
    lost = Desk(counts=lambda _: False)
    lost.expiries.seen(a_certificate("T0000001", 5))
    assert lost.look() == []
    assert isnan(lost.expiries.device_days_left())
