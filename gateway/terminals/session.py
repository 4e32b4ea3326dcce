"""The states of one terminal on one connection, as a table, and the sessions a connection carries
(no I/O)."""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum

from gateway.store.store import Device
from gateway.terminals.identity import Caller
from gateway.wire.message import Kind


class SessionState(StrEnum):
    FRESH = "fresh"  # nothing identified yet
    KNOWN = "known"  # a message was identified as a device's
    SIGNED_ON = "signed_on"


class SessionEvent(StrEnum):
    IDENTIFIED = "identified"
    SIGNED_ON = "signed_on"
    SIGNED_OFF = "signed_off"


TRANSITIONS: dict[tuple[SessionState, SessionEvent], SessionState] = {
    (SessionState.FRESH, SessionEvent.IDENTIFIED): SessionState.KNOWN,
    # Nothing is signed on or off before it is identified: the message itself identifies first.
    (SessionState.FRESH, SessionEvent.SIGNED_ON): SessionState.FRESH,
    (SessionState.FRESH, SessionEvent.SIGNED_OFF): SessionState.FRESH,
    (SessionState.KNOWN, SessionEvent.IDENTIFIED): SessionState.KNOWN,
    (SessionState.KNOWN, SessionEvent.SIGNED_ON): SessionState.SIGNED_ON,
    (SessionState.KNOWN, SessionEvent.SIGNED_OFF): SessionState.KNOWN,
    (SessionState.SIGNED_ON, SessionEvent.IDENTIFIED): SessionState.SIGNED_ON,
    (SessionState.SIGNED_ON, SessionEvent.SIGNED_ON): SessionState.SIGNED_ON,
    (SessionState.SIGNED_ON, SessionEvent.SIGNED_OFF): SessionState.KNOWN,
}

_EVENT_OF_KIND = {
    Kind.SIGN_ON: SessionEvent.SIGNED_ON,
    Kind.SIGN_OFF: SessionEvent.SIGNED_OFF,
}


class Session:
    """One terminal on one connection: who it proved to be, and whether it is signed on."""

    __slots__ = ("bad_macs", "caller", "state")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.state = SessionState.FRESH
        self.bad_macs = 0  # messages whose MAC was wrong or missing

    def identified(self, device: Device) -> None:
        """A message was identified; on a lone terminal's connection only this device may follow."""
        if self.caller.bound is not device:
            self.caller = self.caller.bound_to(device)
        if self.state is SessionState.FRESH:
            self.state = TRANSITIONS[self.state, SessionEvent.IDENTIFIED]

    def served(self, kind: Kind) -> None:
        """A message of this kind was answered with an approval."""
        event = _EVENT_OF_KIND.get(kind)
        if event is not None:
            self.state = TRANSITIONS[self.state, event]


class Sessions:
    """The sessions of one connection: one for a lone terminal, many for a concentrator's.

    A concentrator's are told apart by DE41 and the TPDU's source address; over `count_max` the one
    that was silent longest is forgotten, which costs its terminal a sign-on and nothing else.
    """

    __slots__ = ("_by_terminal", "_caller", "_count_max", "_lone")

    def __init__(self, caller: Caller, *, many: bool, count_max: int) -> None:
        self._caller = caller
        self._count_max = count_max
        self._lone = None if many else Session(caller)
        self._by_terminal: OrderedDict[tuple[str, bytes], Session] = OrderedDict()

    def of(self, terminal_id: str, tpdu: bytes) -> Session:
        if self._lone is not None:
            return self._lone
        key = (terminal_id, tpdu[3:5])
        session = self._by_terminal.get(key)
        if session is None:
            session = Session(self._caller)
            self._by_terminal[key] = session
            if len(self._by_terminal) > self._count_max:
                self._by_terminal.popitem(last=False)
        else:
            self._by_terminal.move_to_end(key)
        return session

    @property
    def caller(self) -> Caller:
        """The connection, and the device that it is bound to; of a concentrator's, the line."""
        return self._caller if self._lone is None else self._lone.caller

    def __len__(self) -> int:
        return len(self._by_terminal) if self._lone is None else 1
