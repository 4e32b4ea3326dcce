"""An upstream's health: what ejects it, for how long, its one probe, and its slow start."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest

from gateway.settings.schema_upstreams import Health as Settings
from gateway.upstreams.health import Health
from gateway.upstreams.upstream_health import AnswerWindow, UpstreamHealth

SETTINGS = Settings()
BANKS = ("400000", "510000", "621700", "370000")


@dataclass
class Case:
    """An upstream's health, and each change that was told."""

    random: float = 0.5  # an ejection lasts exactly what it is set to
    changes: list[tuple[Health, Health, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.health = UpstreamHealth(
            SETTINGS,
            random=lambda: self.random,
            changed=lambda *change: self.changes.append(change),
        )

    def up(self, now_s: float = 0.0) -> UpstreamHealth:
        self.health.links(now_s, usable=1, suspect=0)
        assert self.health.state is Health.UP
        return self.health

    def muted(self, now_s: float) -> UpstreamHealth:
        """Its only link was silent and is closed; it connects again at once."""
        self.health.links(now_s, usable=0, suspect=1)
        self.health.links(now_s, usable=0, suspect=0, lost=9, silent=True, why="mute")
        self.health.links(now_s, usable=1, suspect=0)
        return self.health

    def answer(
        self, code: str, now_s: float, *, issuer: str = BANKS[0], others_up: bool = True
    ) -> None:
        self.health.answered(code, issuer=issuer, asked_s=now_s, now_s=now_s, others_up=others_up)


def test_a_first_start_needs_no_ejection() -> None:
    case = Case()
    assert (case.health.state, case.health.admits(0.0)) == (Health.DOWN, False)
    health = case.up(1.0)
    assert (health.since_s, health.share, health.next_s) == (1.0, 1.0, inf)
    assert all(health.admits(1.0) for _ in range(100))


def test_links_that_end_with_nothing_pending_are_no_fault() -> None:
    health = Case().up()
    health.links(5.0, usable=0, suspect=0)
    assert (health.state, health.ejected_until_s) == (Health.DOWN, None)
    health.links(5.1, usable=1, suspect=0)
    assert health.state is Health.UP
    assert health.share == 1.0


def test_one_link_of_two_is_no_matter() -> None:
    health = Case().up()
    health.links(5.0, usable=1, suspect=0, lost=30, silent=True)
    assert health.state is Health.UP


def test_suspect_links_only_make_a_suspect_upstream() -> None:
    health = Case().up()
    health.links(5.0, usable=1, suspect=1)
    assert health.state is Health.UP
    health.links(5.0, usable=0, suspect=2, why="no answer for 0.1 s")
    assert (health.state, health.why) == (Health.SUSPECT, "no answer for 0.1 s")
    assert not health.admits(5.0)
    health.links(5.1, usable=1, suspect=1)
    assert health.state is Health.UP
    assert health.share == 1.0


def test_silence_ejects_even_the_last_one_standing() -> None:
    case = Case()
    case.up()
    case.health.links(5.0, usable=0, suspect=1, others_up=False)
    case.health.links(5.4, usable=0, suspect=0, lost=4, silent=True, others_up=False)
    assert (case.health.state, case.health.ejected_until_s) == (Health.DOWN, 6.4)
    assert case.changes[-1][:2] == (Health.SUSPECT, Health.DOWN)


def test_silence_of_one_link_with_the_rest_suspect_ejects() -> None:
    health = Case().up()
    health.links(5.0, usable=0, suspect=2)
    health.links(5.4, usable=0, suspect=1, lost=4, silent=True)
    assert health.state is Health.DOWN
    # What else happens to its links while it is ejected changes nothing.
    health.links(5.5, usable=0, suspect=0, lost=9, silent=True)
    health.links(5.6, usable=1, suspect=0)
    assert (health.state, health.ejected_until_s) == (Health.DOWN, 6.4)


def test_a_lost_connection_ejects_only_where_others_stand() -> None:
    health = Case().up()
    health.links(5.0, usable=0, suspect=0, lost=3, others_up=True)
    assert health.ejected_until_s == 6.0
    alone = Case().up()
    alone.links(5.0, usable=0, suspect=0, lost=3, others_up=False)
    assert (alone.state, alone.ejected_until_s) == (Health.DOWN, None)
    alone.links(5.2, usable=1, suspect=0, others_up=False)
    assert alone.state is Health.UP


def test_two_links_reset_together_are_one_fault() -> None:
    health = Case().up()
    health.links(5.0, usable=1, suspect=0, lost=3)
    health.links(5.0, usable=0, suspect=0)
    assert health.ejected_until_s == 6.0


@pytest.mark.parametrize("silent", [False, True])
def test_what_a_lost_link_cost_may_be_told_after_it_is_gone(*, silent: bool) -> None:
    health = Case().up()
    health.links(5.0, usable=0, suspect=0)
    assert health.ejected_until_s is None
    health.links(5.0, usable=0, suspect=0, lost=3, silent=silent)
    assert health.ejected_until_s == 6.0
    health.links(5.1, usable=0, suspect=0, lost=1)
    assert health.ejected_until_s == 6.0
    health.links(5.2, usable=1, suspect=0)
    assert health.state is Health.DOWN


def test_ejections_double_up_to_the_bound_and_start_over_after_a_good_time() -> None:
    case = Case()
    now_s = 0.0
    case.up()
    lengths = []
    for _ in range(9):
        health = case.muted(now_s)
        assert health.ejected_until_s is not None
        lengths.append(health.ejected_until_s - now_s)
        now_s = health.next_s
        health.look(now_s)
        assert health.state is Health.PROBING
        assert health.admits(now_s)
        case.answer("00", now_s)
        assert health.state is Health.UP
        now_s += 2.0
    assert lengths == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])
    now_s += SETTINGS.eject_max_s
    health = case.muted(now_s)
    assert health.ejected_until_s == pytest.approx(now_s + 1.0)


