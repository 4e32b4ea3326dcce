"""One connection to an upstream: one writer task, one reader task, a table of pending requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Protocol

import outcome
import trio

from gateway.errors import (
    AnswerNotBelieved,
    EncodeError,
    FrameError,
    InDoubt,
    KeyUnavailable,
    NotSent,
    ParseError,
)
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.telemetry.events import Emit, Event
from gateway.upstreams.correlation import Match, Pending, PendingTable
from gateway.upstreams.zone_keys import ZoneKeys
from gateway.wire.codec import Codec
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame
from gateway.wire.message import Message, printable, response_mti

_NETWORK = "8"  # the second digit of a network message's MTI
_ASKED_BY_US_MAX = 16  # network messages without an answer
_UNSENT_MAX = 64  # frames that wait for the writer, before the acquirer gets no more answers


class ChannelOwner(Protocol):
    """What a channel reports to: its link."""

    def gave_up(self, pending: Pending, *, timed_out: bool) -> None:
        """A request that may have been sent is no longer waited for."""
        ...

    def unmatched(self, answer: Message) -> None:
        """An answer came that no pending request asked for."""
        ...

    def answered(self, asked_s: float, now_s: float) -> None:
        """A request got its answer."""
        ...

    def asked_by_acquirer(self, message: Message) -> Message | None:
        """The acquirer started an exchange; returns what to answer."""
        ...


OnAnswer = Callable[[Message], None]


class Wire:
    """How the messages of an upstream become frames on its links, and back.

    `zone` makes their MACs; None: they have none.
    """

    def __init__(
        self, settings: UpstreamSettings, codec: Codec, zone: ZoneKeys | None = None
    ) -> None:
        self.codec = codec
        self.zone = zone
        self.framing = FramingSpec(**settings.framing.model_dump())
        self._tpdu = bytes.fromhex(settings.tpdu) if settings.framing.tpdu else b""
        self._header = bytes.fromhex(settings.header)

    def frame(self, message: Message) -> bytes:
        """Raises EncodeError, FrameError and, where there are MACs, KeyUnavailable."""
        body = self.codec.encode(message) if self.zone is None else self.zone.body(message)
        return encode_frame(self.framing, body, self._tpdu, self._header)


class Channel:
    """Multiplexes requests over one connection, from its start to its end."""

    def __init__(
        self,
        name: str,
        stream: trio.abc.Stream,
        *,
        settings: UpstreamSettings,
        wire: Wire,
        owner: ChannelOwner,
        emit: Emit,
    ) -> None:
        self.name = name
        self.why_ended = ""  # nothing while it goes on
        self._stream = stream
        self._send_s = settings.send_s
        self._wire = wire
        self._owner = owner
        self._emit = emit
        self.requests = PendingTable(count_max=settings.pending_per_link_max)
        self._asked: dict[str, OnAnswer] = {}  # network messages of ours, by STAN
        self._outbox: deque[tuple[Pending | None, bytes]] = deque()
        self._writer: trio.lowlevel.Task | None = None  # parked while the outbox is empty
        self._clock_set_to_s = inf  # when `_expire` looks next
        self._clock_wanted = trio.Event()  # set when that is too late
        self._emptied: trio.Event | None = None  # set when nothing is pending, for who waits for it
        self._ended = False

    @property
    def unsent(self) -> int:
        """How many frames wait for the writer."""
        return len(self._outbox)

    def asked_s(self) -> Iterator[float]:
        """When each pending request was asked, the oldest first."""
        return self.requests.asked_s()

    # --- asking ---------------------------------------------------------------------------

    async def ask(
        self, request: Message, *, transaction_id: int, now_s: float, answer_s: float
    ) -> Message:
        """Send a request and return its answer, which may take `answer_s` from `now_s` on.

        Raises NotSent where no byte of it can have left, and InDoubt where some may have.
        """
        try:
            frame = self._wire.frame(request)
        except (EncodeError, FrameError, KeyUnavailable) as error:
            raise NotSent(f"cannot be written for link {self.name}: {error}") from error
        if self._ended or self.requests.full:
            raise NotSent(f"link {self.name} is gone or full")
        pending = Pending(
            request,
            transaction_id=transaction_id,
            asked_s=now_s,
            wait_s=answer_s,
        )
        self.requests.add(pending)
        if pending.deadline_s < self._clock_set_to_s:
            self._clock_wanted.set()
        pending.waiter = trio.lowlevel.current_task()
        self._post(pending, frame)
        answer: Message = await trio.lowlevel.wait_task_rescheduled(
            lambda _: self._abandon(pending)
        )
        return answer

    def ask_network(self, request: Message, on_answer: OnAnswer) -> None:
        """Send a network message; `on_answer` is told if it is answered."""
        if len(self._asked) >= _ASKED_BY_US_MAX:
            del self._asked[next(iter(self._asked))]
        self._asked[request.stan] = on_answer
        self.say(request)

    def say(self, message: Message) -> None:
        """Send a network message, or tell why it cannot be written in this dialect."""
        try:
            frame = self._wire.frame(message)
        except (EncodeError, FrameError, KeyUnavailable) as error:
            self._emit(
                Event.LINK_FAILED,
                link=self.name,
                reason=f"a network message {message.mti} cannot be written: {error}",
            )
        else:
            self._post(None, frame)

    async def until_empty(self) -> None:
        """Return once nothing is pending."""
        while self.requests:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def _left(self) -> None:
        """A request is pending no more."""
        if self._emptied is not None and not self.requests:
            self._emptied.set()
            self._emptied = None

    def _abandon(self, pending: Pending) -> trio.lowlevel.Abort:
        """The node stops hard with this request under way: recovery will owe what it is owed."""
        pending.waiter = None
        self.requests.discard(pending)
        self._left()
        if pending.handed:
            self._owner.gave_up(pending, timed_out=False)
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

    # --- from start to end ----------------------------------------------------------------

    async def run(self) -> None:
        """Exchange messages until the connection ends; `why_ended` says why."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            nursery.start_soon(self._expire)
            try:
                await self._read()
                self.why_ended = "closed by the upstream"
            except FrameError as error:
                self.why_ended = f"the stream cannot be cut into frames: {error}"
            except trio.BrokenResourceError as error:
                self.why_ended = str(error) or "connection lost"
            except trio.ClosedResourceError:
                self.why_ended = "the upstream did not take what was sent"
            nursery.cancel_scope.cancel()

    async def end(self) -> int:
        """Tell each waiting request what is known: nothing of it left, or perhaps some did.

        Returns how many may have been sent.
        """
        self._ended = True
        self._outbox.clear()
        in_doubt = 0
        for pending in self.requests.clear():
            if pending.handed:
                in_doubt += 1
                self._owner.gave_up(pending, timed_out=False)
                self._wake(pending, outcome.Error(InDoubt(f"link {self.name} was lost")))
            else:
                self._wake(pending, outcome.Error(NotSent(f"link {self.name} was lost")))
        self._left()
        with trio.move_on_after(1, shield=True):
            await trio.aclose_forcefully(self._stream)
        return in_doubt

    async def _write(self, scope: trio.CancelScope) -> None:
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
                sending.deadline = trio.current_time() + self._send_s
                try:
                    await self._stream.send_all(frames[0] if len(frames) == 1 else b"".join(frames))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break
                sending.deadline = inf
        # A send that failed or took too long leaves the stream unusable.
        self.why_ended = "the upstream did not take what was sent"
        await trio.aclose_forcefully(self._stream)
        scope.cancel()

    def _writer_leaves(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _read(self) -> None:
        """The reader task: cut, decode and match what the upstream sends."""
        reader = FrameReader(self._wire.framing)
        decode, zone = self._wire.codec.decode, self._wire.zone
        while True:
            data = await self._stream.receive_some(65_536)
            if not data:
                return
            came_s = trio.current_time()
            for frame in reader.feed(bytes(data)):
                try:
                    message = decode(frame.body)
                except ParseError as error:
                    # The frames around it are sound: only who waits for this one loses.
                    self._emit(Event.MESSAGE_REJECTED, link=self.name, reason=str(error))
                else:
                    if zone is not None and zone.changing is not None:
                        await zone.settled()
                    self._take(message, came_s)
            if reader.error is not None:
                raise FrameError(str(reader.error))

    def _take(self, message: Message, came_s: float) -> None:
        zone = self._wire.zone
        if zone is not None and not zone.trusts(message):
            self._distrusted(message)
            return
        if message.is_request:
            answer = self._owner.asked_by_acquirer(message)
            # One that asks and takes no answers must not have them heaped up here.
            if answer is not None and self.unsent < _UNSENT_MAX + len(self.requests):
                self.say(answer)
            return
        if message.mti[1:2] == _NETWORK:
            on_answer = self._asked.pop(message.stan, None)
            if on_answer is not None:
                on_answer(message)
                return
        matched = self.requests.match(message)
        if isinstance(matched, Pending):
            self._owner.answered(matched.asked_s, came_s)
            if self._emptied is not None:
                self._left()
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
            self._owner.unmatched(message)

    def _distrusted(self, message: Message) -> None:
        """Its MAC is wrong: what it says may be anybody's word, and an approval as well as a no.

        Who waits for it learns that it is in doubt; the acquirer's own answer may yet come late.
        """
        self._emit(
            Event.MAC_FAILED,
            link=self.name,
            mti=printable(message.mti),
            stan=printable(message.stan),
            reason="wrong" if 64 in message or 128 in message else "missing",
        )
        if message.is_request or message.mti[1:2] == _NETWORK:
            return
        matched = self.requests.match(message)
        if isinstance(matched, Pending):
            self._owner.gave_up(matched, timed_out=False)
            self._left()
            doubt = AnswerNotBelieved(f"the MAC of its answer on link {self.name} is wrong")
            self._wake(matched, outcome.Error(doubt))

    async def _expire(self) -> None:
        """Give up the requests whose answer has not come in time."""
        while True:
            deadline_s = self.requests.next_deadline_s()
            self._clock_set_to_s = inf if deadline_s is None else deadline_s
            self._clock_wanted = trio.Event()
            with trio.move_on_at(self._clock_set_to_s):
                await self._clock_wanted.wait()
            for pending in self.requests.expired(trio.current_time()):
                # Not yet handed over after the whole time is still no byte sent.
                if not pending.handed:
                    self._unqueue(pending)
                    self._wake(pending, outcome.Error(NotSent(f"link {self.name} is stuck")))
                    continue
                self._owner.gave_up(pending, timed_out=True)
                self._wake(pending, outcome.Error(InDoubt("no answer in time")))
            self._left()

    def _unqueue(self, pending: Pending) -> None:
        self._outbox = deque(entry for entry in self._outbox if entry[0] is not pending)


def network_answer(request: Message, code: str) -> Message:
    """The answer to a network message that the acquirer started."""
    return request.changed({39: code}, mti=response_mti(request.mti))
