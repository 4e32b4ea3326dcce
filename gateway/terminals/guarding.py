"""Guarding: what keys ask of a terminal's message, and do to its answer, by the device's profile.

The MAC comes first, over the bytes as they were received. Who is not signed on may report and undo
what was done, and hear an answer again, but do nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from gateway.clock import Clock
from gateway.errors import KeyUnavailable, StoreError
from gateway.keys.key_table import KeyTable
from gateway.keys.message_security import MacScheme, MessageSecurity, PinKey
from gateway.keys.records import KeyPurpose, StoredKey, StoredKeyState
from gateway.policy.decide import Refused
from gateway.policy.response_codes import CodeSet, Reason
from gateway.settings.schema_keys_use import Lockout as LockoutSettings
from gateway.settings.schema_keys_use import ProfileKeys, WorkingKeys
from gateway.settings.schema_policy import Profile
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import Device
from gateway.telemetry.events import Emit, Event
from gateway.terminals.clear_values import ClearValues
from gateway.terminals.key_service import Age, KeyService
from gateway.terminals.ksn_counters import KsnCounters
from gateway.terminals.lockout import LockedOut, Lockout
from gateway.terminals.session import Session
from gateway.transactions import replies
from gateway.transactions.duplicates import batch_of
from gateway.wire.codec import Codec
from gateway.wire.macs import MacPlace
from gateway.wire.message import (
    ADVICE_KINDS,
    NETWORK_KINDS,
    PIN_BLOCK,
    Kind,
    Message,
    printable,
)
from gateway.wire.requirements import SIGN_ON_AGAIN, with_requirement
from gateway.wire.working_keys import as_value

_APPROVED = "00"
_NOTHING = ProfileKeys()
_TRACK_KEY_WANTED = "004"  # the end of DE60: a data key besides
_CODES_WITHOUT_IT = ("001", "003")
_PRIVATE = 60
# What reports or undoes what was done passes by its MAC alone.
_NO_SESSION_NEEDED = ADVICE_KINDS | {Kind.REVERSAL}
_NO_POLICY = (Kind.SETTLEMENT, Kind.BATCH_UPLOAD)


class Checked:
    """What became of a message when keys were asked of it.

    `refused` is told its sender at once; `withheld` unless it turns out to be a repeat, which is
    answered as it was. `reply` is the answer where there is one already.
    """

    __slots__ = (
        "key",
        "message",
        "pins",
        "refused",
        "reply",
        "requirement",
        "rule",
        "scheme",
        "withheld",
    )

    def __init__(self, message: Message) -> None:
        self.message = message  # with its data in the clear
        self.refused: Reason | None = None
        self.rule = ""
        self.withheld: Refused | None = None
        self.reply: Message | None = None
        self.key: StoredKey | None = None  # its answer has a MAC under it
        self.scheme: MacScheme | None = None
        self.requirement = 0  # in the header of the answer
        self.pins: Sequence[PinKey] = ()  # what its PIN block may be under, the likeliest first

    def refuse(self, reason: Reason, rule: str) -> Checked:
        self.refused, self.rule = reason, rule
        return self

    def header(self, header: bytes, code_set: CodeSet) -> bytes:
        """The header of the answer: UnionPay's says what the terminal is to do next."""
        if not self.requirement or code_set != "unionpay":
            return header
        return with_requirement(header, self.requirement)


