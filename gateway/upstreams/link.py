"""One connection to an upstream: one writer task, one reader task, a table of pending requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import NoReturn, Protocol

import outcome
import trio

from gateway.errors import EncodeError, FrameError, InDoubt, NotSent, ParseError
from gateway.settings.schema import Upstream as UpstreamSettings
from gateway.telemetry.events import Emit, Event
from gateway.upstreams.correlation import Match, Pending, PendingTable
from gateway.wire.codec import Codec
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame
from gateway.wire.message import RESPONSE_CODE, Message, response_mti

Connect = Callable[[], Awaitable[trio.abc.Stream]]


class LinkOwner(Protocol):
    """What a link reports to: its upstream."""

    def link_changed(self) -> None:
        """The link came up or went down."""
        ...

    def gave_up(self, pending: Pending) -> None:
        """A request that may have been sent is no longer waited for."""
        ...

    def unmatched(self, answer: Message, link: str) -> None:
        """An answer came that no pending request of the link asked for."""
        ...

    def answered(self, seconds: float) -> None:
        """An answer took so long."""
        ...


class Link:
    """Keeps one connection up and multiplexes requests over it.

    `connect` opens the stream, TLS included, and raises OSError or trio's stream errors.
    """

    def __init__(
        self,
        name: str,
        *,
        settings: UpstreamSettings,
        codec: Codec,
        connect: Connect,
        owner: LinkOwner,
        emit: Emit,
        random: Callable[[], float],
    ) -> None:
        self.name = name
        self.state = "down"
        self.since_s = 0.0
        self._settings = settings
        self._codec = codec
        self._framing = FramingSpec(**settings.framing.model_dump())
        self._tpdu = bytes.fromhex(settings.tpdu) if settings.framing.tpdu else b""
        self._header = bytes.fromhex(settings.header)
        self._connect = connect
        self._owner = owner
        self._emit = emit
        self._random = random
        self._pending = PendingTable(count_max=settings.pending_per_link_max)
        self._outbox: deque[tuple[Pending | None, bytes]] = deque()
        self._writer: trio.lowlevel.Task | None = None  # parked while the outbox is empty
        self._clock_set_to_s = inf  # when `_expire` looks next
        self._clock_wanted = trio.Event()  # set when that is too late

    @property
    def ready(self) -> bool:
        return self.state == "up" and not self._pending.full

    @property
    def pending(self) -> int:
        return len(self._pending)

    # --- asking ---------------------------------------------------------------------------

    async def ask(self, request: Message, *, transaction_id: int, answer_s: float) -> Message:
        """Send a request and return its answer, which may take `answer_s`.

        Raises NotSent where no byte of it can have left, and InDoubt where some may have.
        """
        if not self.ready:
            raise NotSent(f"link {self.name} is {self.state} or full")
        try:
            frame = self._frame(request)
        except (EncodeError, FrameError) as error:
            raise NotSent(f"cannot be written for link {self.name}: {error}") from error
        pending = Pending(
            request,
            transaction_id=transaction_id,
            asked_s=trio.current_time(),
            wait_s=answer_s,
        )
        self._pending.add(pending)
        if pending.deadline_s < self._clock_set_to_s:
            self._clock_wanted.set()
        pending.waiter = trio.lowlevel.current_task()
        self._post(pending, frame)
        answer: Message = await trio.lowlevel.wait_task_rescheduled(
            lambda _: self._abandon(pending)
        )
        return answer

    def _frame(self, message: Message) -> bytes:
        return encode_frame(self._framing, self._codec.encode(message), self._tpdu, self._header)

    def _abandon(self, pending: Pending) -> trio.lowlevel.Abort:
        """The node stops hard with this request under way: recovery will owe what it is owed."""
        pending.waiter = None
        self._pending.discard(pending)
        if pending.handed:
            self._owner.gave_up(pending)
        return trio.lowlevel.Abort.SUCCEEDED

    def _post(self, pending: Pending | None, frame: bytes) -> None:
        self._outbox.append((pending, frame))
        if self._writer is not None:
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)

    @staticmethod
    def _wake(pending: Pending, result: outcome.Value[Message] | outcome.Error) -> None:
        if pending.waiter is not None:
            task, pending.waiter = pending.waiter, None
            trio.lowlevel.reschedule(task, result)

    # --- the life of the connection -------------------------------------------------------

    async def run(self) -> NoReturn:
        """Connect, serve, and connect again with backoff and full jitter, until cancelled."""
        backoff_s = self._settings.backoff.first_s
        while True:
            self._become("connecting")
            try:
                with trio.fail_after(self._settings.connect_s):
                    stream = await self._connect()
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                reason = "no connection in time" if isinstance(error, trio.TooSlowError) else error
                self._emit(Event.LINK_FAILED, link=self.name, reason=str(reason) or "refused")
            else:
                connected_s = trio.current_time()
                reason_lost = await self._serve(stream)
                self._emit(Event.LINK_DOWN, link=self.name, reason=reason_lost)
                if trio.current_time() - connected_s > self._settings.backoff.max_s:
                    backoff_s = self._settings.backoff.first_s
            self._become("backoff")
            await trio.sleep(backoff_s * self._random())
            backoff_s = min(backoff_s * 2, self._settings.backoff.max_s)

    async def _serve(self, stream: trio.abc.Stream) -> str:
        """Exchange messages until the connection ends; returns why it did."""
        reason = "closed by the upstream"
        try:
            self._become("up")
            self._emit(Event.LINK_UP, link=self.name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, nursery.cancel_scope)
                nursery.start_soon(self._expire)
                try:
                    await self._read(stream)
                except FrameError as error:
                    reason = f"the stream cannot be cut into frames: {error}"
                except trio.BrokenResourceError as error:
                    reason = str(error) or "connection lost"
                except trio.ClosedResourceError:
                    reason = "the upstream did not take what was sent"
                nursery.cancel_scope.cancel()
        finally:
            self._become("down")
            self._release_all()
            with trio.move_on_after(1, shield=True):
                await trio.aclose_forcefully(stream)
        return reason

    def _become(self, state: str) -> None:
        self.state = state
        self.since_s = trio.current_time()
        self._owner.link_changed()

    def _release_all(self) -> None:
        """Tell each waiting request what is known: nothing of it left, or perhaps some did."""
        self._outbox.clear()
        for pending in self._pending.clear():
            if pending.handed:
                self._owner.gave_up(pending)
                self._wake(pending, outcome.Error(InDoubt(f"link {self.name} was lost")))
            else:
                self._wake(pending, outcome.Error(NotSent(f"link {self.name} was lost")))

    async def _write(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        """The writer task: everything that is queued goes out with one send."""
        with trio.CancelScope() as sending:
            while True:
                while not self._outbox:
                    self._writer = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._writer_leaves)
                frames = []
                for pending, frame in self._outbox:
                    if pending is not None:
                        # From here on some bytes may have left, whatever the send reports.
                        pending.handed = True
                    frames.append(frame)
                self._outbox.clear()
                sending.deadline = trio.current_time() + self._settings.send_s
                try:
                    await stream.send_all(frames[0] if len(frames) == 1 else b"".join(frames))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break
                sending.deadline = float("inf")
        # A send that failed or took too long leaves the stream unusable.
        await trio.aclose_forcefully(stream)
        scope.cancel()

    def _writer_leaves(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _read(self, stream: trio.abc.Stream) -> None:
        """The reader task: cut, decode and match what the upstream sends."""
        reader = FrameReader(self._framing)
        decode = self._codec.decode
        while True:
            data = await stream.receive_some(65_536)
            if not data:
                return
            for frame in reader.feed(bytes(data)):
                try:
                    message = decode(frame.body)
                except ParseError as error:
                    # The frames around it are sound: only who waits for this one loses.
                    self._emit(Event.MESSAGE_REJECTED, link=self.name, reason=str(error))
                else:
                    self._take(message)
            if reader.error is not None:
                raise FrameError(str(reader.error))

    def _take(self, message: Message) -> None:
        if message.is_request:
            self._answer_upstream(message)
            return
        matched = self._pending.match(message)
        if isinstance(matched, Pending):
            self._owner.answered(trio.current_time() - matched.asked_s)
            self._wake(matched, outcome.Value(message))
        elif matched is Match.MISMATCHED:
            self._emit(
                Event.ANSWER_MISMATCHED,
                link=self.name,
                mti=message.mti,
                stan=message.stan,
                terminal=message.terminal_id,
            )
        else:
            self._owner.unmatched(message, self.name)

    def _answer_upstream(self, message: Message) -> None:
        """Answer the network messages an acquirer starts, an echo among them; note the rest."""
        self._emit(Event.UPSTREAM_REQUEST, link=self.name, mti=message.mti, stan=message.stan)
        if message.mti[1] == "8" and message.mti[2] == "0":
            answer = message.changed({RESPONSE_CODE: "00"}, mti=response_mti(message.mti))
            self._post(None, self._frame(answer))

    async def _expire(self) -> None:
        """Give up the requests whose answer has not come in time."""
        while True:
            deadline_s = self._pending.next_deadline_s()
            self._clock_set_to_s = inf if deadline_s is None else deadline_s
            self._clock_wanted = trio.Event()
            with trio.move_on_at(self._clock_set_to_s):
                await self._clock_wanted.wait()
            for pending in self._pending.expired(trio.current_time()):
                # Not yet handed over after the whole time is still no byte sent.
                if not pending.handed:
                    self._unqueue(pending)
                    self._wake(pending, outcome.Error(NotSent(f"link {self.name} is stuck")))
                    continue
                self._owner.gave_up(pending)
                self._wake(pending, outcome.Error(InDoubt("no answer in time")))

    def _unqueue(self, pending: Pending) -> None:
        self._outbox = deque(entry for entry in self._outbox if entry[0] is not pending)
