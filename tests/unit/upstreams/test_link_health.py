"""A link's health: when it is suspected, what an echo proves, and when to look next."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest

from gateway.settings.schema_upstreams import Health as Settings
from gateway.upstreams.health import Health
from gateway.upstreams.latencies import Latencies
from gateway.upstreams.link_health import LinkHealth, Look

SETTINGS = Settings(suspect_min_s=0.1)


def usual(seconds: float, *, answers: int = 200) -> Latencies:
    latencies = Latencies()
    for _ in range(answers):
        latencies.add(seconds)
    return latencies


@dataclass
class Case:
    """A link that is ready since 0, and what was told of it; looks are on time unless said."""

    latencies: Latencies = field(default_factory=lambda: usual(0.01))
    echoes: bool = True
    changes: list[tuple[Health, Health, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.health = LinkHealth(
            SETTINGS,
            self.latencies,
            echoes=self.echoes,
            changed=lambda *change: self.changes.append(change),
        )
        self.health.ready(0.0, proved_in_s=0.01)

    def look(self, now_s: float, *pending: float, late_s: float = 0.0) -> Look:
        return self.health.look(now_s, due_s=now_s - late_s, pending=pending)

    def suspected(self) -> Look:
        """Suspect at 1.1, for what was asked at 1.0; its echo is sent."""
        look = self.look(1.1, 1.0)
        assert self.health.state is Health.SUSPECT
        assert look.echo
        return look


def test_an_idle_link_is_looked_at_for_its_next_echo_only() -> None:
    case = Case()
    assert case.look(0.0) == Look(30.0)
    assert case.health.idle
    look = case.look(30.0)
    assert look == Look(pytest.approx(30.3), echo=True)
    case.health.echo_answered(30.1)
    assert case.look(30.3) == Look(pytest.approx(60.1))


def test_an_idle_link_whose_echo_is_not_answered_is_down() -> None:
    case = Case()
    case.look(30.0)
    assert case.look(30.31) == Look(inf, down=True)
    assert case.health.why == "an echo was not answered in 0.31 s"
    assert case.look(31.0) == Look(inf)


def test_a_request_is_looked_at_again_when_the_patience_is_over() -> None:
    case = Case()
    assert case.look(1.0, 1.0) == Look(pytest.approx(1.1))
    assert not case.health.idle
    assert case.health.patience_s == 0.1
    case.suspected()
    assert case.health.why.startswith("no answer for 0.1 s, usual p99 0.01")


def test_the_patience_is_what_is_usual() -> None:
    assert Case(usual(0.5)).health.patience_s == pytest.approx(1.5, rel=0.05)
    # Until enough is known it is longer, and longer still for what is known to be slow.
    assert Case(usual(0.001, answers=49)).health.patience_s == 1.0
    assert Case(usual(1.0, answers=3)).health.patience_s == pytest.approx(3.0, rel=0.05)
    assert Case(Latencies()).health.patience_s == 1.0


def test_an_unanswered_echo_proves_it_down() -> None:
    case = Case()
    look = case.suspected()
    assert look == Look(pytest.approx(1.4), echo=True)
    assert not case.look(1.39, 1.0).down
    assert case.look(look.next_s, 1.0) == Look(inf, down=True)
    assert [after for _, after, _ in case.changes] == [Health.UP, Health.SUSPECT, Health.DOWN]


def test_an_answered_echo_clears_nothing_and_is_asked_for_again() -> None:
    case = Case()
    case.suspected()
    case.health.echo_answered(1.15)
    assert case.look(1.4, 1.0) == Look(pytest.approx(1.45))
    assert case.health.state is Health.SUSPECT
    assert case.look(1.45, 1.0).echo


def test_a_front_end_that_echoes_for_a_mute_host_is_found_out() -> None:
    case = Case()
    now_s, look = 1.1, case.suspected()
    while not look.down:
        if look.echo:
            case.health.echo_answered(now_s + 0.01)
        now_s = look.next_s
        look = case.look(now_s, 1.0)
    assert now_s == pytest.approx(1.1 + SETTINGS.suspect_max_s)
    assert "whatever it echoes" in case.health.why


def test_a_real_answer_ends_suspicion_once_nothing_is_overdue() -> None:
    case = Case()
    case.suspected()
    # Of two overdue requests the first is answered: the other is silent since then.
    assert case.health.answered(1.0, 1.2)
    case.look(1.2, 1.01)
    assert case.health.state is Health.UP
    case.look(1.3, 1.01)
    assert case.health.state is Health.SUSPECT
    assert case.health.answered(1.01, 1.31)
    case.look(1.31)
    assert case.health.state is Health.UP
    assert case.health.why == "answers again"


def test_a_request_that_others_overtook_says_nothing() -> None:
    case = Case()
    assert not case.health.answered(2.0, 2.01)
    case.look(2.0, 1.0)
    case.look(5.0, 1.0)
    assert case.health.state is Health.UP
    # And one asked after them does.
    assert case.look(5.0, 1.0, 5.0) == Look(pytest.approx(5.1))
    case.look(5.1, 1.0, 5.0)
    assert case.health.state is Health.SUSPECT


def test_many_overdue_requests_say_something_though_others_are_answered() -> None:
    case = Case()
    lost = [1.0 + number / 100 for number in range(10)]
    for number in range(30):
        case.health.answered(1.0 + number / 100, 1.01 + number / 100)
    case.look(1.3, *lost[:9])
    assert case.health.state is Health.UP
    case.look(1.3, *lost)
    assert case.health.state is Health.SUSPECT
    assert case.health.why.startswith("10 requests overdue")


def test_a_late_look_blames_nobody_until_answers_could_be_read() -> None:
    case = Case()
    look = case.look(3.0, 1.0, late_s=1.9)
    assert case.health.state is Health.UP
    assert look == Look(pytest.approx(3.1))
    case.look(3.1, 1.0)
    assert case.health.state is Health.SUSPECT


def test_a_late_look_forgives_an_echo_too() -> None:
    case = Case()
    case.suspected()
    look = case.look(1.45, 1.0, late_s=0.05)
    assert look == Look(pytest.approx(1.5))
    case.health.echo_answered(1.46)
    assert not case.look(1.5, 1.0).down


def test_a_slow_hosts_echo_may_be_slow() -> None:
    case = Case(usual(0.5))
    case.health.ready(0.0, proved_in_s=0.9)
    for number in range(20):
        case.look(30.0 * number + 30)
        case.health.echo_answered(30.0 * number + 30.9)
    look = case.look(630.9)
    assert look.next_s == pytest.approx(630.9 + 2.7, rel=0.01)


def test_who_answers_requests_need_not_echo() -> None:
    case = Case()
    case.look(30.0)
    case.health.answered(30.1, 30.2)
    look = case.look(30.3)
    assert not look.down
    assert case.health.state is Health.UP


def test_without_echoes_silence_alone_decides() -> None:
    case = Case(echoes=False)
    assert case.look(0.0) == Look(inf)
    look = case.look(1.1, 1.0)
    assert look == Look(pytest.approx(1.1 + SETTINGS.suspect_max_s))
    assert case.health.state is Health.SUSPECT
    assert case.look(look.next_s, 1.0).down


def test_after_silence_one_real_answer_is_wanted() -> None:
    case = Case()
    case.suspected()
    assert case.look(1.41, 1.0).down
    case.health.lost(1.4, "closed")
    case.health.ready(2.0, proved_in_s=0.01)
    assert case.health.state is Health.PROBING
    case.look(2.5, 2.5)
    assert case.health.answered(2.5, 2.51)
    case.look(2.51)
    assert case.health.state is Health.UP
    # From then on a lost connection is just that.
    case.health.lost(3.0, "closed by the upstream")
    case.health.ready(3.1)
    assert case.health.state is Health.UP


def test_a_probe_that_is_not_answered_makes_it_suspect_again() -> None:
    case = Case()
    case.suspected()
    assert case.look(1.41, 1.0).down
    case.health.ready(2.0)
    case.look(2.1, 2.0)
    assert case.health.state is Health.SUSPECT
    case.health.lost(2.2, "reset")
    case.health.ready(2.3)
    assert case.health.state is Health.PROBING


def test_a_new_connection_starts_afresh() -> None:
    case = Case()
    case.health.answered(5.0, 5.01)
    case.look(5.1, 5.05)
    case.health.lost(6.0, "closed by the upstream")
    assert case.look(6.0) == Look(inf)
    case.health.ready(7.0)
    assert case.look(7.0) == Look(37.0)
    assert case.health.since_s == 7.0


def test_a_changed_mind_is_told_once() -> None:
    case = Case()
    case.suspected()
    case.look(1.2, 1.0)
    case.health.lost(1.3, "reset")
    case.health.lost(1.3, "reset")
    told = [(before.value, after.value) for before, after, _ in case.changes]
    assert told == [("down", "up"), ("up", "suspect"), ("suspect", "down")]


def test_under_traffic_a_pause_is_seen_before_a_request_is_overdue_by_itself() -> None:
    """Answers that took up to 0.5 s came every 10 ms: a pause of 60 ms is not one of theirs."""
    settings = Settings(suspect_min_s=0.06)
    latencies = Latencies()
    health = LinkHealth(settings, latencies)
    health.ready(0.0)
    slow_s, now_s = 0.5, 0.0
    for number in range(1_000):
        now_s = slow_s + number / 100
        health.answered(now_s - slow_s, now_s)
    pending = [now_s - slow_s + (number + 1) / 100 for number in range(50)]
    patient = health.look(now_s + 0.03, due_s=now_s + 0.03, pending=pending)
    assert health.state is Health.UP
    assert patient.next_s <= now_s + 0.1
    health.look(now_s + 0.08, due_s=now_s + 0.08, pending=pending)
    assert health.state is Health.SUSPECT
    assert health.patience_s >= 1.5  # what it would have taken without
