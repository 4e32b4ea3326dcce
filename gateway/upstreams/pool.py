"""The upstreams: their links, kept up, and the STANs issued to each."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

import trio

from gateway.clock import Clock
from gateway.errors import NotSent, StoreError
from gateway.settings.boarding import BoardedTerminals
from gateway.settings.schema import Upstream as UpstreamSettings
from gateway.telemetry.events import Emit, Event
from gateway.upstreams.adaptation import Adaptation
from gateway.upstreams.correlation import LateRequests, Pending, answer_key
from gateway.upstreams.link import Connect, Link
from gateway.upstreams.stan import StanRing
from gateway.wire.codec import Codec
from gateway.wire.message import Kind, Message, printable
from gateway.wire.stream import TcpStream, connect, tune

_LATE_PER_UPSTREAM_MAX = 100_000
_STAN_RETRY_S = 0.2
_FULL_RETRY_S = 0.2

ReserveStans = Callable[[str, int, int], Awaitable[None]]
OnLate = Callable[[int, Message], None]
OnAnswered = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """How an upstream does, for status and metrics."""

    name: str
    links_up: int
    links_total: int
    pending: int
    late: int


class Upstream:
    """One acquirer: asks over the least busy of its links, and issues its STANs."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        codec: Codec,
        tls: ssl.SSLContext | None,
        clock: Clock,
        emit: Emit,
        random: Callable[[], float],
        reserve_stans: ReserveStans,
        on_answered: OnAnswered,
        connect_with: Callable[[str], Connect] | None = None,
        terminals: BoardedTerminals | None = None,
    ) -> None:
        self.settings = settings
        self.adaptation = Adaptation(settings, terminals or {})
        self.name = settings.name
        self.codec = codec
        self.stans = StanRing(late_max_ms=round(settings.late_max_s * 1000))
        self._answer_s = settings.answer_s_by_kind
        self._tls = tls
        self._clock = clock
        self._emit = emit
        self._reserve_stans = reserve_stans
        self.on_late: OnLate = _ignore  # who is told of late answers is made after the upstreams
        self._on_answered = on_answered
        self._late = LateRequests(count_max=_LATE_PER_UPSTREAM_MAX)
        self._up = False
        self._changed = trio.Event()  # set whenever a link comes up or goes down
        self._stans_short = False
        self._reservation_wanted = trio.Event()
        opener = connect_with or self._opener
        self.links = [
            Link(
                f"{settings.name}/{address}/{number}",
                settings=settings,
                codec=codec,
                connect=opener(address),
                owner=self,
                emit=emit,
                random=random,
            )
            for address in settings.addresses
            for number in range(1, settings.links + 1)
        ]

    # --- asking ---------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return any(link.ready for link in self.links)

    async def until_ready(self) -> None:
        """Return once a link is up and has room."""
        while not self.ready:
            with trio.move_on_after(_FULL_RETRY_S):  # room is made without a link changing
                await self._changed.wait()

    @property
    def pending(self) -> int:
        return sum(link.pending for link in self.links)

    def take_stan(self) -> int | None:
        """A STAN to send to this upstream, or None while none may be issued."""
        now_ms = self._clock.wall_ms()
        stan = self.stans.take(now_ms)
        if stan is None or self.stans.wanted(now_ms) is not None:
            self._reservation_wanted.set()
        if stan is None and not self._stans_short:
            self._stans_short = True
            self._emit(Event.STANS_EXHAUSTED, upstream=self.name)
        elif stan is not None:
            self._stans_short = False
        return stan

    async def ask(self, request: Message, *, transaction_id: int, kind: Kind) -> Message:
        """Send a request over the least busy link and return the answer.

        `kind` says how long that may take, where the settings tell kinds apart.

        Raises NotSent where no byte of it can have left, and InDoubt where some may have.
        """
        best: Link | None = None
        for link in self.links:
            if link.ready and (best is None or link.pending < best.pending):
                best = link
        if best is None:
            raise NotSent(f"upstream {self.name} has no link that is up")
        return await best.ask(
            request,
            transaction_id=transaction_id,
            answer_s=self._answer_s.get(kind, self.settings.answer_s),
        )

    # --- what links report ----------------------------------------------------------------

    def link_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        up = any(link.state == "up" for link in self.links)
        if up is not self._up:
            self._up = up
            self._emit(Event.UPSTREAM_UP if up else Event.UPSTREAM_DOWN, upstream=self.name)

    def gave_up(self, pending: Pending) -> None:
        until_s = trio.current_time() + self.settings.late_max_s
        self._late.add(pending, until_s=until_s)

    def unmatched(self, answer: Message, link: str) -> None:
        transaction_id = self._late.pop(answer_key(answer), now_s=trio.current_time())
        self._emit(
            Event.ANSWER_UNKNOWN if transaction_id is None else Event.ANSWER_LATE,
            link=link,
            mti=printable(answer.mti),
            stan=answer.stan,
            terminal=answer.terminal_id,
            code=answer.response_code,
        )
        if transaction_id is not None:
            self.on_late(transaction_id, answer)

    def answered(self, seconds: float) -> None:
        self._on_answered(self.name, seconds)

    def status(self) -> UpstreamStatus:
        return UpstreamStatus(
            name=self.name,
            links_up=sum(link.state == "up" for link in self.links),
            links_total=len(self.links),
            pending=self.pending,
            late=len(self._late),
        )

    # --- tasks ----------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links up and STANs reserved, until cancelled."""
        async with trio.open_nursery() as nursery:
            if not await self._try_reserve():
                self._reservation_wanted.set()
            nursery.start_soon(self._keep_stans)
            for link in self.links:
                nursery.start_soon(link.run)
            task_status.started()

    async def _reserve(self) -> bool:
        now_ms = self._clock.wall_ms()
        first = self.stans.wanted(now_ms)
        if first is None:
            return False
        await self._reserve_stans(self.name, first, now_ms)
        self.stans.reserved(first)
        return True

    async def _keep_stans(self) -> None:
        """Make the next block's reservation durable before the current one runs out."""
        while True:
            await self._reservation_wanted.wait()
            self._reservation_wanted = trio.Event()
            # Polled, since what it waits for is the passing of time or the store's recovery.
            while not await self._try_reserve() and self._short_of_stans:  # noqa: ASYNC110
                await trio.sleep(_STAN_RETRY_S)

    @property
    def _short_of_stans(self) -> bool:
        return self._stans_short or not self.stans.has_any

    async def _try_reserve(self) -> bool:
        try:
            return await self._reserve()
        except StoreError:
            # The store says so itself; without a reservation no STAN is issued.
            return False

    def _opener(self, address: str) -> Connect:
        async def open_stream() -> trio.abc.Stream:
            sock = await connect(address)
            tune(
                sock,
                user_timeout_s=self.settings.user_timeout_s,
                keepalive_idle_s=self.settings.keepalive_idle_s,
            )
            stream: trio.abc.Stream = TcpStream(sock)
            if self._tls is None or self.settings.tls is None:
                return stream
            secured = trio.SSLStream(
                stream, self._tls, server_hostname=self.settings.tls.server_name
            )
            try:
                await secured.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return secured

        return open_stream


def _ignore(transaction_id: int, answer: Message) -> None:
    """Late answers are events in any case."""


class Pool:
    """All upstreams by name."""

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self._by_name = {upstream.name: upstream for upstream in upstreams}

    def __getitem__(self, name: str) -> Upstream:
        return self._by_name[name]

    def get(self, name: str) -> Upstream | None:
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_name.values())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run every upstream until cancelled; started once each may issue STANs."""
        async with trio.open_nursery() as nursery:
            for upstream in self._by_name.values():
                await nursery.start(upstream.run)
            task_status.started()
