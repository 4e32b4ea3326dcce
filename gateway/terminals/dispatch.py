"""One frame from a terminal -> the frame that answers it."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import EncodeError, FrameError, ParseError
from gateway.policy.rates import Rates
from gateway.policy.response_codes import Reason, response_code
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import Device, DeviceState
from gateway.telemetry.events import Emit, Event
from gateway.terminals.downloads import ListenerDownloads
from gateway.terminals.gate import Blocked, Gate
from gateway.terminals.guarding import Checked, ListenerGuard
from gateway.terminals.identity import Caller, IdentityProblem, Lookup, Refused, identify
from gateway.terminals.life import MAY_REVERSE
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.terminals.serials import Serials
from gateway.terminals.session import Session, Sessions
from gateway.transactions import replies
from gateway.transactions.request import Reply, Request
from gateway.wire.codec import Codec
from gateway.wire.framing import Frame, FramingSpec, answering_tpdu, encode_frame
from gateway.wire.message import (
    NETWORK_KINDS,
    RESPONSE_CODE,
    Kind,
    Message,
    kind_of,
    printable,
)

_APPROVED = "00"
# Of who is blocked. What reports or undoes what was done is taken, and repeats are answered as
# before; everything else that moves money the flow's policy refuses.
_NOT_FOR_BLOCKED = NETWORK_KINDS | {Kind.SETTLEMENT, Kind.BATCH_UPLOAD}


class Serve(Protocol):
    """The flow, as far as terminals need it."""

    async def serve(self, request: Request) -> Reply: ...


class Devices(Lookup, Protocol):
    """The registry, as far as terminals need it."""

    def touch(self, device: Device) -> None: ...


class Dispatcher:
    """Parses, identifies, has the flow serve, and writes the answer, for one listener."""

    def __init__(
        self,
        *,
        settings: ListenerSettings,
        codec: Codec,
        flow: Serve,
        devices: Devices,
        clock: Clock,
        emit: Emit,
        refused: RefusedCounter,
        rates: Rates,
        gate: Gate,
        rejected: RejectedFrames,
        guard: ListenerGuard | None = None,
        downloads: ListenerDownloads | None = None,
    ) -> None:
        """`guard` asks for MACs and keys as profiles say; without one nobody does."""
        self._listener = settings.name
        serial = settings.hardware_serial
        self._serials = (
            None if serial is None else Serials(serial, listener=settings.name, emit=emit)
        )
        self._dialect = settings.dialect
        self._code_set = settings.code_set
        self._framing = FramingSpec(**settings.framing.model_dump())
        self._codec = codec
        self._flow = flow
        self._devices = devices
        self._clock = clock
        self._emit = emit
        self._refused = refused
        self._rates = rates
        self._gate = gate
        self._guard = guard
        self._downloads = downloads
        self._rejected = rejected

    async def answer(
        self, frame: Frame, sessions: Sessions, address: str
    ) -> tuple[bytes, Reply] | None:
        """The answering frame and its reply, or None where a message wants no answer.

        Raises ParseError where nothing can be answered: the connection is then closed.
        """
        started_s = self._clock.monotonic_s()
        try:
            message = self._codec.decode(frame.body)
        except ParseError as error:
            return self._unparsed(frame, error, address)
        if not answerable(message.mti):
            self._emit(
                Event.MESSAGE_REJECTED,
                listener=self._listener,
                address=address,
                reason="not a request",
                mti=printable(message.mti),
            )
            return None
        session = sessions.of(message.terminal_id, frame.tpdu)
        reply, checked = await self._serve(message, session, address, started_s)
        answer = replies.padded(reply.message, message) if message.pads else reply.message
        if self._downloads is not None and answer.response_code == _APPROVED:
            frame = self._downloads.telling(frame, message)
        return self._frame(frame, answer, checked), reply

    async def _serve(
        self, message: Message, session: Session, address: str, started_s: float
    ) -> tuple[Reply, Checked | None]:
        """The reply, and what keys have to do with it."""
        kind = kind_of(message)
        identified = identify(
            session.caller,
            message.terminal_id,
            None if kind in NETWORK_KINDS else message.merchant_id,
            self._devices,
        )
        if self._rates.bounded:
            over = self._rates.over(
                # Only from who it is from: else anybody could use up another's bucket.
                terminal_id=""
                if isinstance(identified, Refused)
                else _proven(message, session.caller),
                address=address,
                listener=self._listener,
                now_s=started_s,
            )
            if over:
                return self._refuse_busy(message, kind, over), None
        if isinstance(identified, Refused):
            device = self._taken_back_by(identified, kind, session.caller)
            if device is None:
                return self._refuse(message, Reason(identified.problem.value), address), None
        else:
            device = identified.device
            session.identified(device)
            self._devices.touch(device)
            refused = self._kept_out(message, kind, device, session)
            if refused is not None:
                return self._refuse(message, refused.reason, address, rule=refused.rule), None
        checked, guard = None, self._guard
        if guard is not None and guard.active:
            checked = await guard.check(message, kind, device, session, address)
            reply = self._without_flow(message, checked, address)
            if reply is not None:
                if checked.reply is not None:
                    session.served(kind)
                return reply, checked
            message = checked.message
        certificate = session.caller.certificate
        request = Request(
            message,
            kind,
            device,
            listener=self._listener,
            code_set=self._code_set,
            wall_ms=self._clock.wall_ms(),
            started_s=started_s,
            address=address,
            certificate_sha256="" if certificate is None else certificate.sha256,
            certificate_serial=0 if certificate is None else certificate.serial,
            dialect=self._dialect,
        )
        if checked is not None:
            request.withheld, request.pins = checked.withheld, checked.pins
        downloaded = None
        if self._downloads is not None and kind in NETWORK_KINDS:
            downloaded = await self._downloads.reply(request)
        reply = await self._flow.serve(request) if downloaded is None else downloaded
        if kind in NETWORK_KINDS and reply.message.response_code == _APPROVED:
            session.served(kind)
        return reply, checked

    def _kept_out(
        self, message: Message, kind: Kind, device: Device, session: Session
    ) -> Blocked | None:
        """Whether an identified device is blocked, or another one than the inventory knows."""
        blocked = self._gate.sender(device, message.merchant_id, session.caller)
        if blocked is not None and kind in _NOT_FOR_BLOCKED:
            return blocked
        if self._serials is None or kind is Kind.REVERSAL:
            return None
        wrong = self._serials.refusal(message, device)
        return Blocked(Reason.NOT_THIS_DEVICE, wrong) if wrong else None

    def _without_flow(self, message: Message, checked: Checked, address: str) -> Reply | None:
        """The reply that the guard's check comes to; None where the flow has the say."""
        if checked.refused is not None:
            return self._refuse(message, checked.refused, address, rule=checked.rule)
        return None if checked.reply is None else Reply(checked.reply)

    def _refuse_busy(self, message: Message, kind: Kind, rule: str) -> Reply:
        code = response_code(Reason.OVERLOAD, self._code_set)
        self._refused(Reason.OVERLOAD.value)
        self._emit(
            Event.REQUEST_REFUSED,
            terminal=printable(message.terminal_id),
            kind=kind.value,
            stan=printable(message.stan),
            reason=Reason.OVERLOAD.value,
            rule=rule,
            code=code,
        )
        return Reply(replies.refusal(message, code))

    def _taken_back_by(self, refused: Refused, kind: Kind, caller: Caller) -> Device | None:
        """The frozen device whose reversal this is: what was sent before may be undone."""
        device = refused.device
        if device is None:
            return None
        self._gate.not_active(device, caller)
        proved = refused.problem is IdentityProblem.NOT_ACTIVE
        frozen = proved and device.state in MAY_REVERSE
        if device.state is DeviceState.REPLACED and not device.certificate_sha256:
            # It was lost before, or has nothing of its own to undo: its heir reverses for it.
            frozen = frozen and device.known_by_name
        return device if frozen and kind is Kind.REVERSAL else None

    def _refuse(self, message: Message, reason: Reason, address: str, *, rule: str = "") -> Reply:
        code = response_code(reason, self._code_set)
        self._refused(reason.value)
        self._emit(
            Event.IDENTITY_REFUSED,
            listener=self._listener,
            address=address,
            terminal=printable(message.terminal_id),
            merchant=printable(message.merchant_id),
            reason=reason.value,
            code=code,
            **({"rule": rule} if rule else {}),
        )
        return Reply(replies.refusal(message, code))

    def _unparsed(
        self, frame: Frame, error: ParseError, address: str
    ) -> tuple[bytes, Reply] | None:
        """Where MTI and STAN could be read the sender is told 30; else its connection ends."""
        self._rejected.unparsed(self._codec, frame, error, listener=self._listener, address=address)
        if not (answerable(error.mti) and error.stan):
            raise error
        self._refused(Reason.FORMAT_ERROR.value)
        self._emit(
            Event.MESSAGE_REJECTED,
            listener=self._listener,
            address=address,
            reason=str(error),
            mti=error.mti,
            stan=error.stan,
        )
        code = response_code(Reason.FORMAT_ERROR, self._code_set)
        message = replies.unparsed_refusal(mti=error.mti, stan=error.stan, code=code)
        return self._frame(frame, message), Reply(message)

    def _frame(self, frame: Frame, message: Message, checked: Checked | None = None) -> bytes:
        """The frame of an answer; its MAC, where it has one, is over these very bytes."""
        tpdu = answering_tpdu(frame.tpdu) if frame.tpdu else b""
        header = frame.header if checked is None else checked.header(frame.header, self._code_set)
        try:
            return encode_frame(self._framing, self._body(message, checked), tpdu, header)
        except (EncodeError, FrameError) as error:
            # What the acquirer answered does not fit the terminal's dialect. The outcome stands,
            # and what can be written of the bare answer is still one: silence would leave an
            # approval that the terminal never heard of.
            self._emit(
                Event.MESSAGE_REJECTED,
                listener=self._listener,
                reason=f"answer not writable: {error}",
                mti=message.mti,
                stan=message.stan,
            )
            bare = replies.bare(message)
            unwritable = [one for one in bare.fields if not self._can_write(bare, one)]
            body = self._body(bare.without(unwritable), checked)
            return encode_frame(self._framing, body, tpdu, header)

    def _body(self, message: Message, checked: Checked | None) -> bytes:
        if checked is None or checked.key is None or self._guard is None:
            return self._codec.encode(message)
        return self._guard.body(message, checked)

    def _can_write(self, message: Message, number: int) -> bool:
        try:
            self._codec.encode(Message(message.mti, {number: message.fields[number]}))
        except EncodeError:
            # Without its code it would be no answer.
            return number == RESPONSE_CODE
        return True


def _proven(message: Message, caller: Caller) -> str:
    """Whose message it is, as far as the connection proves it: on a plain one the address does."""
    if caller.certificate is not None or caller.concentrator is not None:
        return message.terminal_id
    return f"{message.terminal_id} {caller.address}"


class RefusedCounter(Protocol):
    def __call__(self, reason: str, /) -> None: ...


@lru_cache(maxsize=64)
def answerable(mti: str) -> bool:
    """Whether an MTI is that of a request or advice that a response MTI exists for."""
    return (
        len(mti) == 4 and mti.isascii() and mti.isdigit() and mti[2] in "024" and mti[3] in "012345"
    )
