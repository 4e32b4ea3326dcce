"""Expiries: what ends when, of certificates and revocation lists, told days ahead and only once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from gateway.clock import Clock, iso_time
from gateway.keys.authority import CertificateState, Issued, Use
from gateway.telemetry.events import Emit, Event
from gateway.wire.revocation import PeerCertificate
from gateway.wire.tls import ServerTls

_DAY_MS = 86_400_000
_LOOK_EVERY_MS = 60_000
_NAMED_MAX = 10  # devices in one event
ENDED = 0  # the window of what has ended


class What(StrEnum):
    """What can end."""

    LISTENER = "listener"
    AUTHORITY = "authority"
    REVOCATION_LIST = "revocation_list"
    DEVICE = "device"


class Expiries:
    """Knows the ends of a node's certificates, and says so as each comes within a window.

    Windows are days: something that ends in 5 days is in that of 7. Each thing is told once in each
    window, devices together; a restart tells again where they stand.
    """

    def __init__(
        self,
        *,
        warn_days: Sequence[int],
        devices_max: int,
        clock: Clock,
        emit: Emit,
        counts: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`counts` says of a terminal id whether it is in use: others are not told of."""
        self._windows = sorted({*warn_days, ENDED})
        self._devices_max = devices_max
        self._clock = clock
        self._emit = emit
        self._counts = counts
        self._ends: dict[tuple[What, str], int] = {}
        self._lives: dict[tuple[What, str], int] = {}
        self._seen: OrderedDict[str, int] = OrderedDict()  # common name -> end, by handshakes
        self._index: dict[str, int] = {}  # the same, by the authority's index; 0: revoked
        self._told: dict[tuple[What, str], int] = {}
        self._device_windows: dict[str, int] = {}
        self._looked_ms = 0

    # --- what there is ----------------------------------------------------------------------------

    def note(self, listener: str, tls: ServerTls) -> None:
        """Take up what a listener uses by now: its certificate, its authorities and their lists."""
        ends = {(What.LISTENER, listener): tls.certificate.not_after_ms}
        lives: dict[tuple[What, str], int] = {}
        for number, authority in enumerate(tls.authorities):
            name = f"{listener} {authority.common_name or number}"
            ends[What.AUTHORITY, name] = authority.not_after_ms
        revocations = tls.revocations
        if revocations is not None and revocations.next_update_ms is not None:
            key = (What.REVOCATION_LIST, listener)
            ends[key] = revocations.next_update_ms
            lives[key] = revocations.next_update_ms - revocations.last_update_ms
        if any(self._ends.get(key) != end for key, end in ends.items()):
            self._looked_ms = 0
        self._ends.update(ends)
        self._lives.update(lives)

    def seen(self, certificate: PeerCertificate) -> None:
        """A device has shown its certificate in a handshake: that is the one it uses."""
        name = certificate.common_name
        if not name:
            return
        self._seen[name] = certificate.not_after_ms
        self._seen.move_to_end(name)
        if len(self._seen) > self._devices_max:
            self._seen.popitem(last=False)

    def use_index(self, issued: Iterable[Issued]) -> None:
        """Take up what the authority has issued to devices: of each name what ends last."""
        index: dict[str, int] = {}
        for one in issued:
            if one.use is Use.CLIENT:
                valid = one.state(one.not_before) is not CertificateState.REVOKED
                end_ms = round(one.not_after.timestamp() * 1000) if valid else 0
                index[one.name] = max(index.get(one.name, 0), end_ms)
        self._index = dict(list(index.items())[-self._devices_max :])
        self._looked_ms = 0

    def _device_ends(self) -> Iterable[tuple[str, int]]:
        """A device's own handshake says which certificate it uses, whatever was issued since."""
        for name in self._seen.keys() | self._index.keys():
            issued_ms = self._index.get(name)
            end_ms = 0 if issued_ms == 0 else self._seen.get(name) or issued_ms
            if end_ms and self._counts(name):
                yield name, end_ms

    # --- what is told -----------------------------------------------------------------------------

    def look(self) -> None:
        """Tell what has come within a window since; once a minute is enough."""
        now_ms = self._clock.wall_ms()
        if self._looked_ms and 0 <= now_ms - self._looked_ms < _LOOK_EVERY_MS:
            return
        self._looked_ms = now_ms
        for key, end_ms in self._ends.items():
            self._look_at(key, end_ms, now_ms)
        self._look_at_devices(now_ms)

    def _look_at(self, key: tuple[What, str], end_ms: int, now_ms: int) -> None:
        what, name = key
        # A list that is signed for a week is not told of a month ahead.
        life_days = self._lives.get(key, 2**62) / _DAY_MS
        window = self._window(end_ms, now_ms, longest_days=life_days / 2)
        before = self._told.get(key)
        certificate = f"{what.value.replace('_', ' ')} {name}"
        if window is None:
            if before is not None:
                del self._told[key]
                self._emit(
                    Event.CERTIFICATE_RENEWED, certificate=certificate, ends=iso_time(end_ms)
                )
        elif window != before:
            self._told[key] = window
            self._emit(
                Event.CERTIFICATE_EXPIRING,
                certificate=certificate,
                ends=iso_time(end_ms),
                days=window,
            )

    def _look_at_devices(self, now_ms: int) -> None:
        windows: dict[str, int] = {}
        fresh: dict[int, list[tuple[int, str]]] = {}
        for name, end_ms in self._device_ends():
            window = self._window(end_ms, now_ms)
            if window is not None:
                windows[name] = window
                if self._device_windows.get(name) != window:
                    fresh.setdefault(window, []).append((end_ms, name))
        self._device_windows = windows
        for window, ending in sorted(fresh.items()):
            ending.sort()
            self._emit(
                Event.CERTIFICATE_EXPIRING,
                certificate="devices",
                days=window,
                count=len(ending),
                first=iso_time(ending[0][0]),
                names=" ".join(name for _, name in ending[:_NAMED_MAX]),
            )
        if not windows and self._told.pop((What.DEVICE, ""), None) is not None:
            self._emit(Event.CERTIFICATE_RENEWED, certificate="devices")
        if windows:
            self._told[What.DEVICE, ""] = min(windows.values())

    def _window(
        self, end_ms: int, now_ms: int, *, longest_days: float = float("inf")
    ) -> int | None:
        left_days = (end_ms - now_ms) / _DAY_MS
        return next(
            (one for one in self._windows if left_days <= one <= max(longest_days, ENDED)), None
        )

    # --- metrics ----------------------------------------------------------------------------------

    def days_left(self) -> Mapping[tuple[str, ...], float]:
        """Days to the end of each thing but devices, by what and name; below 0: it has ended."""
        now_ms = self._clock.wall_ms()
        return {
            (what.value, name): round((end_ms - now_ms) / _DAY_MS, 3)
            for (what, name), end_ms in self._ends.items()
        }

    def device_days_left(self) -> float:
        """Days to the end of the device's certificate that ends first; NaN: none is known."""
        now_ms = self._clock.wall_ms()
        ends = [end_ms for _, end_ms in self._device_ends()]
        return (min(ends) - now_ms) / _DAY_MS if ends else float("nan")

    def devices_by_window(self) -> Mapping[tuple[str, ...], float]:
        """How many devices' certificates end within each window, as of the last look."""
        counts = dict.fromkeys(self._windows, 0)
        for window in self._device_windows.values():
            counts[window] += 1
        return {(str(window),): float(count) for window, count in counts.items()}