class Guard:
    """What all listeners of a node share; `of` gives the guard of one."""

    def __init__(
        self,
        *,
        table: KeyTable,
        security: MessageSecurity,
        service: KeyService,
        lockout: Lockout,
        clock: Clock,
        emit: Emit,
        batch_number: Callable[[str], int],
    ) -> None:
        """`batch_number` gives the number of a terminal's open batch."""
        self.security = security
        self.service = service
        self.lockout = lockout
        self.clock = clock
        self.emit = emit
        self.batch_number = batch_number
        self.values = ClearValues(table=table, security=security, service=service)
        self.counters = KsnCounters(devices_max=LockoutSettings().devices_max, emit=emit)
        self._rules: dict[str, ProfileKeys] = {}
        self._of: list[ListenerGuard] = []

    def use(self, profiles: Iterable[Profile], lockout: LockoutSettings) -> None:
        """Go by these profiles from now on."""
        self._rules = {one.name: one.keys for one in profiles if one.keys != _NOTHING}
        self.lockout.use(lockout)
        self.counters.devices_max = lockout.devices_max
        for guard in self._of:
            guard.active = guard.required or bool(self._rules)

    def rules(self, profile: str) -> ProfileKeys:
        return self._rules.get(profile, _NOTHING)

    def of(self, listener: ListenerSettings, codec: Codec) -> ListenerGuard:
        guard = ListenerGuard(listener, codec, self)
        guard.active = guard.required or bool(self._rules)
        self._of.append(guard)
        return guard


