"""One acquirer: its links, its health, the STANs issued to it, and what an operator has set."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from functools import partial
from typing import Any

import trio

from gateway.clock import Clock
from gateway.errors import KeyUnavailable, NotSent, StoreError
from gateway.keys.message_security import PinKey
from gateway.settings.boarding import BoardedTerminals
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.telemetry.events import Emit, Event
from gateway.upstreams.adaptation import Adaptation
from gateway.upstreams.correlation import LateRequests, Pending, answer_key
from gateway.upstreams.figures import Tally, UpstreamStatus, status_of
from gateway.upstreams.health import Health
from gateway.upstreams.latencies import Latencies
from gateway.upstreams.link import Connect, Link
from gateway.upstreams.links import Links
from gateway.upstreams.opening import Caller, CallsTaken
from gateway.upstreams.protocol import LinkEvent
from gateway.upstreams.sign_ons import SignOns
from gateway.upstreams.stan import StanRing
from gateway.upstreams.upstream_health import ISSUER_UNAVAILABLE, SYSTEM_FAULT, UpstreamHealth
from gateway.upstreams.zone_keys import KeyMeans, ZoneKeys
from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect
from gateway.wire.message import FOLLOWING_KINDS, PAN, TRACK_2, Kind, Message, printable

_LATE_PER_UPSTREAM_MAX = 100_000
_STAN_RETRY_S = 0.2
_FULL_RETRY_S = 0.2
_BIN_DIGITS = 6
_BAD = frozenset((ISSUER_UNAVAILABLE, SYSTEM_FAULT))

ReserveStans = Callable[[str, int, int], Awaitable[None]]
OnLate = Callable[[int, Message], None]
OnAnswered = Callable[[str, float], None]


class Standing(Enum):
    """Whether an upstream may get one more request."""

    TAKES = auto()
    SPARE = auto()  # only if nobody else takes it: suspect, or in its slow start
    FULL = auto()  # as many are pending as may be
    AWAY = auto()


class Control(StrEnum):
    """What an operator wants of an upstream."""

    ENABLED = "enabled"
    DRAINED = "drained"  # what is under way is finished; then its links are signed off and closed
    DISABLED = "disabled"  # its links are closed at once


# Each request asks for these, and an enumeration's look-up is slow.
_ENABLED = Control.ENABLED
_UP, _SUSPECT = Health.UP, Health.SUSPECT
_TAKES, _SPARE, _FULL, _AWAY = Standing.TAKES, Standing.SPARE, Standing.FULL, Standing.AWAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What an upstream is spoken to with: its settings, and what was read and made for them."""

    settings: UpstreamSettings
    codec: Codec
    tls: ssl.SSLContext | None = None
    terminals: BoardedTerminals = field(default_factory=dict)
    dialects: Mapping[str, Dialect] = field(default_factory=dict)  # that terminals may speak


