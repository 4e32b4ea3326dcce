"""One link of an upstream: lives by the table of `protocol`, and is judged by `link_health`."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import NoReturn, Protocol

import trio

from gateway.clock import Clock, utc
from gateway.errors import NotSent
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.telemetry.events import Emit, Event
from gateway.upstreams.channel import Channel, Wire, network_answer
from gateway.upstreams.correlation import Pending, PendingTable
from gateway.upstreams.health import Health
from gateway.upstreams.latencies import Latencies
from gateway.upstreams.link_health import LinkHealth
from gateway.upstreams.network import NetworkMessages, accepted
from gateway.upstreams.protocol import CONNECTED, LinkEvent, LinkLife, LinkState
from gateway.upstreams.zone_keys import ZoneKeys
from gateway.wire.codec import Codec
from gateway.wire.message import MERCHANT_ID, TERMINAL_ID, Kind, Message

Connect = Callable[[], Awaitable[trio.abc.Stream]]

_APPROVED = "00"
_FAULT = "96"
_NOT_SUPPORTED = "40"
_STANS = 1_000_000
_KEY_CHANGES_MAX = 8  # of the acquirer's that wait; it repeats what is not answered

S, E = LinkState, LinkEvent

_USED = frozenset((S.READY, S.DRAINING))  # answers are waited for


class LinkOwner(Protocol):
    """What a link reports to: its upstream."""

    def link_changed(self, link: Link) -> None:
        """Its life or its health took another state."""
        ...

    def link_lost(self, link: Link, *, in_doubt: int, silent: bool, why: str) -> None:
        """Its connection ended with so many requests in doubt."""
        ...

    def gave_up(self, pending: Pending, *, timed_out: bool) -> None:
        """A request that may have been sent is no longer waited for."""
        ...

    def unmatched(self, answer: Message, link: str) -> None:
        """An answer came that no pending request of the link asked for."""
        ...

    def answered(self, seconds: float, now_s: float) -> None:
        """An answer came that took so long."""
        ...


class Link:
    """Keeps one connection up and multiplexes requests over it.

    `connect` opens the stream, TLS included, and raises OSError or trio's stream errors; where the
    acquirer calls us it waits for the call, so that no time is set for it.
    """

    def __init__(
        self,
        name: str,
        *,
        settings: UpstreamSettings,
        codec: Codec,
        connect: Connect,
        owner: LinkOwner,
        latencies: Latencies,
        clock: Clock,
        emit: Emit,
        random: Callable[[], float],
        zone: ZoneKeys | None = None,
    ) -> None:
        self.name = name
        self._settings = settings
        self._zone = zone
        makes_macs = zone is not None and zone.makes_macs
        self._wire = Wire(settings, codec, zone if makes_macs else None)
        self._network = NetworkMessages(settings.network)
        self._connect = connect
        self._connect_s = inf if settings.listen else settings.connect_s
        self._owner = owner
        self._clock = clock
        self._emit = emit
        self._random = random
        self._key_changes: deque[Message] = deque(maxlen=_KEY_CHANGES_MAX)
        self._key_change_came = trio.Event()
        self.life = LinkLife(
            backoff=settings.backoff,
            # Where each terminal signs on by itself, the link has nothing to sign on.
            sign_on=settings.network.sign_on and settings.knows_terminals == "as_one_host",
            keys=zone is not None and zone.agrees_at_start,
            prove=settings.network.prove,
            now_s=0.0,
        )
        self.health = LinkHealth(
            settings.health,
            latencies,
            echoes=settings.network.echo,
            changed=self._health_changed,
        )
        self.trouble = ""  # why it is not ready, since it was last
        self.suspicions = 0  # since the start
        # Looked at on every link with each request: kept up by `steer` and `_connected`.
        self.up = False  # its life's state is READY
        self.requests: PendingTable | None = None  # of its connection; None: it has none
        self._channel: Channel | None = None
        self._step = trio.CancelScope()  # what is done in the present state of its life
        self._proved_in_s: float | None = None
        self._silenced = False  # its health ends this connection
        self._look_s = inf  # when to look at its health next
        self._looks_set_to_s = inf
        self._look_wanted = trio.Event()
        self._network_stan = 0

    # --- asking ---------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether one more request may be sent over it."""
        requests = self.requests
        return self.up and requests is not None and not requests.full

    @property
    def pending(self) -> int:
        return 0 if self.requests is None else self.requests.count

    def ask(
        self, request: Message, *, transaction_id: int, now_s: float, answer_s: float
    ) -> Awaitable[Message]:
        """Send a request, once awaited; gives its answer, which may take `answer_s`.

        Raises NotSent where no byte of it can have left, and InDoubt where some may have.
        """
        channel = self._channel
        if channel is None or not self.up:
            raise NotSent(f"link {self.name} is {self.life.state}")
        if self.health.idle:
            self.health.idle = False
            self._look_at(now_s + self.health.patience_s)
        return channel.ask(request, transaction_id=transaction_id, now_s=now_s, answer_s=answer_s)

    async def sign_on(self, terminal_id: str, merchant_id: str) -> bool:
        """Sign one terminal on; returns whether the acquirer accepted it."""
        channel = self._channel
        if channel is None or not self.up:
            return False
        own = {TERMINAL_ID: terminal_id, MERCHANT_ID: merchant_id}
        answer = await self._ask(channel, self._request(Kind.SIGN_ON).changed(own))
        if answer is None or not accepted(answer):
            return False
        if self._zone is not None and self._zone.by_terminal:
            return await self._zone.take(answer, terminal_id)
        return True

    # --- its life -------------------------------------------------------------------------

    def steer(self, event: LinkEvent) -> None:
        """Something happened, or an operator wants something: the next state begins at once."""
        before = self.life.state
        if not self.life.handle(event, trio.current_time()):
            return
        now = self.life.state
        self.up = now is S.READY
        self._step.cancel()
        # Of a connection's end the upstream hears when it is known what it cost.
        if now in CONNECTED or before not in CONNECTED:
            self._owner.link_changed(self)

    async def run(self, *, start: bool = True) -> NoReturn:
        """Live until cancelled; where it is not to start, it waits for an operator."""
        if start:
            self.steer(E.START)
        while True:
            stream: trio.abc.Stream | None = None
            with trio.CancelScope() as self._step:
                stream = await self._unconnected()
            if stream is not None:
                await self._connected(stream)

    async def _unconnected(self) -> trio.abc.Stream | None:
        """Do what the present state wants; returns the stream where it is connected now."""
        match self.life.state:
            case S.CONNECTING:
                return await self._dial()
            case S.BACKOFF:
                await trio.sleep(self.life.wait_s(self._random()))
                self.steer(E.WAIT_OVER)
            case _:
                await trio.sleep_forever()
        return None

    async def _dial(self) -> trio.abc.Stream | None:
        try:
            with trio.fail_after(self._connect_s):
                return await self._connect()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            reason = "no connection in time" if isinstance(error, trio.TooSlowError) else error
            self._failed(str(reason) or "refused")
            self.steer(E.CONNECT_FAILED)
        return None

    def _failed(self, reason: str) -> None:
        self.trouble = reason
        self._emit(Event.LINK_FAILED, link=self.name, reason=reason)

    async def _connected(self, stream: trio.abc.Stream) -> None:
        """Live over one connection until it ends, or is to end."""
        channel = self._channel = Channel(
            self.name,
            stream,
            settings=self._settings,
            wire=self._wire,
            owner=self,
            emit=self._emit,
        )
        self.requests = channel.requests
        try:
            if self.life.state is S.CONNECTING:
                self.steer(E.CONNECTED)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_closed, channel, nursery.cancel_scope)
                    nursery.start_soon(self._watch, channel)
                    if self._zone is not None and self._zone.takes_keys:
                        nursery.start_soon(self._change_keys, self._zone, channel)
                    while self.life.state in CONNECTED:
                        with trio.CancelScope() as self._step:
                            await self._take_step(channel)
                    if channel.why_ended == "":
                        channel.why_ended = f"{self.life.state} now"
                    nursery.cancel_scope.cancel()
        finally:
            self._channel = self.requests = None
            await self._end(channel)

    async def _until_closed(self, channel: Channel, scope: trio.CancelScope) -> None:
        await channel.run()
        self.steer(E.CLOSED)
        scope.cancel()

    async def _end(self, channel: Channel) -> None:
        """The connection is over: say what became of what was pending on it."""
        self._look_s = inf
        silent = self._silenced
        self._silenced = False
        in_doubt = await channel.end()
        why = channel.why_ended or "the gateway stops"
        if silent:
            why = self.health.why
        elif self.health.state is not Health.DOWN:
            self.health.lost(trio.current_time(), why)
        self._emit(Event.LINK_DOWN, link=self.name, reason=why, in_doubt=in_doubt)
        self._owner.link_lost(self, in_doubt=in_doubt, silent=silent, why=why)

    async def _take_step(self, channel: Channel) -> None:
        """Do what the present state of a connected link wants."""
        match self.life.state:
            case S.SIGNING_ON:
                answer = await self._ask(channel, self._request(Kind.SIGN_ON))
                self._tell(answer, yes=E.SIGNED_ON, no=E.SIGN_ON_REFUSED)
            case S.AGREEING_KEYS:
                await self._agree(channel)
            case S.PROVING:
                asked_s = trio.current_time()
                answer = await self._ask(channel, self._request(Kind.ECHO))
                self._proved_in_s = trio.current_time() - asked_s
                self.steer(E.ECHO_ANSWERED if answer is not None else E.NETWORK_TIMEOUT)
            case S.READY:
                self._open()
                await trio.sleep_forever()
            case S.SIGNED_OFF:
                await trio.sleep(self.life.wait_s(self._random()))
                self.steer(E.WAIT_OVER)
            case S.DRAINING:
                await channel.until_empty()
                self.steer(E.DRAINED)
            case S.SIGNING_OFF:
                answer = await self._ask(channel, self._request(Kind.SIGN_OFF))
                self.steer(E.SIGN_OFF_ANSWERED if answer is not None else E.NETWORK_TIMEOUT)
            case _:
                await trio.lowlevel.checkpoint()

    def _open(self) -> None:
        """Take requests from now on."""
        now_s = trio.current_time()
        self.health.ready(now_s, proved_in_s=self._proved_in_s)
        self._proved_in_s = None
        self.trouble = ""
        self._look_at(now_s)
        self._emit(Event.LINK_UP, link=self.name)
        self._owner.link_changed(self)

    async def _agree(self, channel: Channel) -> None:
        zone = self._zone
        agreed = zone is not None and await zone.agree(partial(self._ask_for_keys, zone, channel))
        self.steer(E.KEYS_AGREED if agreed else E.KEYS_REFUSED)

    async def _ask_for_keys(self, zone: ZoneKeys, channel: Channel) -> Message | None:
        return await self._ask(channel, self._request(Kind.KEY_CHANGE), zone.came)

    async def _change_keys(self, zone: ZoneKeys, channel: Channel) -> None:
        """Take the keys that the acquirer brings by itself, or ask for some where it wants that."""
        while True:
            self._key_change_came = trio.Event()
            while self._key_changes:
                message = self._key_changes.popleft()
                bare = zone.without_keys(message)
                if zone.brings_keys(message):
                    taken = await zone.take(message)
                    channel.say(network_answer(bare, _APPROVED if taken else _FAULT))
                else:
                    channel.say(network_answer(bare, _APPROVED))
                    await zone.agree(partial(self._ask_for_keys, zone, channel))
            await self._key_change_came.wait()

    def _tell(self, answer: Message | None, *, yes: LinkEvent, no: LinkEvent) -> None:
        if answer is None:
            self.steer(E.NETWORK_TIMEOUT)
        elif accepted(answer):
            self.steer(yes)
        else:
            self._failed(f"{no}: code {answer.response_code}")
            self.steer(no)

    async def _ask(
        self, channel: Channel, request: Message, heard: Callable[[], None] = lambda: None
    ) -> Message | None:
        """The answer to a network message of ours, or None where there is none in time.

        `heard` is told before anything that came after the answer is looked at.
        """
        answers: list[Message] = []
        came = trio.Event()

        def on_answer(message: Message) -> None:
            if not waiting.cancel_called:
                answers.append(message)
                came.set()
                heard()

        with trio.move_on_after(self._settings.network.sign_on_s) as waiting:
            channel.ask_network(request, on_answer)
            await came.wait()
        return answers[0] if answers else None

    def _request(self, kind: Kind) -> Message:
        self._network_stan = self._network_stan % (_STANS - 1) + 1
        transmitted = utc(self._clock.wall_ms()).strftime("%m%d%H%M%S")
        return self._network.request(kind, stan=self._network_stan, transmitted=transmitted)

    # --- its health -----------------------------------------------------------------------

    def _look_at(self, when_s: float) -> None:
        self._look_s = when_s
        if when_s < self._looks_set_to_s:
            self._look_wanted.set()

    async def _watch(self, channel: Channel) -> None:
        """Look at the link's health whenever the last look said so."""
        while True:
            self._looks_set_to_s = self._look_s
            self._look_wanted = trio.Event()
            with trio.move_on_at(self._looks_set_to_s):
                await self._look_wanted.wait()
            due_s = self._look_s
            if trio.current_time() < due_s:
                continue
            if self.life.state not in _USED:
                self._look_s = inf  # `_open` sets it again
                continue
            # What has come but was not read yet shall count.
            await trio.lowlevel.checkpoint()
            self._look(channel, due_s)

    def _look(self, channel: Channel, due_s: float) -> None:
        look = self.health.look(trio.current_time(), due_s=due_s, pending=channel.asked_s())
        self._look_s = look.next_s
        if look.echo:
            channel.ask_network(self._request(Kind.ECHO), self._echo_answered)
        if look.down:
            self._silenced = True
            self.steer(E.ECHO_FAILED)

    def _echo_answered(self, _: Message) -> None:
        self.health.echo_answered(trio.current_time())
        self._look_at(trio.current_time())

    def _health_changed(self, before: Health, now: Health, why: str) -> None:
        if now is Health.SUSPECT:
            self.suspicions += 1
            self._emit(Event.LINK_SUSPECT, link=self.name, reason=why)
        elif before is Health.SUSPECT and now is Health.UP:
            self._emit(Event.LINK_TRUSTED, link=self.name, reason=why)
        self._owner.link_changed(self)

    # --- what its channel reports ---------------------------------------------------------

    def gave_up(self, pending: Pending, *, timed_out: bool) -> None:
        self._owner.gave_up(pending, timed_out=timed_out)

    def unmatched(self, answer: Message) -> None:
        self._owner.unmatched(answer, self.name)

    def answered(self, asked_s: float, now_s: float) -> None:
        if self.health.answered(asked_s, now_s):
            self._look_at(now_s)
        self._owner.answered(now_s - asked_s, now_s)

    def asked_by_acquirer(self, message: Message) -> Message | None:
        """Answer the network messages an acquirer starts, an echo among them; note the rest."""
        purpose = self._network.purpose_of(message)
        self._emit(
            Event.UPSTREAM_REQUEST,
            link=self.name,
            mti=message.mti,
            stan=message.stan,
            purpose=purpose.value,
        )
        match purpose:
            case Kind.ECHO | Kind.NETWORK:
                return network_answer(message, _APPROVED)
            case Kind.SIGN_ON:
                self.steer(E.ACQUIRER_SIGNED_ON)
                return network_answer(message, _APPROVED)
            case Kind.SIGN_OFF:
                self.steer(E.ACQUIRER_SIGNED_OFF)
                return network_answer(message, _APPROVED)
            case Kind.KEY_CHANGE:
                if self._zone is None or not self._zone.takes_keys:
                    return network_answer(message, _NOT_SUPPORTED)
                if self._zone.brings_keys(message):
                    self._zone.came()
                self._key_changes.append(message)
                self._key_change_came.set()
        return None
