"""KSN counters: a device's key serial number only goes up, and one that does not is told."""

from __future__ import annotations

from collections import OrderedDict

from gateway.telemetry.events import Emit, Event
from gateway.wire.message import Message, printable

_COUNTER_BITS = {10: 21, 12: 32}  # TDES DUKPT (X9.24-1), AES DUKPT (X9.24-3)


class KsnCounters:
    """The highest counter that came, by the rest of the serial number: whichever terminal sent it.

    A device uses no counter twice, so that one which comes again beside another STAN is a PIN block
    that somebody recorded. It is told and no more: the KSN is not authenticated, and who sends
    another device's with a high counter could have that one refused. After a restart the first one
    of each device is believed. The least recently seen go first above the bound.
    """

    def __init__(self, *, devices_max: int, emit: Emit) -> None:
        self.devices_max = devices_max
        self._emit = emit
        # serial number without its counter -> counter, and the terminal and STAN it came with
        self._highest: OrderedDict[tuple[int, int], tuple[int, str, str]] = OrderedDict()

    def seen(self, ksn: bytes, message: Message) -> None:
        """Take up the KSN (of 10 or 12 bytes) of a message that is no repeat."""
        bits = _COUNTER_BITS[len(ksn)]
        number = int.from_bytes(ksn, "big")
        serial, counter = (len(ksn), number >> bits), number & ((1 << bits) - 1)
        came = (counter, message.terminal_id, message.stan)
        highest = self._highest.get(serial)
        if highest is None or counter > highest[0]:
            self._highest[serial] = came
        elif came != highest:
            self._emit(
                Event.KSN_WENT_BACK,
                terminal=printable(message.terminal_id).rstrip(),
                stan=printable(message.stan),
                counter=counter,
                highest=highest[0],
                came_from=printable(highest[1]).rstrip(),
            )
        self._highest.move_to_end(serial)
        while len(self._highest) > self.devices_max:
            self._highest.popitem(last=False)

    def __len__(self) -> int:
        return len(self._highest)
