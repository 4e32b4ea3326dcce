"""Lockout: how many wrong MACs and sign-ons there were, and who has to wait because of them.

A plain connection proves nothing, so that a wrong MAC says nothing against the device in whose name
it came: it counts against the connection and the address, and the device goes on.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.errors import ParseError
from gateway.settings.schema_keys_use import Lockout as LockoutSettings


class LockedOut(ParseError):
    """Too many wrong MACs came on this connection: it is ended without an answer."""

    def __init__(self, count: int) -> None:
        super().__init__(f"locked out after {count} wrong MACs", field="MAC", position=0)


class _Counted:
    """Of one subject: how many in the present window, since when, and until when it is shut."""

    __slots__ = ("count", "since_s", "until_s")

    def __init__(self, now_s: float) -> None:
        self.count = 0
        self.since_s = now_s
        self.until_s = 0.0


class Lockout:
    """Counts in windows of time; bounded, and who was counted longest ago is forgotten first."""

    def __init__(self, settings: LockoutSettings) -> None:
        self._settings = settings
        self._addresses: OrderedDict[str, _Counted] = OrderedDict()
        self._sign_ons: OrderedDict[str, _Counted] = OrderedDict()

    def use(self, settings: LockoutSettings) -> None:
        """Other bounds from now on; what was counted stays."""
        self._settings = settings

    def ends_connection(self, bad_macs: int) -> bool:
        """Whether a connection with so many wrong MACs is ended."""
        return bad_macs >= self._settings.bad_macs_per_connection_max

    def wrong_mac(self, address: str, now_s: float) -> bool:
        """Count a wrong MAC from an address; whether it is locked out by it just now."""
        settings = self._settings
        counted = self._count(self._addresses, address, now_s, settings.addresses_max)
        if counted.count < settings.bad_macs_per_address_max or counted.until_s > now_s:
            return False
        counted.until_s = now_s + settings.lockout_s
        return True

    def locked(self, address: str, now_s: float) -> bool:
        """Whether no connection is taken from an address now."""
        counted = self._addresses.get(address)
        return counted is not None and counted.until_s > now_s

    def may_sign_on(self, terminal_id: str, address: str, now_s: float) -> bool:
        """Count a sign-on of a device; whether it is within what one may do from an address.

        By both: whoever signs on in a shop's name elsewhere uses up nothing of the shop's own.
        """
        settings = self._settings
        subject = f"{terminal_id} {address}"
        counted = self._count(self._sign_ons, subject, now_s, settings.devices_max)
        return counted.count <= settings.sign_ons_max

    def _count(
        self, table: OrderedDict[str, _Counted], subject: str, now_s: float, count_max: int
    ) -> _Counted:
        counted = table.get(subject)
        if counted is None:
            counted = table[subject] = _Counted(now_s)
            while len(table) > count_max:
                table.popitem(last=False)
        else:
            table.move_to_end(subject)
        if now_s - counted.since_s > self._settings.window_s:
            counted.count, counted.since_s = 0, now_s
        counted.count += 1
        return counted
