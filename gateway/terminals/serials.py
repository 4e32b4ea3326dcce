"""The hardware serial number that a message carries, held against the inventory."""

from __future__ import annotations

from collections import OrderedDict

from gateway.settings.schema_devices import HardwareSerial
from gateway.store.store import Device
from gateway.telemetry.events import Emit, Event
from gateway.wire.message import Message, printable

_TOLD_MAX = 10_000


class Serials:
    """Finds the serial number in a listener's messages, and says where it is another device's."""

    def __init__(self, settings: HardwareSerial, *, listener: str, emit: Emit) -> None:
        self._settings = settings
        self._listener = listener
        self._emit = emit
        self._told: OrderedDict[str, str] = OrderedDict()  # terminal -> the serial told of last

    def refusal(self, message: Message, device: Device) -> str:
        """Why a message is refused, in words; "" where it may go on.

        A device of which the inventory has no serial number matches any. A mismatch is told of once
        for each device and number, not with each message.
        """
        if not device.serial:
            return ""
        carried = serial_of(message, self._settings)
        if carried == device.serial or not (carried or self._settings.required):
            self._told.pop(device.terminal_id, None)
            return ""
        if self._told.get(device.terminal_id) != carried:
            self._told[device.terminal_id] = carried
            self._told.move_to_end(device.terminal_id)
            if len(self._told) > _TOLD_MAX:
                self._told.popitem(last=False)
            self._emit(
                Event.SERIAL_MISMATCH,
                listener=self._listener,
                terminal=device.terminal_id.rstrip(),
                serial=printable(carried)[:100],
                inventory=device.serial,
            )
        if self._settings.on_mismatch == "alarm":
            return ""
        what = f"serial {printable(carried)[:100]}" if carried else "no serial"
        return f"{what} in DE{self._settings.field}, and the inventory has {device.serial}"


def serial_of(message: Message, settings: HardwareSerial) -> str:
    """The serial number that a message carries, without blanks around it; "" for none.

    Elements are a tag, a length in digits and a value, one after the other (as in UnionPay's DE59
    and DE62); what does not read as such ends them.
    """
    text = message.get(settings.field)[settings.start - 1 :]
    if settings.tag is None:
        return text[: settings.length].strip()
    tag_chars, digits = len(settings.tag), settings.length_digits
    at = 0
    while at + tag_chars + digits <= len(text):
        tag = text[at : at + tag_chars]
        length = text[at + tag_chars : at + tag_chars + digits]
        at += tag_chars + digits
        if not (length.isascii() and length.isdigit()):
            return ""
        value = text[at : at + int(length)]
        if tag == settings.tag:
            return value[: settings.length].strip()
        at += int(length)
    return ""
