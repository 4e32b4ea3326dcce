"""Whatever a field rule does to a request, its terminal finds its own values in the answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.boarding import BoardedTerminal
from gateway.settings.schema_upstreams import Upstream
from gateway.upstreams.adaptation import Adaptation
from gateway.wire.message import Message

FIELDS = (18, 26, 32, 33, 48, 60)
values = st.sampled_from(["1", "2", "3", "22000001"])
fields = st.dictionaries(st.sampled_from(FIELDS), values)
requests = st.builds(
    lambda found, terminal: Message("0200", {**found, 11: "000001", 41: terminal, 42: "M"}),
    fields,
    st.just("T0000001"),
)


@st.composite
def adaptations(draw: st.DrawFn) -> Adaptation:
    rules: dict[int, str] = draw(
        st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(["drop", "set", "map"]))
    )
    one_by_one = draw(st.booleans())
    identity: dict[str, object] = (
        {"knows_terminals": "one_by_one", "terminals_file": "t.csv"}
        if one_by_one
        else {"terminal_id": draw(st.sampled_from(["", "GW"]))}
    )
    settings = Upstream.model_validate(
        {
            "name": "bank",
            "addresses": ["127.0.0.1:1"],
            "dialect": "iso87_ascii",
            "plain": True,
            "fields": {
                "drop": [number for number, rule in rules.items() if rule == "drop"],
                "set": {number: draw(values) for number, rule in rules.items() if rule == "set"},
                "map": {
                    number: {draw(values): draw(values), "*": draw(values)}
                    for number, rule in rules.items()
                    if rule == "map"
                },
            },
            **identity,
        }
    )
    boarded = BoardedTerminal("U0000001", draw(st.sampled_from(["", "UM"])), "000009")
    return Adaptation(settings, {"T0000001": boarded})


@given(adaptations(), requests)
def test_an_echo_of_what_was_sent_is_what_the_terminal_sent(
    adaptation: Adaptation, request: Message
) -> None:
    before = dict(request.fields)
    sent = adaptation.outgoing(request)
    answer = Message("0210", {**sent.fields, 39: "00"})
    back = adaptation.incoming(answer, request=request, sent=sent)
    assert request.fields == before
    assert back.response_code == "00"
    # All that comes back is the terminal's own; what was dropped does not come back at all.
    assert {n: v for n, v in back.fields.items() if n != 39}.items() <= before.items()
    assert {11, 41, 42} <= back.fields.keys()


@given(adaptations(), requests, fields)
def test_what_an_upstream_says_of_its_own_stays(
    adaptation: Adaptation, request: Message, said: dict[int, str]
) -> None:
    sent = adaptation.outgoing(request)
    own = {n: f"upstream {v}" for n, v in said.items()}
    back = adaptation.incoming(Message("0210", {39: "00", **own}), request=request, sent=sent)
    assert back.fields == {39: "00", **own}


@given(adaptations(), requests)
def test_what_is_kept_is_adapted_as_the_request_was(
    adaptation: Adaptation, request: Message
) -> None:
    assert adaptation.outgoing(request) == adaptation.outgoing(Message("0200", request.fields))
