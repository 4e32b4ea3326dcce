"""One terminal's connection: handshake, read, answer, write, each with its deadline."""

from __future__ import annotations

import contextlib
import ssl
import sys
import traceback
from math import inf
from pathlib import Path
from typing import Protocol

import trio

from gateway.clock import Clock
from gateway.errors import FrameError, ParseError, PeerError
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.telemetry.events import Emit, Event
from gateway.terminals.carriage import Carriage, StreamCarriage
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.gate import Gate
from gateway.terminals.http_carriage import HttpCarriage
from gateway.terminals.identity import Caller, ConcentratorRule, ProvenCertificate
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.terminals.session import Sessions
from gateway.transactions.request import Reply
from gateway.wire.framing import Frame, FramingSpec
from gateway.wire.revocation import PeerCertificate
from gateway.wire.stream import TcpStream
from gateway.wire.tls import (
    PeerRefused,
    ServerTls,
    handshake_reason,
    let_go,
    send_alert,
    shake_hands,
)

_CLOSE_S = 1.0  # for TLS's close_notify


class Deliver(Protocol):
    """What the flow wants to know of the replies it made."""

    def delivered(self, reply: Reply) -> None: ...

    def undelivered(self, reply: Reply, *, cut_off: bool = False) -> None: ...


class FindConcentrator(Protocol):
    """Which concentrator a connection is, by its certificate's name or its address."""

    def __call__(self, common_name: str, address: str, /) -> ConcentratorRule | None: ...


