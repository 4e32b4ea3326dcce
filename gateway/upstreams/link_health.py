"""Is a link silent? The age of what it has not answered, held against what is usual (no I/O)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from gateway.settings.schema_upstreams import Health as HealthSettings
from gateway.upstreams.health import LINK_TRANSITIONS, Changed, Health, LinkEvidence
from gateway.upstreams.latencies import Latencies

_UP = Health.UP  # compared with on the main path, where an enumeration's look-up is slow
_USUAL = 0.99
# A look that comes later than this was held up by our own process, not by the peer.
_LATE_LOOK_S = 0.02
# Looks are at least this far apart, so that rounding cannot make a timer spin.
_LOOKS_APART_S = 0.001
_MARKS_MAX = 64


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a link came to."""

    next_s: float  # when to look next; infinity: not before it is ready again
    echo: bool = False  # send one now
    down: bool = False  # close the link now: `LinkHealth.why` says why


def _nobody(before: Health, now: Health, why: str) -> None:
    """Changes can be read from `state` as well."""


class LinkHealth:
    """The health of one link, for its whole life: it remembers across connections.

    The link says what comes (`ready`, `answered`, `echo_answered`, `lost`), and calls `look` when
    the last look asked it to, with what is pending. A link is silent since the last real answer,
    or since the oldest request asked after all that were answered, whichever is later: a request
    that others overtook was lost, or is slow by itself, and says nothing about the link unless
    there are many such.
    """

    def __init__(
        self,
        settings: HealthSettings,
        latencies: Latencies,
        *,
        echoes: bool = True,
        now_s: float = 0.0,
        changed: Changed = _nobody,
    ) -> None:
        self.state = Health.DOWN
        self.since_s = now_s
        self.why = "not connected yet"
        self.idle = True  # nothing is waited for: the next request asked wants a look
        self._settings = settings
        self._latencies = latencies  # of the whole upstream
        self._echoes = echoes
        self._changed = changed
        self._was_silent = False
        self._echo_latencies = Latencies(fade_every=20)
        self._gaps = Latencies()  # between answers, while requests waited
        self._clear(now_s)

    def _clear(self, now_s: float) -> None:
        """Forget what belongs to one connection."""
        self._proven_s = -inf  # the newest request that was answered was asked then
        self._heard_s = now_s  # the last real answer
        self._looked_s = now_s
        self._answers = 0
        self._marks: deque[tuple[float, int]] = deque(((now_s, 0),), maxlen=_MARKS_MAX)
        self._echo_asked_s: float | None = None
        self._echo_heard_s = now_s
        self._excused: tuple[Health, float, float | None] | None = None
        self._excused_late_s = 0.0
        self._excused_until_s = -inf
        self.idle = True

    # --- what comes -----------------------------------------------------------------------

    def ready(self, now_s: float, *, proved_in_s: float | None = None) -> None:
        """The link may be used from now on; its first echo, if any, took `proved_in_s`."""
        self._clear(now_s)
        if proved_in_s is not None:
            self._echo_latencies.add(proved_in_s)
        if self._was_silent:
            self._see(LinkEvidence.READY_AGAIN, now_s, "connected again after silence")
        else:
            self._see(LinkEvidence.READY, now_s, "ready")

    def lost(self, now_s: float, why: str) -> None:
        """The connection ended."""
        if self.state is Health.SUSPECT:
            self._was_silent = True  # nothing has cleared the suspicion
        self._see(LinkEvidence.LOST, now_s, why)

    def answered(self, asked_s: float, now_s: float) -> bool:
        """A real answer came to what was asked then; returns whether to look at once.

        On the main path: it does as little as possible.
        """
        self._latencies.add(now_s - asked_s)
        if asked_s < self._heard_s:  # something was waited for all the time since
            self._gaps.add(now_s - self._heard_s)
        if asked_s > self._proven_s:
            self._proven_s = asked_s
        self._heard_s = now_s
        self._answers += 1
        return self.state is not _UP

    def echo_answered(self, now_s: float) -> None:
        """The acquirer answered the echo that a look asked for. It clears no suspicion."""
        if self._echo_asked_s is not None:
            self._echo_latencies.add(now_s - self._echo_asked_s)
            self._echo_asked_s = None
        self._echo_heard_s = now_s

    # --- looking --------------------------------------------------------------------------

    @property
    def patience_s(self) -> float:
        """How long a request may be unanswered before its link is suspected."""
        settings = self._settings
        usual_s = settings.suspect_factor * self._latencies.percentile(_USUAL)
        if self._latencies.count < settings.answers_known_min:
            return max(settings.suspect_unknown_s, usual_s)
        return max(settings.suspect_min_s, usual_s)

    def look(self, now_s: float, *, due_s: float, pending: Iterable[float]) -> Look:
        """Judge the link by when its pending requests were asked, oldest first.

        `due_s` is when this look was to be: what it is late by is our own doing, so that answers
        may lie unread, and nothing is held against the peer for as long again.
        """
        if self.state is Health.DOWN:
            return Look(inf)
        patience_s = self.patience_s
        self._excuse(now_s, late_s=now_s - due_s, patience_s=patience_s)
        waits = _Waits.of(pending, proven_s=self._proven_s, patience_s=patience_s, now_s=now_s)
        silent_s = None if waits.unproven_s is None else max(waits.unproven_s, self._heard_s)
        suspect_at_s = inf if silent_s is None else silent_s + patience_s
        quick_s = self._quick_s
        if waits.unproven_s is not None:
            suspect_at_s = min(suspect_at_s, self._gap_over_s(waits.unproven_s, quick_s))
        excused = now_s < self._excused_until_s
        lossy = self._is_lossy(waits)
        if self.state is not Health.SUSPECT:
            if (suspect_at_s <= now_s or lossy) and not excused:
                self._suspect(now_s, silent_s=silent_s, waits=waits, lossy=lossy)
            elif self.state is Health.PROBING and self._heard_s > self.since_s:
                self._was_silent = False
                self._see(LinkEvidence.ANSWERED, now_s, "answered its probe")
        elif self._heard_s > self.since_s and suspect_at_s > now_s and not lossy:
            self._was_silent = False
            self._see(LinkEvidence.ANSWERED, now_s, "answers again")
        mute_at_s = self._mute_at_s(patience_s)
        if mute_at_s <= now_s and not excused:
            return self._down(
                LinkEvidence.MUTE,
                now_s,
                f"no answer for {now_s - self._heard_s:.3g} s, whatever it echoes",
            )
        look = self._echo(now_s, excused=excused)
        if look.down:
            return look
        next_s = min(look.next_s, mute_at_s)
        busy = waits.unproven_s is not None or self._heard_s > self._looked_s
        self.idle = not busy
        if self.state is not Health.SUSPECT and busy:
            # While there is traffic a look each `patience_s` does for what is asked meanwhile.
            next_s = min(next_s, suspect_at_s, now_s + min(patience_s, quick_s))
        self._looked_s = now_s
        self._marks.append((now_s, self._answers))
        if excused:
            next_s = max(next_s, min(self._excused_until_s, now_s + patience_s))
        return Look(max(next_s, now_s + _LOOKS_APART_S), echo=look.echo)

    def _excuse(self, now_s: float, *, late_s: float, patience_s: float) -> None:
        """Hold nothing against the peer for a while where we were held up ourselves.

        For one silence that is done once, unless we are held up still longer: a process that is
        always a little late would else never see a peer go mute.
        """
        silence = (self.state, self._heard_s, self._echo_asked_s)
        if silence != self._excused:
            self._excused, self._excused_late_s = silence, _LATE_LOOK_S
        if late_s > self._excused_late_s:
            self._excused_late_s = late_s
            self._excused_until_s = now_s + min(late_s, patience_s)

    @property
    def _quick_s(self) -> float:
        """A pause between answers that is unusual while requests wait; infinity: not known yet."""
        settings = self._settings
        if self._gaps.count < settings.answers_known_min:
            return inf
        return max(settings.suspect_min_s, settings.suspect_factor * self._gaps.percentile(_USUAL))

    def _gap_over_s(self, oldest_s: float, quick_s: float) -> float:
        """When a pause is too long for a link whose oldest request was asked then.

        Under traffic this is known long before one request is overdue by itself.
        """
        due_s = oldest_s + self._latencies.percentile(_USUAL)
        since_s = self._heard_s if oldest_s <= self._heard_s else due_s
        return max(since_s + quick_s, due_s)

    def _is_lossy(self, waits: _Waits) -> bool:
        """Whether too many of what was asked is overdue, though others were answered."""
        settings = self._settings
        if waits.overdue < settings.overdue_min:
            return False
        before = next((n for at_s, n in reversed(self._marks) if at_s <= waits.oldest_s), None)
        answered = self._answers - (self._marks[0][1] if before is None else before)
        return waits.overdue >= settings.overdue_share * (waits.overdue + answered)

    def _suspect(self, now_s: float, *, silent_s: float | None, waits: _Waits, lossy: bool) -> None:
        usual_s = self._latencies.percentile(_USUAL)
        known = self._latencies.count >= self._settings.answers_known_min
        usual = f"usual p99 {usual_s:.3g} s" if known else "what is usual is not known yet"
        if lossy or silent_s is None:
            why = f"{waits.overdue} requests overdue, {usual}"
        else:
            why = f"no answer for {now_s - silent_s:.3g} s, {usual}"
        self._see(LinkEvidence.OVERDUE, now_s, why)

    def _mute_at_s(self, patience_s: float) -> float:
        if self.state is not Health.SUSPECT:
            return inf
        return max(self.since_s, self._heard_s) + max(self._settings.suspect_max_s, patience_s)

    def _echo(self, now_s: float, *, excused: bool) -> Look:
        """Whether to send an echo, or to give up on one."""
        if not self._echoes:
            return Look(inf)
        if self._echo_asked_s is not None and self._heard_s > self._echo_asked_s:
            # It answers requests: whatever became of the echo, it is not dead.
            self._echo_asked_s, self._echo_heard_s = None, self._heard_s
        if self._echo_asked_s is not None:
            due_s = self._echo_asked_s + self._echo_wait_s
            if due_s > now_s:
                return Look(due_s)
            if excused:
                return Look(self._excused_until_s)
            waited_s = now_s - self._echo_asked_s
            return self._down(
                LinkEvidence.ECHO_UNANSWERED, now_s, f"an echo was not answered in {waited_s:.3g} s"
            )
        if self.state is Health.SUSPECT:
            # At once, and then again and again, since it may die while it is suspect.
            at_s = max(self._echo_heard_s + self._settings.echo_s, self.since_s)
            if self._echo_heard_s < self.since_s:
                at_s = self.since_s
        else:
            at_s = max(self._heard_s, self._echo_heard_s) + self._settings.echo_idle_s
        if at_s > now_s:
            return Look(at_s)
        self._echo_asked_s = now_s
        return Look(now_s + self._echo_wait_s, echo=True)

    @property
    def _echo_wait_s(self) -> float:
        """How long an echo may take: a slow host, or a slow way to it, makes slow echoes too."""
        usual = self._echo_latencies if self._echo_latencies.count else self._latencies
        return max(self._settings.echo_s, self._settings.suspect_factor * usual.percentile(_USUAL))

    def _down(self, seen: LinkEvidence, now_s: float, why: str) -> Look:
        self._was_silent = True
        self._see(seen, now_s, why)
        return Look(inf, down=True)

    def _see(self, seen: LinkEvidence, now_s: float, why: str) -> None:
        before = self.state
        self.state = LINK_TRANSITIONS[before, seen]
        if self.state is not before:
            self.since_s, self.why = now_s, why
            self._changed(before, self.state, why)


@dataclass(frozen=True, slots=True)
class _Waits:
    """What the pending requests say, in one pass over the old ones."""

    unproven_s: float | None  # when the oldest was asked that no answered one was asked after
    overdue: int  # how many are older than the patience
    oldest_s: float  # when the oldest of these was asked

    @classmethod
    def of(
        cls, pending: Iterable[float], *, proven_s: float, patience_s: float, now_s: float
    ) -> _Waits:
        unproven_s: float | None = None
        overdue, oldest_s = 0, inf
        for asked_s in pending:
            if unproven_s is None and asked_s > proven_s:
                unproven_s = asked_s
            if asked_s + patience_s <= now_s:
                overdue += 1
                oldest_s = min(oldest_s, asked_s)
            elif unproven_s is not None:
                break
        return cls(unproven_s, overdue, oldest_s)