def test_ejections_have_jitter() -> None:
    for random, length_s in ((0.0, 0.9), (0.5, 1.0), (1.0, 1.1)):
        case = Case(random=random)
        case.up()
        assert case.muted(10.0).ejected_until_s == pytest.approx(10.0 + length_s)


def probing(case: Case, now_s: float = 10.0) -> float:
    """Eject it at that time and return when it is to be probed."""
    case.up()
    due_s = case.muted(now_s).next_s
    case.health.look(due_s - 0.01)
    assert case.health.state is Health.DOWN
    case.health.look(due_s)
    assert case.health.state is Health.PROBING
    return due_s


def test_exactly_one_request_probes() -> None:
    case = Case()
    now_s = probing(case)
    assert [case.health.admits(now_s) for _ in range(5)] == [True] + [False] * 4
    case.health.released()
    assert [case.health.admits(now_s + 1) for _ in range(3)] == [True, False, False]
    # A claim that nobody redeemed is not for ever.
    later_s = now_s + 1 + SETTINGS.eject_max_s
    assert [case.health.admits(later_s) for _ in range(2)] == [True, False]


def test_a_probe_that_nobody_sends_leaves_it_waiting() -> None:
    case = Case()
    now_s = probing(case)
    assert case.health.next_s == inf
    case.health.look(now_s + 1_000)
    assert case.health.state is Health.PROBING


def test_what_was_asked_before_the_probe_decides_nothing() -> None:
    case = Case()
    now_s = probing(case)
    early_s = now_s - 5
    case.health.timed_out(asked_s=early_s, now_s=now_s)
    case.health.answered("00", issuer="", asked_s=early_s, now_s=now_s, others_up=True)
    assert case.health.state is Health.PROBING


@pytest.mark.parametrize("how", ["timed out", "96", "link lost", "link suspect"])
def test_a_failed_probe_doubles_the_ejection(how: str) -> None:
    case = Case()
    now_s = probing(case)
    case.health.admits(now_s)
    if how == "timed out":
        case.health.timed_out(asked_s=now_s, now_s=now_s)
    elif how == "96":
        case.answer("96", now_s)
    else:
        case.health.links(now_s, usable=0, suspect=int(how == "link suspect"), lost=1)
    assert case.health.state is Health.DOWN
    assert case.health.ejected_until_s == pytest.approx(now_s + 2.0)


def test_a_probe_that_is_lost_with_one_link_of_two_has_failed() -> None:
    case = Case()
    now_s = probing(case)
    case.health.links(now_s, usable=2, suspect=0)
    case.health.links(now_s, usable=1, suspect=0, lost=1)  # before there was a probe
    assert case.health.state is Health.PROBING
    case.health.admits(now_s)
    case.health.links(now_s, usable=1, suspect=0)
    assert case.health.state is Health.PROBING
    case.health.links(now_s, usable=1, suspect=0, lost=1)
    assert case.health.state is Health.DOWN
    assert case.health.ejected_until_s == pytest.approx(now_s + 2.0)


def test_a_link_that_ends_before_the_probe_is_no_failure() -> None:
    case = Case()
    now_s = probing(case) + 30
    case.health.links(now_s, usable=0, suspect=0)
    assert case.health.state is Health.DOWN
    case.health.links(now_s + 1, usable=1, suspect=0)
    assert case.health.state is Health.PROBING


def test_91_proves_a_mute_acquirer_alive_and_a_sick_one_not() -> None:
    case = Case()
    case.answer("91", probing(case))
    assert case.health.state is Health.UP
    sick = Case()
    sick.up()
    for number in range(20):
        sick.answer("91", 1.0, issuer=BANKS[number % 4])
    assert sick.health.ejected_until_s is not None
    sick.health.look(2.0)
    assert sick.health.state is Health.PROBING
    sick.answer("91", 2.0)
    assert sick.health.state is Health.DOWN
    sick.health.look(5.0)
    sick.answer("91", 5.0)
    assert sick.health.state is Health.DOWN
    sick.health.look(20.0)
    # Nobody else is left: better an upstream that answers 91 than none.
    sick.answer("91", 20.0, others_up=False)
    assert sick.health.state is Health.UP