class Service:
    """What all connections of one listener share."""

    def __init__(
        self,
        settings: ListenerSettings,
        *,
        dispatcher: Dispatcher,
        tls: ServerTls | None,
        deliver: Deliver,
        find_concentrator: FindConcentrator,
        gate: Gate,
        rejected: RejectedFrames,
        exchanges: trio.Nursery,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self.settings = settings
        self.framing = FramingSpec(**settings.framing.model_dump())
        self.dispatcher = dispatcher
        self.tls = tls
        self.deliver = deliver
        self.find_concentrator = find_concentrator
        self.gate = gate
        self.rejected = rejected
        self.exchanges = exchanges
        self.clock = clock
        self.emit = emit
        self.draining = False

    def carriage(self) -> Carriage:
        """What carries the frames of a new connection."""
        if self.settings.carriage == "http":
            return HttpCarriage(self.framing, self.settings.http, clock=self.clock)
        return StreamCarriage(self.framing)


class Refused(PeerError):
    """The peer is turned away before any message; the text says why."""


class Connection:
    """Runs one connection to its end. Its exchanges outlive it: hanging up cancels nothing."""

    __slots__ = (
        "_busy",
        "_cut_off",
        "_deadline_s",
        "_ending",
        "_leaving",
        "_scope",
        "_service",
        "_sessions",
        "_stream",
        "_tcp",
        "_wait_s",
        "_waiting_for",
        "address",
        "peer",
    )

    def __init__(self, tcp: TcpStream, address: str, service: Service) -> None:
        self.address = address
        self.peer: PeerCertificate | None = None
        self._tcp = tcp
        self._stream: trio.abc.Stream = tcp
        self._service = service
        self._sessions: Sessions | None = None
        self._scope = trio.CancelScope()
        # Looked at by the listener now and then: a deadline of trio's own would have to be set and
        # taken back several times for each message, at more than the message's parsing costs. The
        # first look at a wait begins its time: most waits are over before that.
        self._wait_s = inf
        self._deadline_s: float | None = inf
        self._waiting_for = "first_byte_s"
        self._busy = 0
        self._cut_off = False
        self._ending = False
        self._leaving = False  # it takes no more, and ends once it has answered what it took

    @property
    def caller(self) -> Caller | None:
        """What is known of who is at the other end; None before the handshake is over."""
        return None if self._sessions is None else self._sessions.caller

    @property
    def certificate_ends_ms(self) -> float:
        """When its certificate ends; never for one without, or one that is ending already."""
        return inf if self.peer is None or self._leaving else self.peer.not_after_ms

    def expire(self, now_s: float) -> None:
        """End the connection if what it waits for has not come in time."""
        if self._deadline_s is None:
            self._deadline_s = now_s + self._wait_s
        elif now_s >= self._deadline_s:
            self._deadline_s = inf
            self._cancel()

    def drain(self) -> None:
        """End the connection: now if it is idle, else after the exchange under way."""
        self._leaving = True
        if not self._busy:
            self._end()

    def cut_off(self) -> None:
        """End the connection now; what it has under way is finished, but it hears no more of it."""
        self._cut_off = self._leaving = True
        if self._busy:
            self._tcp.abort()
        else:
            self._end()

    def _end(self) -> None:
        """End it without a line in the log: this is no deadline that passed."""
        self._waiting_for = ""
        self._cancel()

    def _cancel(self) -> None:
        self._ending = True
        self._scope.cancel()

    async def run(self) -> None:
        """Serve until the peer leaves, misbehaves or a deadline passes; one log line for each."""
        emit, listener = self._service.emit, self._service.settings.name
        try:
            with self._scope:
                await self._converse()
            with trio.move_on_after(_CLOSE_S):
                await self._stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The peer is gone; what was under way has said so itself.
        except Refused as error:
            emit(
                Event.HANDSHAKE_FAILED,
                listener=listener,
                address=self.address,
                reason=str(error),
            )
        except (FrameError, ParseError) as error:
            emit(
                Event.FRAME_REJECTED,
                listener=listener,
                address=self.address,
                reason=str(error),
            )
        except Exception as error:
            # One bad handler must not stop the server. The text may hold a message's values: only
            # the kind of error and the place are told.
            emit(
                Event.HANDLER_FAILED,
                listener=listener,
                address=self.address,
                reason=type(error).__name__,
                at=_place(error),
            )
        finally:
            self._tcp.close()
            let_go(self._stream)
        if self._scope.cancelled_caught and self._waiting_for:
            emit(
                Event.DEADLINE_PASSED,
                listener=listener,
                address=self.address,
                deadline=self._waiting_for,
            )

    # --- before the first message ---------------------------------------------------------

    async def _converse(self) -> None:
        service = self._service
        settings = service.settings
        certificate = None
        if service.tls is not None:
            self._wait_for("handshake_s", settings.deadlines.handshake_s)
            certificate = await self._handshake(service.tls)
            blocked = service.gate.certificate(
                certificate, listener=settings.name, address=self.address
            )
            if blocked is not None:
                raise Refused(blocked.words)
        many = settings.carries == "concentrator"
        rule = None
        if many:
            name = certificate.common_name if certificate is not None else ""
            rule = service.find_concentrator(name, self.address)
            if rule is None:
                raise Refused("no concentrator of the settings has this certificate or address")
        caller = Caller(
            listener=settings.name,
            address=self.address,
            security=settings.security,
            certificate=certificate,
            concentrator=rule,
        )
        sessions = Sessions(
            caller, many=many, count_max=settings.limits.sessions_per_connection_max
        )
        self._sessions = sessions
        if many and settings.carriage == "tcp":
            await self._carry_many(sessions)
            return
        carriage = service.carriage()
        try:
            await self._carry_one(sessions, carriage)
        except (FrameError, ParseError):
            await self._farewell(carriage)
            raise

    async def _handshake(self, tls: ServerTls) -> ProvenCertificate:
        now_ms = self._service.clock.wall_ms()
        stream = trio.SSLStream(self._tcp, tls.context(now_ms), server_side=True)
        try:
            await shake_hands(stream)
        except trio.BrokenResourceError as error:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await send_alert(stream)  # It may be gone by now.
            raise Refused(handshake_reason(error)) from None
        der = stream.getpeercert(binary_form=True)
        # A resumed session skips OpenSSL's checks: they are made again here, every time.
        peer = tls.check_peer(der, self._service.clock.wall_ms())
        if isinstance(peer, PeerRefused):
            name = peer.certificate.common_name if peer.certificate is not None else ""
            raise Refused(f"{peer.reason}: {name}" if name else str(peer.reason))
        self._stream = stream
        self.peer = peer
        return ProvenCertificate(
            common_name=peer.common_name, sha256=peer.sha256, serial=peer.serial
        )

    # --- conversations --------------------------------------------------------------------

    async def _carry_one(self, sessions: Sessions, carriage: Carriage) -> None:
        """A terminal of its own: one request at a time, answered before the next is read.

        The exchange runs in this very task. Nothing cancels it: while it is under way no deadline
        is set, and `drain` leaves a busy connection alone.
        """
        service = self._service
        self._wait_for("first_byte_s", service.settings.deadlines.first_byte_s)
        while True:
            frames = await self._receive(carriage)
            if frames is None:
                return
            for frame in frames:
                if self._ending or frame is not frames[0]:
                    # An end that was called for while this was on its way comes first: what is
                    # taken is finished. And who sends many at once takes turns with all others.
                    await trio.lowlevel.checkpoint()
                self._busy += 1
                self._deadline_s = inf
                try:
                    answered = await service.dispatcher.answer(frame, sessions, self.address)
                    if answered is not None:
                        answer, reply = answered
                        borne = carriage.answer(answer, last=service.draining or self._leaving)
                        await self._hand_over(borne, reply)
                    else:
                        self._wait_for("send_s", service.settings.deadlines.send_s)
                        await self._say(carriage.no_answer())
                finally:
                    self._busy -= 1
                if service.draining or self._leaving:
                    return
            if carriage.closing:
                return
            if frames:
                self._wait_for_next(carriage)
            if carriage.error is not None:
                raise _lost(carriage.error)

    async def _carry_many(self, sessions: Sessions) -> None:
        """A concentrator: many requests at once, up to a bound, answered as they are done."""
        service = self._service
        limit = service.settings.limits.requests_per_connection_max
        # Never fuller than the requests under way: each sends at most one answer.
        answers, to_write = trio.open_memory_channel[tuple[bytes, Reply]](limit)
        slots = trio.Semaphore(limit)
        error: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_many, to_write, slots)
                try:
                    await self._read_many(sessions, answers, slots)
                except (PeerError, trio.BrokenResourceError, trio.ClosedResourceError) as caught:
                    error = caught
                nursery.cancel_scope.cancel()
        finally:
            while to_write.statistics().current_buffer_used:
                self._undelivered(to_write.receive_nowait()[1])
            to_write.close()
        if error is not None:
            raise error

    async def _read_many(
        self,
        sessions: Sessions,
        answers: trio.MemorySendChannel[tuple[bytes, Reply]],
        slots: trio.Semaphore,
    ) -> None:
        service = self._service
        reader = StreamCarriage(service.framing)
        self._wait_for("first_byte_s", service.settings.deadlines.first_byte_s)
        while (frames := await self._receive(reader)) is not None:
            for frame in frames:
                # Not reading on is what holds a concentrator back.
                self._deadline_s = inf
                await slots.acquire()
                if service.draining or self._leaving or self._ending:
                    # What was taken is finished, and then `_end_if_drained` ends it all. It may
                    # have been called for while this waited for its place.
                    await trio.sleep_forever()
                self._busy += 1
                service.exchanges.start_soon(
                    self._answer_one_of_many, frame, sessions, answers, slots
                )
            if frames:
                self._wait_for_next(reader)
            if reader.error is not None:
                raise _lost(reader.error)

    async def _answer_one_of_many(
        self,
        frame: Frame,
        sessions: Sessions,
        answers: trio.MemorySendChannel[tuple[bytes, Reply]],
        slots: trio.Semaphore,
    ) -> None:
        answered = None
        try:
            answered = await self._service.dispatcher.answer(frame, sessions, self.address)
        except ParseError as error:
            self._service.emit(
                Event.FRAME_REJECTED,
                listener=self._service.settings.name,
                address=self.address,
                reason=str(error),
            )
        except Exception as error:
            self._service.emit(
                Event.HANDLER_FAILED,
                listener=self._service.settings.name,
                address=self.address,
                reason=type(error).__name__,
                at=_place(error),
            )
        try:
            if answered is not None:
                answers.send_nowait(answered)
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if answered is not None:
                self._undelivered(answered[1])
        self._busy -= 1
        slots.release()
        self._end_if_drained()

    async def _write_many(
        self,
        to_write: trio.MemoryReceiveChannel[tuple[bytes, Reply]],
        slots: trio.Semaphore,
    ) -> None:
        async for frame, reply in to_write:
            with trio.move_on_after(self._service.settings.deadlines.send_s) as sending:
                try:
                    await self._hand_over(frame, reply, timed=False)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._end()
            self._busy -= 1
            slots.release()
            if sending.cancelled_caught:
                self._waiting_for = "send_s"
                self._cancel()
            self._end_if_drained()

    def _end_if_drained(self) -> None:
        if (self._service.draining or self._leaving) and not self._busy:
            self._end()

    # --- reading and writing --------------------------------------------------------------

    def _wait_for(self, deadline: str, seconds: float) -> None:
        self._waiting_for = deadline
        self._wait_s = seconds
        self._deadline_s = None

    async def _receive(self, carriage: Carriage) -> list[Frame] | None:
        """The next whole frames, or none yet; None where the peer ended the stream."""
        was_mid_frame = carriage.mid_frame
        if carriage.ahead:
            data = b""  # What came already may be enough; all others have their turn first.
            await trio.lowlevel.checkpoint()
        else:
            try:
                data = bytes(await self._stream.receive_some())
            except trio.BrokenResourceError as error:
                if _is_broken_tls(error):
                    raise FrameError(f"no TLS: {handshake_reason(error)}") from None
                data = b""  # It left without saying so.
            if not data:
                if was_mid_frame:
                    raise FrameError("the stream ended within a frame")
                return None
        try:
            frames = carriage.feed(data)
        except FrameError as error:
            self._reject(data, error)
            raise
        if carriage.error is not None:
            self._reject(b"", carriage.error)  # Where in the data it stands is not known.
        said = carriage.to_say()
        if said:
            await self._say(said)
        # Where frames came the time starts once they are answered; within a frame it runs on.
        if not frames and not (was_mid_frame and carriage.mid_frame):
            self._wait_for_next(carriage)
        return frames

    def _reject(self, data: bytes, error: FrameError) -> None:
        listener = self._service.settings.name
        self._service.rejected.uncut(data, error, listener=listener, address=self.address)

    def _wait_for_next(self, carriage: Carriage) -> None:
        """From a frame's first byte on its last is waited for, however it trickles in."""
        deadlines = self._service.settings.deadlines
        if carriage.mid_frame:
            self._wait_for("frame_s", deadlines.frame_s)
        else:
            self._wait_for("idle_s", deadlines.idle_s)

    async def _hand_over(self, frame: bytes, reply: Reply, *, timed: bool = True) -> None:
        """Write an answer; the flow learns whether any of it can have reached the terminal."""
        service = self._service
        if self._cut_off or not self._tcp.established:
            self._undelivered(reply)
            raise trio.BrokenResourceError("the terminal left before its answer came")
        if timed:
            self._wait_for("send_s", service.settings.deadlines.send_s)
        # From here on some of it may be with the terminal, whatever becomes of the send.
        service.deliver.delivered(reply)
        await self._stream.send_all(frame)

    async def _say(self, data: bytes) -> None:
        """What the carriage says beside answers; the deadline that runs holds for it too."""
        if data:
            await self._stream.send_all(data)

    async def _farewell(self, carriage: Carriage) -> None:
        """Tell the peer that it was not understood, if its carriage has words for that."""
        said = carriage.farewell()
        with (
            trio.move_on_after(_CLOSE_S),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await self._say(said)

    def _undelivered(self, reply: Reply) -> None:
        self._service.deliver.undelivered(reply, cut_off=self._cut_off)


def _lost(error: FrameError) -> FrameError:
    """After a bad length nothing more can be cut; what came whole before it was served."""
    return FrameError(str(error))  # A new one: a kept exception's traceback would grow.


def _is_broken_tls(error: trio.BrokenResourceError) -> bool:
    """Whether it broke since what came is no TLS, rather than since the peer left."""
    cause = error.__cause__
    return isinstance(cause, ssl.SSLError) and not isinstance(
        cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)
    )


def _place(error: BaseException) -> str:
    """File and line where an error was raised, for the log."""
    frames = traceback.extract_tb(error.__traceback__ or sys.exc_info()[2])
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