class ListenerGuard:
    """Asks keys of the messages of one listener; while not `active` nobody needs to call it."""

    def __init__(self, listener: ListenerSettings, codec: Codec, shared: Guard) -> None:
        self._plain = plain = listener.security == "plain"
        self.active = False
        self.required = listener.macs == "required" or (plain and listener.macs is None)
        self._listener = listener.name
        self._codec = codec
        self._place = MacPlace(codec)
        self._shared = shared

    async def check(
        self, message: Message, kind: Kind, device: Device, session: Session, address: str
    ) -> Checked:
        """What is asked of the message of an identified device. Raises LockedOut."""
        shared = self._shared
        # A concentrator's line is many shops': one with wrong keys ends none of the others.
        alone = session.caller.concentrator is None
        if alone and shared.lockout.ends_connection(session.bad_macs):
            raise LockedOut(session.bad_macs)
        rules = shared.rules(device.profile)
        checked = Checked(message)
        if kind in NETWORK_KINDS:
            return await self._network(checked, kind, device, rules, address)
        now_ms = shared.clock.wall_ms()
        try:
            if not await self._proven(checked, kind, device, session, address, rules, now_ms):
                return checked
            self._session(checked, kind, device, rules, now_ms)
            if checked.refused is not None:
                return checked
            self._values(checked, kind, device, rules, now_ms)
        except KeyUnavailable as error:
            return checked.refuse(Reason.KEY_SERVICE_FAILED, str(error))
        return checked

    def body(self, message: Message, checked: Checked) -> bytes:
        """The body of an answer, with its MAC where there is one. Raises EncodeError."""
        key, scheme = checked.key, checked.scheme
        if key is None or scheme is None:
            return self._codec.encode(message)
        try:
            compute = partial(self._shared.security.mac, key, scheme)
            return self._place.sealed(message, compute)
        except KeyUnavailable:
            # It went while the answer was on its way, with its device: the answer stands.
            return self._codec.encode(message)

    # --- MAC --------------------------------------------------------------------------------------

    async def _proven(
        self,
        checked: Checked,
        kind: Kind,
        device: Device,
        session: Session,
        address: str,
        rules: ProfileKeys,
        now_ms: int,
    ) -> bool:
        """Whether the message has the MAC that is asked of it, or needs none."""
        shared, message = self._shared, checked.message
        if rules.mac is None:
            if not self.required or kind in _NO_POLICY:
                return True
            # No guess that counts against anybody: the settings do not go together.
            checked.refuse(Reason.MAC_FAILED, f"listeners.{self._listener}.macs")
            return False
        scheme = checked.scheme = MacScheme(rules.mac)
        covered = self._place.covered(message)
        keys = shared.service.candidates(device.keyed_as, KeyPurpose.MAC, now_ms)
        if covered is None and kind in rules.mac_exempt:
            return True
        if not keys:
            checked.requirement = SIGN_ON_AGAIN
            checked.refuse(Reason.NOT_SIGNED_ON, "no MAC key")
            return False
        unusable: KeyUnavailable | None = None
        for key in keys:
            try:
                right = covered and shared.security.verify_mac(key, scheme, *covered)
            except KeyUnavailable as error:
                unusable = error  # Another of them may be the one.
                continue
            if right:
                checked.key = key
                if key.state is StoredKeyState.PENDING:
                    await shared.service.proven(key, rules.working)
                return True
        if unusable is not None:
            raise unusable
        checked.key = next((key for key in keys if key.state is StoredKeyState.ACTIVE), None)
        checked.requirement = SIGN_ON_AGAIN
        checked.refuse(Reason.MAC_FAILED, "MAC")
        why = "missing" if covered is None else "wrong"
        self._tell_wrong(checked, kind, device, session, address, why)
        return False

    def _tell_wrong(
        self,
        checked: Checked,
        kind: Kind,
        device: Device,
        session: Session,
        address: str,
        why: str,
    ) -> None:
        """It counts against connection and address; of the device only an alarm tells."""
        shared = self._shared
        session.bad_macs += 1
        shared.emit(
            Event.MAC_FAILED,
            terminal=device.terminal_id.rstrip(),
            listener=self._listener,
            address=address,
            kind=kind.value,
            stan=printable(checked.message.stan),
            reason=why,
            count=session.bad_macs,
        )
        if session.caller.concentrator is not None:
            return  # Its address is all its terminals'.
        if shared.lockout.wrong_mac(address, shared.clock.monotonic_s()):
            shared.emit(Event.LOCKED_OUT, address=address, listener=self._listener)

    # --- session ----------------------------------------------------------------------------------

    def _session(
        self, checked: Checked, kind: Kind, device: Device, rules: ProfileKeys, now_ms: int
    ) -> None:
        service, working = self._shared.service, rules.working
        reason = ""
        if rules.sign_on and not service.is_signed_on(device.keyed_as, working, now_ms):
            reason = "not signed on"
        elif working is not None:
            reason = self._age(checked, device, working, now_ms)
        if not reason and rules.batch_checked:
            batch = batch_of(checked.message)
            if batch and int(batch) != self._shared.batch_number(device.terminal_id):
                reason = f"batch {batch}"
        if not reason or kind in _NO_SESSION_NEEDED:
            return
        checked.requirement = SIGN_ON_AGAIN
        if kind in _NO_POLICY:
            checked.refuse(Reason.NOT_SIGNED_ON, reason)
        else:
            checked.withheld = Refused(Reason.NOT_SIGNED_ON, reason)

    def _age(self, checked: Checked, device: Device, working: WorkingKeys, now_ms: int) -> str:
        """Why its keys are too old to be used; nothing where they are not."""
        service = self._shared.service
        key = checked.key
        if key is None:
            found = service.candidates(device.keyed_as, KeyPurpose.PIN, now_ms)
            key = found[0] if found else None
        if key is None or key.state is StoredKeyState.RETIRING:
            return ""
        age = service.used(key, device.keyed_as, working, now_ms)
        if age is not Age.FRESH:
            checked.requirement = SIGN_ON_AGAIN
        return "keys are too old" if age is Age.OVER else ""

    # --- sign-on ----------------------------------------------------------------------------------

    async def _network(
        self, checked: Checked, kind: Kind, device: Device, rules: ProfileKeys, address: str
    ) -> Checked:
        service, terminal_id = self._shared.service, device.keyed_as
        if kind is Kind.SIGN_OFF and rules.sign_on:
            if self._signs_off(checked, device, rules):
                service.signed_off(terminal_id)
        elif kind is Kind.SIGN_ON and rules.working is None:
            service.signed_on(terminal_id)
        elif kind in (Kind.SIGN_ON, Kind.KEY_CHANGE) and rules.working is not None:
            now_s = self._shared.clock.monotonic_s()
            if not self._shared.lockout.may_sign_on(terminal_id, address, now_s):
                return self._no_sign_on(checked, Reason.OVERLOAD, "lockout.sign_ons_max")
            try:
                return await self._hand_out(checked, device, rules, rules.working)
            except KeyUnavailable as error:
                return self._no_sign_on(checked, Reason.KEY_SERVICE_FAILED, str(error))
            except StoreError:
                return self._no_sign_on(checked, Reason.INTERNAL, "store")
        return checked

    def _signs_off(self, checked: Checked, device: Device, rules: ProfileKeys) -> bool:
        """Whether a sign-off is the device's own: where a connection proves nothing its MAC does.

        Any other is answered, and changes nothing: else anybody could stop a shop by its number.
        """
        if not self._plain or rules.mac is None:
            return True
        covered = self._place.covered(checked.message)
        now_ms = self._shared.clock.wall_ms()
        keys = self._shared.service.candidates(device.keyed_as, KeyPurpose.MAC, now_ms)
        verify, scheme = self._shared.security.verify_mac, MacScheme(rules.mac)
        try:
            return covered is not None and any(verify(key, scheme, *covered) for key in keys)
        except KeyUnavailable:
            return False

    def _no_sign_on(self, checked: Checked, reason: Reason, why: str) -> Checked:
        self._shared.emit(
            Event.SIGN_ON_REFUSED,
            terminal=printable(checked.message.terminal_id.rstrip()),
            listener=self._listener,
            reason=why,
        )
        return checked.refuse(reason, why)

    async def _hand_out(
        self, checked: Checked, device: Device, rules: ProfileKeys, working: WorkingKeys
    ) -> Checked:
        message = checked.message
        code = message.get(_PRIVATE)[8:11]
        purposes: list[str] = list(working.purposes)
        if code in _CODES_WITHOUT_IT and "data" in purposes:
            purposes.remove("data")
        elif code == _TRACK_KEY_WANTED and "data" not in purposes:
            return self._no_sign_on(checked, Reason.NOT_SUPPORTED, "no data key in its profile")
        field = await self._shared.service.hand_out(
            device.keyed_as,
            working,
            stan=message.stan,
            purposes=purposes,
            proves_by_mac=rules.mac is not None,
        )
        number: int = working.field
        more = {number: as_value(field, self._codec.dialect, number)}
        private = message.get(_PRIVATE)
        if private:
            more[_PRIVATE] = private
            if rules.batch_checked and len(private) >= 8:
                batch = self._shared.batch_number(device.terminal_id)
                more[_PRIVATE] = f"{private[:2]}{batch:06d}{private[8:]}"
        checked.reply = replies.network_answer(message, _APPROVED).changed(more)
        return checked

    # --- PIN and data -----------------------------------------------------------------------------

    def _values(
        self, checked: Checked, kind: Kind, device: Device, rules: ProfileKeys, now_ms: int
    ) -> None:
        """What the device encrypts. Raises KeyUnavailable; a reversal is taken all the same."""
        values, key = self._shared.values, checked.key
        try:
            if rules.data is not None:
                checked.message = values.clear(
                    checked.message,
                    device,
                    rules.data,
                    dialect=self._codec.dialect,
                    mac_key=key,
                    now_ms=now_ms,
                )
        except ValueError:
            _withhold(checked, Reason.FORMAT_ERROR, "encrypted data")
        except KeyUnavailable:
            if kind is not Kind.REVERSAL:
                raise
        pin = rules.pin
        if pin is None:
            return
        if PIN_BLOCK not in checked.message.fields:
            if kind in pin.required_for:
                rule = f"profiles.{device.profile}.keys.pin.required_for"
                _withhold(checked, Reason.PIN_MALFORMED, rule)
            return
        try:
            checked.pins = values.pins(checked.message, device, pin, mac_key=key, now_ms=now_ms)
        except ValueError:
            _withhold(checked, Reason.PIN_MALFORMED, f"no KSN in DE{pin.ksn_field}")
            return
        is_new = kind not in _NO_SESSION_NEEDED and not checked.message.is_repeat
        if is_new and checked.pins and checked.pins[0].ksn:
            self._shared.counters.seen(checked.pins[0].ksn, checked.message)


def _withhold(checked: Checked, reason: Reason, rule: str) -> None:
    """Refuse it, unless it is a repeat, or is refused for something else already."""
    checked.withheld = checked.withheld or Refused(reason, rule)
