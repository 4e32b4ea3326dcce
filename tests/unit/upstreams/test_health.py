"""The two tables of health: whole, closed, and the ones that the documents show."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from gateway.upstreams.health import (
    _LINK_MOVES,
    _LINK_STAYS,
    _UPSTREAM_MOVES,
    _UPSTREAM_STAYS,
    EJECTING,
    LINK_TRANSITIONS,
    UPSTREAM_TRANSITIONS,
    Health,
    LinkEvidence,
    UpstreamEvidence,
    link_diagram,
    upstream_diagram,
)

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "upstreams.md"
H, L, U = Health, LinkEvidence, UpstreamEvidence

LINKS = {
    # state: what each evidence leads to, in the order of LinkEvidence
    H.UP: (H.UP, H.UP, H.SUSPECT, H.UP, H.DOWN, H.UP, H.DOWN),
    H.SUSPECT: (H.SUSPECT, H.SUSPECT, H.SUSPECT, H.UP, H.DOWN, H.DOWN, H.DOWN),
    H.DOWN: (H.UP, H.PROBING, H.DOWN, H.DOWN, H.DOWN, H.DOWN, H.DOWN),
    H.PROBING: (H.PROBING, H.PROBING, H.SUSPECT, H.UP, H.DOWN, H.PROBING, H.DOWN),
}
UPSTREAMS = {
    # state: what each evidence leads to, in the order of UpstreamEvidence
    H.UP: (H.UP, H.SUSPECT, H.DOWN, H.DOWN, H.DOWN, H.UP, H.UP, H.UP),
    H.SUSPECT: (H.UP, H.SUSPECT, H.DOWN, H.DOWN, H.DOWN, H.SUSPECT, H.SUSPECT, H.SUSPECT),
    H.DOWN: (H.UP, H.DOWN, H.DOWN, H.DOWN, H.DOWN, H.PROBING, H.DOWN, H.DOWN),
    H.PROBING: (H.PROBING, H.DOWN, H.DOWN, H.DOWN, H.PROBING, H.PROBING, H.UP, H.DOWN),
}


def test_every_pair_of_state_and_evidence_has_exactly_one_entry() -> None:
    assert set(LINK_TRANSITIONS) == set(product(Health, LinkEvidence))
    assert set(UPSTREAM_TRANSITIONS) == set(product(Health, UpstreamEvidence))
    assert not [pair for pair in _LINK_MOVES if pair[1] in _LINK_STAYS[pair[0]]]
    assert not [pair for pair in _UPSTREAM_MOVES if pair[1] in _UPSTREAM_STAYS[pair[0]]]


@pytest.mark.parametrize(("state", "seen"), list(product(Health, LinkEvidence)))
def test_each_pair_of_a_link_leads_where_it_should(state: Health, seen: LinkEvidence) -> None:
    assert LINK_TRANSITIONS[state, seen] is LINKS[state][list(LinkEvidence).index(seen)]


@pytest.mark.parametrize(("state", "seen"), list(product(Health, UpstreamEvidence)))
def test_each_pair_of_an_upstream_leads_where_it_should(
    state: Health, seen: UpstreamEvidence
) -> None:
    following = UPSTREAM_TRANSITIONS[state, seen]
    assert following is UPSTREAMS[state][list(UpstreamEvidence).index(seen)]


def test_no_echo_makes_a_suspect_link_or_an_ejected_upstream_good_again() -> None:
    leaving = {seen for (state, seen), now in LINK_TRANSITIONS.items() if now is H.UP is not state}
    assert leaving == {L.READY, L.ANSWERED}
    rising = {
        (state, seen) for (state, seen), now in UPSTREAM_TRANSITIONS.items() if now is H.UP
    } - {(H.UP, seen) for seen in U}
    assert rising == {(H.SUSPECT, U.USABLE), (H.DOWN, U.USABLE), (H.PROBING, U.PROBE_ANSWERED)}


def test_an_upstream_without_a_link_is_down_and_only_faults_eject() -> None:
    for state in Health:
        assert UPSTREAM_TRANSITIONS[state, U.GONE] is H.DOWN
        assert UPSTREAM_TRANSITIONS[state, U.LOST] is H.DOWN
    assert U.GONE not in EJECTING
    assert {
        seen for (_, seen), now in UPSTREAM_TRANSITIONS.items() if now is Health.DOWN
    } >= EJECTING


def test_the_documents_show_these_tables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert link_diagram() in text
    assert upstream_diagram() in text