class Upstream:
    """Asks over the least busy of its healthy links.

    `others_up` says whether another upstream could do its work: the last one standing is not left
    alone for what it answers.
    """

    def __init__(
        self,
        means: Means,
        *,
        clock: Clock,
        emit: Emit,
        random: Callable[[], float],
        reserve_stans: ReserveStans,
        on_answered: OnAnswered,
        connect_with: Callable[[str], Connect] | None = None,
        keys: KeyMeans | None = None,
    ) -> None:
        """`keys` are what keys shared with it are used with; None: there are none."""
        settings = means.settings
        self.name = settings.name
        self._sign_ons: SignOns | None = None
        self._keys = keys
        self.zone: ZoneKeys | None = None
        self._use(means)
        self.stans = StanRing(late_max_ms=round(settings.late_max_s * 1000))
        self.control = Control.ENABLED
        self.retired = False  # not configured any more: nothing new is sent to it
        self.on_late: OnLate = _ignore  # who is told of late answers is made after the upstreams
        self.others_up: Callable[[], bool] = _nobody_else
        self.latencies = Latencies()
        self.health = UpstreamHealth(settings.health, random=random, changed=self._health_changed)
        self._clock = clock
        self._emit = emit
        self._random = random
        self._connect_with = connect_with
        self._reserve_stans = reserve_stans
        self._on_answered = on_answered
        self._late = LateRequests(count_max=_LATE_PER_UPSTREAM_MAX)
        self.tally = Tally()
        self.began_s = 0.0  # on trio's clock
        self._heard_s = 0.0  # when the latest answer came
        self._control_told = trio.Event()
        self._changed = trio.Event()  # set whenever a link or the health changes
        self._stans_short = False
        self._reservation_wanted = trio.Event()
        self.calls: CallsTaken | None = None
        if settings.listen is not None and connect_with is None:
            self.calls = CallsTaken(lambda: (self.settings, self._tls), emit=emit)
        self.links = Links(
            self._made_links(),
            changed=lambda: self._changed,
            enabled=lambda: self.control is Control.ENABLED,
        )

    def _use(self, means: Means) -> None:
        settings = means.settings
        self.settings = settings
        self.codec = means.codec
        self.adaptation = Adaptation(settings, means.terminals, means.dialects)
        if self._keys is not None:
            self.zone = ZoneKeys(settings, means.codec, self._keys)
        self._encrypts = self.zone is not None and self.zone.encrypts
        self._tls = means.tls
        self._answer_s = settings.answer_s_by_kind
        one_by_one = settings.network.sign_on and settings.knows_terminals == "one_by_one"
        if not one_by_one:
            self._sign_ons = None
        elif self._sign_ons is None:
            self._sign_ons = SignOns(terminals_max=settings.terminals_max)
        self._approving = frozenset(settings.approving_codes)

    def _made_links(self) -> list[Link]:
        settings = self.settings
        if self.calls is not None:
            ways: list[tuple[str, Connect]] = [(self.calls.address, self.calls.wait)]
        else:
            # With the certificates of the day, whenever it calls.
            call = self._connect_with or Caller(settings, lambda: self._tls).at
            ways = [(address, call(address)) for address in settings.addresses]
        return [
            Link(
                f"{settings.name}/{where}/{number}",
                settings=settings,
                codec=self.codec,
                connect=connect,
                owner=self,
                latencies=self.latencies,
                clock=self._clock,
                emit=self._emit,
                random=self._random,
                zone=self.zone,
            )
            for where, connect in ways
            for number in range(1, settings.links + 1)
        ]

    def apply(self, means: Means) -> None:
        """Take other settings from now on.

        Where its links are made in another way now, new ones come up; then the old ones finish
        what is under way on them, sign off and are closed.
        """
        before = self.settings
        self.retired = False
        self._use(means)
        self.health.use(means.settings.health)
        self.stans.use(late_max_ms=round(means.settings.late_max_s * 1000))
        if _of_links(before) != _of_links(means.settings):
            self.links.exchange(self._made_links(), means.settings)

    # --- asking ---------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a link is up and has room, whatever else stands against it."""
        return self._best() is not None

    async def until_ready(self) -> None:
        """Return once a link is up and has room."""
        while not self.ready:
            with trio.move_on_after(_FULL_RETRY_S):  # room is made without a link changing
                await self._changed.wait()

    @property
    def pending(self) -> int:
        return self.links.pending

    def standing(self) -> Standing:
        """Whether it may get one more request, which is then counted as meant for it."""
        if self.control is not _ENABLED or self.retired:
            return _AWAY
        if self._best() is None:
            return _FULL if any(link.up for link in self.links) else _AWAY
        if self.links.pending >= self.settings.pending_max:
            return _FULL
        state, health = self.health.state, self.health
        if state is _UP:
            # Only a slow start goes by the time, and a probe.
            takes = health.share == 1.0 or health.admits(trio.current_time())
            return _TAKES if takes else _SPARE
        if state is Health.PROBING:
            return _TAKES if health.wants_probe(trio.current_time()) else _AWAY
        return _SPARE if state is Health.SUSPECT else _AWAY

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

        `kind` says how long that may take, where the settings tell kinds apart. While no byte has
        left, another link is tried.

        Raises NotSent where no byte of it can have left, and InDoubt where some may have.
        """
        asked_s = now_s = trio.current_time()
        probes = self._still_takes(kind, asked_s)
        answer_s = self._answer_s.get(kind, self.settings.answer_s)
        tried: tuple[Link, ...] = ()
        while (link := self._best(tried)) is not None:
            try:
                if self._sign_ons is not None:
                    await self._signed_on(self._sign_ons, link, request)
                    now_s = trio.current_time()
                sent = self._encrypted(request) if self._encrypts else request
                answer = await link.ask(
                    sent, transaction_id=transaction_id, now_s=now_s, answer_s=answer_s
                )
            except NotSent:
                tried += (link,)
                now_s = trio.current_time()
                continue
            if sent is not request and self.zone is not None:
                answer = self.zone.decrypted(answer, clear=request, sent=sent)
            self._judge(request, answer, asked_s)
            return answer
        if probes:
            self.health.released()
        raise NotSent(f"upstream {self.name} has no link that is up")

    async def with_pin(self, request: Message, pins: Sequence[PinKey], pan: str) -> Message:
        """The request with its PIN block as this upstream takes it; `pins` are what it may be
        under, and `pan` is its card.

        Raises NotSent, MalformedPin, and KeyUnavailable where it cannot be handed on.
        """
        if self.zone is None:
            return request
        if self._sign_ons is not None and self.zone.by_terminal:
            link = self._best()
            if link is None:
                raise NotSent(f"upstream {self.name} has no link that is up")
            await self._signed_on(self._sign_ons, link, request)
        return self.zone.with_pin(request, pins, pan)

    def _encrypted(self, request: Message) -> Message:
        """The request with its data under the key that the upstream knows. Raises NotSent."""
        if self.zone is None:
            return request
        try:
            return self.zone.encrypted(request)
        except KeyUnavailable as error:
            raise NotSent(f"upstream {self.name}: {error}") from None

    def _still_takes(self, kind: Kind, now_s: float) -> bool:
        """Whether this is the request that proves it. Raises NotSent where it may have none, which
        can have become so while the intent was written."""
        state = self.health.state
        if state is _UP or kind is Kind.REVERSAL:
            return False  # A reversal goes where its original went, however that one does.
        if state is Health.PROBING:
            if not self.health.admits(now_s):
                raise NotSent(f"upstream {self.name} is being probed")
            return True
        follows = kind in FOLLOWING_KINDS
        if state is Health.DOWN or (not follows and self.others_up()):
            raise NotSent(f"upstream {self.name} is {state}")
        return False

    def _best(self, tried: Sequence[Link] = ()) -> Link | None:
        """The link with room that is not suspect and has the least to do; None: there is none."""
        best: Link | None = None
        best_rank = (True, 0)
        # Asked twice for each request, so that it calls nothing.
        for link in self.links.current:
            requests = link.requests
            if not link.up or requests is None or requests.full or link in tried:
                continue
            rank = (link.health.state is _SUSPECT, requests.count)
            if best is None or rank < best_rank:
                best, best_rank = link, rank
        return best

    async def _signed_on(self, sign_ons: SignOns, link: Link, request: Message) -> None:
        """Have the terminal signed on. Raises NotSent where the acquirer does not want it."""
        terminal_id = request.terminal_id
        sign_on = partial(link.sign_on, terminal_id, request.merchant_id)
        turn_s = self.settings.network.sign_on_s
        if not await sign_ons.ensure(terminal_id, sign_on, turn_s=turn_s):
            raise NotSent(f"terminal {terminal_id.rstrip()} is not signed on at {link.name}")

    def _judge(self, request: Message, answer: Message, asked_s: float) -> None:
        code = answer.response_code
        if self._sign_ons is not None:
            self._sign_ons.heard(request.terminal_id, code)
        self.tally.answered(code, self._approving)
        matters = code in _BAD or self.health.state is not _UP
        card = request.fields.get(PAN) or request.fields.get(TRACK_2) or ""
        self.health.answered(
            code,
            issuer=card[:_BIN_DIGITS],
            asked_s=asked_s,
            now_s=self._heard_s,
            others_up=matters and self.others_up(),
        )

    # --- what links report ----------------------------------------------------------------

    def link_changed(self, link: Link) -> None:
        self._tell_links(why=link.health.why)

    def link_lost(self, link: Link, *, in_doubt: int, silent: bool, why: str) -> None:
        self._tell_links(lost=in_doubt, silent=silent, why=why)

    def _tell_links(self, *, lost: int = 0, silent: bool = False, why: str) -> None:
        states = [link.health.state for link in self.links if link.up]
        usable = states.count(Health.UP) + states.count(Health.PROBING)
        self.health.links(
            trio.current_time(),
            usable=usable,
            suspect=states.count(Health.SUSPECT),
            lost=lost,
            silent=silent,
            others_up=self.others_up(),
            why=why,
        )
        self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _health_changed(self, before: Health, now: Health, why: str) -> None:
        event = {
            Health.UP: Event.UPSTREAM_TRUSTED if before is Health.SUSPECT else Event.UPSTREAM_UP,
            Health.SUSPECT: Event.UPSTREAM_SUSPECT,
            Health.PROBING: Event.UPSTREAM_PROBED,
            Health.DOWN: Event.UPSTREAM_DOWN,
        }[now]
        if self.control is Control.ENABLED or now is not Health.DOWN:
            self._emit(event, upstream=self.name, reason=why)
        self._tell_changed()

    def gave_up(self, pending: Pending, *, timed_out: bool) -> None:
        now_s = trio.current_time()
        self._late.add(pending, until_s=now_s + self.settings.late_max_s)
        if timed_out:
            self.tally.time_outs += 1
            self.health.timed_out(asked_s=pending.asked_s, now_s=now_s)

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

    def answered(self, seconds: float, now_s: float) -> None:
        self._heard_s = now_s
        self._on_answered(self.name, seconds)

    # --- what an operator wants -----------------------------------------------------------

    def set_control(self, control: Control) -> None:
        """Drain, disable, or take it into use again. What is owed to it waits until then."""
        self.control = control
        events = {
            Control.ENABLED: (LinkEvent.ENABLE, LinkEvent.RESUME),
            Control.DRAINED: (LinkEvent.ENABLE, LinkEvent.DRAIN),
            Control.DISABLED: (LinkEvent.DISABLE,),
        }[control]
        self.links.steer(*events)
        self._tell_control()

    def reconnect(self) -> None:
        """Close every connection and make it anew; what is pending on it is in doubt."""
        self.links.steer(LinkEvent.RECONNECT)
        self._tell_control()

    def _tell_control(self) -> None:
        self._control_told.set()
        self._control_told = trio.Event()

    @property
    def state(self) -> str:
        """How it is, in a word: one of `figures.STATES`."""
        if self.retired:
            return "retiring"
        if self.control is Control.ENABLED:
            return str(self.health.state)
        return "draining" if self.links.connected else str(self.control)

    def status(self) -> UpstreamStatus:
        """How it does, for operators."""
        return status_of(self, late=len(self._late))

    # --- tasks ----------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links up and STANs reserved, until cancelled.

        Raises OSError where it cannot listen for the acquirer's calls.
        """
        self.began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            if not await self._try_reserve():
                self._reservation_wanted.set()
            nursery.start_soon(self._keep_stans)
            nursery.start_soon(self._keep_health)
            nursery.start_soon(self._miss_it)
            if self.calls is not None:
                await nursery.start(self.calls.run)
            self.links.run(nursery)
            task_status.started()

    async def _keep_health(self) -> None:
        """Look whether an ejection is over, when that is."""
        while True:
            changed = self._changed
            with trio.move_on_at(self.health.next_s):
                await changed.wait()
                continue
            self.health.look(trio.current_time())

    async def _miss_it(self) -> None:
        """Say so where it does not come up after the start, or after an operator's word.

        For these nothing changes that would be told: it was down, and still is.
        """
        while True:
            told, since_s = self._control_told, trio.current_time()
            with trio.move_on_after(self.settings.connect_s + self.settings.network.sign_on_s):
                await told.wait()
                continue
            down = self.health.state is Health.DOWN and self.health.since_s <= since_s
            if down and self.control is Control.ENABLED and not self.retired:
                self._emit(Event.UPSTREAM_DOWN, upstream=self.name, reason=self.status().why)
            await told.wait()

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


# What may change without another connection.
_NOT_OF_LINKS = frozenset(
    (
        "callers",
        "answer_s",
        "late_max_s",
        "pending_max",
        "rrn",
        "answer_s_by_kind",
        "approving_codes",
        "merchants",
        "knows_terminals",
        "terminal_id",
        "merchant_id",
        "terminals_file",
        "terminals_max",
        "fields",
        *(name for name in UpstreamSettings.model_fields if name.startswith("reversal")),
    )
)


def _of_links(settings: UpstreamSettings) -> dict[str, Any]:
    return settings.model_dump(exclude=set(_NOT_OF_LINKS))


def _ignore(transaction_id: int, answer: Message) -> None:
    """Late answers are events in any case."""


def _nobody_else() -> bool:
    """An upstream alone."""
    return False
