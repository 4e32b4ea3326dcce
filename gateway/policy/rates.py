"""How many messages a second come from each device, address or listener: token buckets.

A bucket holds `burst` messages and fills at `per_s`; a message that finds it empty is one too many.
The buckets not asked for longest are forgotten over a bound: they have filled up meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.settings.schema_policy import Rate
from gateway.settings.schema_policy import Rates as Settings


class Buckets:
    """One bucket to each key, such as a terminal id."""

    __slots__ = ("_buckets", "_burst", "_keys_max", "_per_s")

    def __init__(self, rate: Rate, *, keys_max: int) -> None:
        self._per_s = rate.per_s
        self._burst = float(rate.burst)
        self._keys_max = keys_max
        # key -> when it was asked for last, and what was in it then; the latest asked for at the
        # end.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now_s: float) -> bool:
        """Whether one more message may come, by the monotonic clock; if so it is counted."""
        found = self._buckets.get(key)
        if found is None:
            left = self._burst
            if len(self._buckets) >= self._keys_max:
                self._buckets.popitem(last=False)
        else:
            asked_s, left = found
            left = min(self._burst, left + (now_s - asked_s) * self._per_s)
            self._buckets.move_to_end(key)
        allowed = left >= 1.0
        self._buckets[key] = (now_s, left - 1.0 if allowed else left)
        return allowed


class Rates:
    """The rates that the settings bound; what they do not bound always may come."""

    __slots__ = ("_address", "_device", "_listener", "_settings", "bounded")

    def __init__(self, settings: Settings) -> None:
        self._settings = Settings()
        self._device: Buckets | None = None
        self._address: Buckets | None = None
        self._listener: Buckets | None = None
        self.bounded = False  # some rate is: else nobody needs to ask
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Bound by these settings from now on; a rate that is another begins with full buckets."""
        was, self._settings = self._settings, settings
        keys_max = settings.keys_max
        anew = keys_max != was.keys_max
        if anew or settings.device != was.device:
            self._device = _buckets(settings.device, keys_max)
        if anew or settings.address != was.address:
            self._address = _buckets(settings.address, keys_max)
        if anew or settings.listener != was.listener:
            self._listener = _buckets(settings.listener, keys_max)
        rates = (self._device, self._address, self._listener)
        self.bounded = any(rate is not None for rate in rates)

    def over(self, *, terminal_id: str, address: str, listener: str, now_s: float) -> str:
        """The bound that a message is over, such as "rates.device"; "" where it is over none.

        `terminal_id` is that of the device it is from, "" where that is not known. The narrowest
        bound is asked first, so that one terminal that runs wild takes nothing from the others of
        its address and listener.
        """
        if self._device is not None and terminal_id and not self._device.take(terminal_id, now_s):
            return "rates.device"
        if self._address is not None and not self._address.take(address, now_s):
            return "rates.address"
        if self._listener is not None and not self._listener.take(listener, now_s):
            return "rates.listener"
        return ""


def _buckets(rate: Rate | None, keys_max: int) -> Buckets | None:
    return Buckets(rate, keys_max=keys_max) if rate is not None else None
