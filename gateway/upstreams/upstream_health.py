"""May an upstream get requests? What is held against it, ejection, probe, slow start (no I/O)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from gateway.settings.schema_upstreams import Health as HealthSettings
from gateway.upstreams.health import (
    EJECTING,
    UPSTREAM_TRANSITIONS,
    Changed,
    Health,
    UpstreamEvidence,
)

ISSUER_UNAVAILABLE, SYSTEM_FAULT = "91", "96"
_BAD = frozenset((ISSUER_UNAVAILABLE, SYSTEM_FAULT))

_UP = Health.UP  # the main path compares with it often, and an enumeration's look-up is slow
_FIRST_SHARE = 0.1  # of its requests, that a slow start begins with
_JITTER = 0.1  # an ejection is shorter or longer by up to this share of itself
_ISSUERS_MAX = 2_000  # BINs counted in one half of the window


class _Half:
    """What was answered in half a window's time."""

    __slots__ = ("answers", "faults", "issuers", "until_s")

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.answers = 0
        self.faults = 0  # 96
        self.issuers: dict[str, list[int]] = {}  # BIN -> answers, and how many of them were 91


class AnswerWindow:
    """The share of bad answers among the recent ones.

    Two halves take turns, so that what is counted is from half a window to a whole one old.
    """

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._half_s = settings.answers_s / 2
        self._last = _Half(-inf)
        self._now = _Half(-inf)

    def use(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._half_s = settings.answers_s / 2

    def clear(self) -> None:
        self._last, self._now = _Half(-inf), _Half(-inf)

    def add(self, code: str, issuer: str, now_s: float) -> None:
        """Count an answer; on the main path."""
        half = self._now
        if now_s >= half.until_s:
            half = self._turn(now_s)
        half.answers += 1
        counts = half.issuers.get(issuer)
        if counts is None:
            # Over the bound all others count as one more bank.
            key = issuer if len(half.issuers) < _ISSUERS_MAX else ""
            counts = half.issuers.setdefault(key, [0, 0])
        counts[0] += 1
        if code in _BAD:
            if code == SYSTEM_FAULT:
                half.faults += 1
            else:
                counts[1] += 1

    def _turn(self, now_s: float) -> _Half:
        fresh = now_s < self._now.until_s + self._half_s
        self._last = self._now if fresh else _Half(-inf)
        self._now = _Half(now_s + self._half_s)
        return self._now

    def verdict(self) -> str:
        """Why the upstream is sick, or nothing where it is not.

        96 is the acquirer's own fault. 91 is a bank's, unless several banks have it at once.
        """
        settings = self._settings
        answers = self._last.answers + self._now.answers
        if answers < settings.answers_min:
            return ""
        bad = self._last.faults + self._now.faults
        unavailable, issuers, ill = self._issuers()
        if issuers >= settings.issuers_min and 2 * ill >= issuers:
            bad += unavailable
        if bad < settings.bad_share * answers:
            return ""
        return f"{bad} of its last {answers} answers were 91 or 96"

    def _issuers(self) -> tuple[int, int, int]:
        """How many answers were 91; how many BINs were seen; and how many mostly answered 91."""
        merged: dict[str, tuple[int, int]] = {}
        for half in (self._last, self._now):
            for issuer, (answers, unavailable) in half.issuers.items():
                before = merged.get(issuer, (0, 0))
                merged[issuer] = (before[0] + answers, before[1] + unavailable)
        ill = sum(2 * unavailable > answers for answers, unavailable in merged.values())
        return sum(unavailable for _, unavailable in merged.values()), len(merged), ill


class _Row:
    """Bad answers without a good one between them: told long before they are half of a window."""

    __slots__ = ("faults", "issuers", "length")

    def __init__(self) -> None:
        self.length = 0
        self.faults = 0  # 96
        self.issuers: set[str] = set()  # BINs that were answered 91

    def add(self, code: str, issuer: str) -> None:
        self.length += 1
        if code == SYSTEM_FAULT:
            self.faults += 1
        elif len(self.issuers) < _ISSUERS_MAX:
            self.issuers.add(issuer)

    def verdict(self, settings: HealthSettings) -> str:
        """Why the upstream is sick, or nothing where it is not."""
        counted = self.length if len(self.issuers) >= settings.issuers_min else self.faults
        if counted < settings.answers_min:
            return ""
        return f"its last {self.length} answers were all 91 or 96"


def _nobody(before: Health, now: Health, why: str) -> None:
    """Changes can be read from `state` as well."""


class UpstreamHealth:
    """The health of one upstream.

    `random` gives numbers from 0 to 1: nodes that ejected an upstream together are not to probe
    it together.
    """

    def __init__(
        self,
        settings: HealthSettings,
        *,
        random: Callable[[], float],
        now_s: float = 0.0,
        changed: Changed = _nobody,
    ) -> None:
        self.state = Health.DOWN
        self.since_s = now_s
        self.why = "no link yet"
        self.ejected_until_s: float | None = None  # None: nothing stands against it
        self.share = 1.0  # of the requests meant for it; less in a slow start, and only then
        self.ejections = 0  # in a row; each lasts twice as long as the last
        self.ejected = 0  # times since the start
        self._settings = settings
        self._random = random
        self._changed = changed
        self._usable = 0  # links
        self._lost_s = -inf  # when requests were lost last, or a link was silent
        self._timeouts = 0  # in a row
        self._window = AnswerWindow(settings)
        self._row = _Row()
        self._blamed_for_answers = False  # by the last ejection
        self._up_since_s: float | None = None  # suspicion in between does not count
        self._probe_claimed_s: float | None = None
        self._ramp_from_s: float | None = None  # a slow start is under way since then
        self._credit = 0.0

    # --- may it get a request? ------------------------------------------------------------

    def admits(self, now_s: float) -> bool:
        """Whether it may get one more request, which is then counted as given to it.

        While it is probed one request gets True, and the next only after that one was answered,
        or `released`.
        """
        if self.state is _UP:
            return self._ramp_from_s is None or self._ramps(self._ramp_from_s, now_s)
        if self.state is not Health.PROBING or not self.wants_probe(now_s):
            return False
        self._probe_claimed_s = now_s
        return True

    def wants_probe(self, now_s: float) -> bool:
        """Whether, while it is probed, nobody has claimed the probe."""
        claimed_s = self._probe_claimed_s
        # A claim that nobody redeems is void one day, lest the upstream stay unused for ever.
        return claimed_s is None or now_s >= claimed_s + self._settings.eject_max_s

    def use(self, settings: HealthSettings) -> None:
        """Judge by these from now on."""
        self._settings = settings
        self._window.use(settings)

    def released(self) -> None:
        """What `admits` let through was not sent after all."""
        self._probe_claimed_s = None

    def _ramps(self, ramp_from_s: float, now_s: float) -> bool:
        """Let so many through that the share grows evenly; credit makes it exact, not random."""
        self.share = _FIRST_SHARE + (1 - _FIRST_SHARE) * (
            (now_s - ramp_from_s) / self._settings.slow_start_s
        )
        if self.share >= 1 - 1e-9:  # times are floats
            self.share, self._ramp_from_s = 1.0, None
            return True
        self._credit += self.share
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    # --- what is seen ---------------------------------------------------------------------

    @property
    def next_s(self) -> float:
        """When `look` is wanted; infinity: not before something else happens."""
        if self.state is Health.DOWN and self.ejected_until_s is not None and self._usable:
            return self.ejected_until_s
        return inf

    def look(self, now_s: float) -> None:
        """See whether an ejection is over."""
        self._welcome(now_s)

    def links(
        self,
        now_s: float,
        *,
        usable: int,
        suspect: int,
        lost: int = 0,
        silent: bool = False,
        others_up: bool = True,
        why: str = "",
    ) -> None:
        """Its links are now these: `usable` (up or probing) and `suspect`.

        Where the change is a link's end: `lost` requests were pending on it, and `silent` if it
        was declared down for silence. `why` is for operators.
        """
        self._usable = usable
        if lost or silent:
            self._lost_s = now_s
        if usable:
            if lost and self._probe_claimed_s is not None:
                # Hardly anything but the probe can have been on that link.
                self._see(UpstreamEvidence.PROBE_FAILED, now_s, why or "its probe was lost")
            self._welcome(now_s)
        # The last upstream standing has nothing to gain from being left alone, unless it is mute.
        elif silent or (others_up and not suspect and self._lost_lately(now_s)):
            self._see(UpstreamEvidence.LOST, now_s, why or "its links were lost")
        elif suspect:
            self._see(UpstreamEvidence.SUSPECT, now_s, why or "all its links are suspect")
        else:
            self._see(UpstreamEvidence.GONE, now_s, why or "it has no link")

    def _lost_lately(self, now_s: float) -> bool:
        return now_s - self._lost_s <= self._settings.eject_first_s

    def _welcome(self, now_s: float) -> None:
        """A link may be used; is there an ejection to wait for?"""
        if self._usable == 0:
            return
        if self.ejected_until_s is None:
            self._see(UpstreamEvidence.USABLE, now_s, "it has a link that may be used")
        elif now_s >= self.ejected_until_s:
            self._see(UpstreamEvidence.PROBE_DUE, now_s, "one request is to prove it")

    def answered(
        self, code: str, *, issuer: str, asked_s: float, now_s: float, others_up: bool
    ) -> None:
        """A real answer: DE39, the card's BIN, and when its request was asked."""
        self._timeouts = 0
        self._window.add(code, issuer, now_s)
        if code in _BAD:
            self._row.add(code, issuer)
        elif self._row.length:
            self._row = _Row()
        if code in _BAD or self.state is not _UP:
            self._weigh(code, asked_s=asked_s, now_s=now_s, others_up=others_up)

    def _weigh(self, code: str, *, asked_s: float, now_s: float, others_up: bool) -> None:
        if self.state is Health.PROBING:
            if asked_s >= self.since_s:
                bad = code == SYSTEM_FAULT or (code in _BAD and self._blamed_for_answers)
                if bad and others_up:
                    self._see(UpstreamEvidence.PROBE_FAILED, now_s, f"it answered its probe {code}")
                else:
                    self._see(UpstreamEvidence.PROBE_ANSWERED, now_s, "it answered its probe")
        elif others_up and self.state is not Health.DOWN:
            sick = self._row.verdict(self._settings) or self._window.verdict()
            if sick:
                self._see(UpstreamEvidence.SICK, now_s, sick, for_answers=True)

    def timed_out(self, *, asked_s: float, now_s: float) -> None:
        """A request was given up for want of an answer."""
        if self.state is Health.PROBING:
            if asked_s >= self.since_s:
                self._see(UpstreamEvidence.PROBE_FAILED, now_s, "it did not answer its probe")
            return
        self._timeouts += 1
        if self._timeouts >= self._settings.timeouts_max:
            self._see(UpstreamEvidence.SICK, now_s, f"{self._timeouts} time-outs in a row")

    def _see(
        self, seen: UpstreamEvidence, now_s: float, why: str, *, for_answers: bool = False
    ) -> None:
        before = self.state
        after = UPSTREAM_TRANSITIONS[before, seen]
        if after is before:
            if seen is UpstreamEvidence.LOST and self.ejected_until_s is None:
                self._eject(now_s)  # that it has no link was known before what that cost
            return
        if after is Health.DOWN:
            if seen in EJECTING:
                self._blamed_for_answers = for_answers or (
                    seen is UpstreamEvidence.PROBE_FAILED and self._blamed_for_answers
                )
                self._eject(now_s)
            self._ramp_from_s, self.share = None, 1.0
        elif after is Health.UP and before is not Health.SUSPECT:
            self._rise(now_s, slowly=before is Health.PROBING)
        self._probe_claimed_s = None
        self.state, self.since_s, self.why = after, now_s, why
        self._changed(before, after, why)

    def _rise(self, now_s: float, *, slowly: bool) -> None:
        self._up_since_s = now_s
        self.ejected_until_s = None
        self._timeouts = 0
        self._window.clear()
        self._row = _Row()
        self._credit = 0.0
        self._ramp_from_s, self.share = (now_s, _FIRST_SHARE) if slowly else (None, 1.0)

    def _eject(self, now_s: float) -> None:
        settings = self._settings
        up_since_s, self._up_since_s = self._up_since_s, None
        if up_since_s is not None and now_s - up_since_s >= settings.eject_max_s:
            self.ejections = 0
        eject_s = min(settings.eject_first_s * 2.0 ** min(self.ejections, 62), settings.eject_max_s)
        self.ejections += 1
        self.ejected += 1
        self.ejected_until_s = now_s + eject_s * (1 - _JITTER + 2 * _JITTER * self._random())