def test_slow_start_is_even_and_exact() -> None:
    case = Case()
    start_s = probing(case)
    case.answer("00", start_s)
    shares = []
    for second in range(10):
        asked = [start_s + second + number / 1_000 for number in range(1_000)]
        shares.append(sum(case.health.admits(now_s) for now_s in asked) / 1_000)
    assert shares == pytest.approx([0.145 + 0.09 * second for second in range(10)], abs=0.002)
    assert all(case.health.admits(start_s + 10.0) for _ in range(50))
    assert case.health.share == 1.0


def test_no_slow_start_of_a_suspicion_that_ended() -> None:
    case = Case()
    case.answer("00", probing(case))
    for _ in range(5):
        case.health.admits(12.0)
    share = case.health.share
    case.health.links(12.0, usable=0, suspect=1)
    case.health.links(12.1, usable=1, suspect=0)
    assert case.health.share == share < 1  # the one under way goes on


def test_time_outs_in_a_row_eject_and_an_answer_between_them_does_not() -> None:
    case = Case()
    health = case.up()
    for _ in range(10):
        health.timed_out(asked_s=1.0, now_s=2.0)
        health.timed_out(asked_s=1.0, now_s=2.0)
        case.answer("51", 2.0)
    assert health.state is Health.UP
    for _ in range(3):
        health.timed_out(asked_s=1.0, now_s=2.0)
    assert (health.state, health.why) == (Health.DOWN, "3 time-outs in a row")


def test_96_counts_whatever_the_bank() -> None:
    case = Case()
    health = case.up()
    for number in range(19):
        case.answer("96", 1.0 + number / 100)
    assert health.state is Health.UP  # too few to say
    case.answer("96", 1.3)
    assert health.state is Health.DOWN
    assert health.why == "its last 20 answers were all 91 or 96"


def test_one_banks_outage_ejects_no_acquirer() -> None:
    case = Case()
    health = case.up()
    for number in range(500):  # 80 % of the traffic is one bank's, and it is out
        bank = BANKS[0] if number % 5 else BANKS[1 + number % 3]
        case.answer("91" if bank == BANKS[0] else "00", 1.0 + number / 100, issuer=bank)
    assert health.state is Health.UP


def test_91_of_most_banks_is_the_acquirers_fault() -> None:
    case = Case()
    health = case.up()
    for number in range(20):
        case.answer("91", 1.0, issuer=BANKS[number % 2])
    assert health.state is Health.UP  # two banks only
    for number in range(20):
        case.answer("91", 1.0, issuer=BANKS[number % 3])
    assert health.state is Health.DOWN


def test_the_last_one_standing_is_never_ejected_for_answers() -> None:
    case = Case()
    health = case.up()
    for _ in range(200):
        case.answer("96", 1.0, others_up=False)
    assert health.state is Health.UP
    case.answer("96", 1.0, others_up=True)
    assert health.state is Health.DOWN


def test_old_answers_leave_the_window() -> None:
    window = AnswerWindow(SETTINGS)
    for _ in range(20):
        window.add("96", "400000", 0.0)
    assert window.verdict()
    window.add("00", "400000", 5.1)
    assert window.verdict()
    window.add("00", "400000", 10.3)
    assert not window.verdict()
    for _ in range(20):
        window.add("96", "400000", 11.0)
    assert window.verdict()
    window.add("00", "400000", 100.0)
    assert not window.verdict()


def test_the_window_is_bounded() -> None:
    window = AnswerWindow(SETTINGS)
    for number in range(10_000):
        window.add("96", f"{number:06d}", 0.0)
    assert len(window._now.issuers) == 2_001
    assert window.verdict() == "10000 of its last 10000 answers were 91 or 96"


def test_every_change_is_told_once_and_says_why() -> None:
    case = Case()
    now_s = probing(case)
    case.answer("00", now_s)
    assert [(before.value, after.value) for before, after, _ in case.changes] == [
        ("down", "up"),
        ("up", "suspect"),
        ("suspect", "down"),
        ("down", "probing"),
        ("probing", "up"),
    ]
    assert all(why for _, _, why in case.changes)


def test_bad_answers_in_a_row_count_before_they_are_half_of_the_window() -> None:
    health = UpstreamHealth(Settings(answers_min=20), random=lambda: 0.5)
    health.links(0.0, usable=1, suspect=0)
    for number in range(1_000):
        now_s = number * 0.005
        health.answered("00", issuer="999999", asked_s=now_s, now_s=now_s, others_up=True)
    for number in range(20):
        assert health.state is Health.UP
        health.answered("96", issuer="999999", asked_s=5.0, now_s=5.0 + number, others_up=True)
    assert health.state is Health.DOWN
    assert "last 20 answers" in health.why


def test_one_bank_that_is_out_in_a_row_is_not_the_acquirer() -> None:
    health = UpstreamHealth(Settings(answers_min=20, issuers_min=3), random=lambda: 0.5)
    health.links(0.0, usable=1, suspect=0)
    for _ in range(500):
        health.answered("91", issuer="999999", asked_s=5.0, now_s=5.0, others_up=True)
    assert health.state is Health.UP
    for issuer in ("888888", "777777"):
        health.answered("91", issuer=issuer, asked_s=5.0, now_s=5.0, others_up=True)
    assert health.state is Health.DOWN
