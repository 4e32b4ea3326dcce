"""Terminal -> upstream -> terminal, for every pair of dialects: nothing changes in silence."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import EncodeError
from gateway.settings.schema_upstreams import Upstream
from gateway.upstreams.adaptation import Adaptation, CannotAdapt
from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect, shipped_dialects
from gateway.wire.dialect_meaning import NATIVE
from gateway.wire.editions import codec_of
from gateway.wire.message import Message, response_mti
from gateway.wire.translation import Translation

NOW_MS = 1_795_350_000_000  # 22 November 2026
DIALECTS = shipped_dialects()
CODECS = {name: codec_of(dialect, lambda: NOW_MS) for name, dialect in DIALECTS.items()}
AS_WRITTEN = {name: Codec(dialect) for name, dialect in DIALECTS.items()}
TRANSLATIONS = {
    (one, other): Translation(DIALECTS[one], DIALECTS[other])
    for one in DIALECTS
    for other in DIALECTS
    if one != other
}
# What no request is about, or what only one of the two sides sees.
NOT_ASKED = {39, 64, 128}


def adaptation(name: str) -> Adaptation:
    upstream = Upstream.model_validate(
        {"name": "bank", "addresses": ["127.0.0.1:1"], "dialect": name, "plain": True}
    )
    return Adaptation(upstream, {}, DIALECTS)


ADAPTATIONS = {name: adaptation(name) for name in DIALECTS}


def values(dialect: Dialect, number: int) -> st.SearchStrategy[str]:
    """Values that a sender of this dialect may write."""
    keys: dict[str, Any] = dialect.spec[str(number)]
    kind = dialect.fields[number].type
    longest = keys["max_len"]
    shortest = 0 if keys["len_type"] else longest
    longest = max(shortest, min(longest, 24))
    packed = keys["data_enc"] == "b"
    if kind == "x+n":
        sign = st.sampled_from("CD")
        if not packed:
            digits = st.text("0123456789", min_size=longest - 1, max_size=longest - 1)
            return st.builds(lambda a, b: a + b, sign, digits)
        text = dialect.spec["42"]["data_enc"]
        digits = st.text("0123456789", min_size=2 * longest - 2, max_size=2 * longest - 2)
        return st.builds(lambda a, b: a.encode(text).hex().upper() + b, sign, digits)
    if keys.get("len_count") == "nibbles" or (kind == "n" and not packed):
        letters = "0123456789D" if kind == "z" else "0123456789"
        return st.text(letters, min_size=shortest, max_size=longest)
    if packed:
        return st.binary(min_size=shortest, max_size=longest).map(lambda data: data.hex().upper())
    if kind == "b" or number == 55:
        pairs = st.binary(min_size=shortest // 2, max_size=longest // 2)
        return pairs.map(lambda data: data.hex().upper())
    if kind == "z":
        return st.text("0123456789=", min_size=shortest, max_size=longest)
    letters = " 0123456789AZaz=D^-" + ("é[" if keys["data_enc"] == "cp037" else "")
    return st.text(letters, min_size=shortest, max_size=longest)


@st.composite
def messages(draw: st.DrawFn, dialect: Dialect) -> Message:
    """A request as a terminal of this dialect writes it, in its own edition's terms."""
    known = sorted(dialect.fields.keys() - NOT_ASKED)
    numbers = draw(st.lists(st.sampled_from(known), unique=True, max_size=14))
    mti = draw(st.sampled_from(["0100", "0200", "0220", "0800"]))
    if dialect.meaning.edition == "1993":
        mti = "1" + mti[1:]
    return Message(mti, {n: draw(values(dialect, n)) for n in sorted(numbers)})


def carried(request: Message, terminal: str, upstream: str) -> tuple[Message, Message, set[int]]:
    """The request as far as it can be carried, as it is sent, and the fields that errors named."""
    named: set[int] = set()
    while True:
        try:
            return request, ADAPTATIONS[upstream].outgoing(request, terminal), named
        except CannotAdapt as error:
            why = str(error)
        found = re.search(r"DE(\d+): ", why)
        assert found, why
        number = int(found[1])
        # Of 1993, what was read is kept beside.
        of_request = {number, NATIVE + number} & request.fields.keys()
        assert of_request, why
        named.add(number)
        request = request.without(of_request)


@pytest.mark.parametrize("terminal", DIALECTS)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_both_sides_know_comes_back(terminal: str, data: st.DataObject) -> None:
    written = data.draw(messages(DIALECTS[terminal]))
    raw = AS_WRITTEN[terminal].encode(written)
    whole = CODECS[terminal].decode(raw)
    for upstream in DIALECTS:
        request, sent, named = carried(whole, terminal, upstream)
        received = CODECS[upstream].decode(CODECS[upstream].encode(sent))
        echo = Message(response_mti(received.mti), {**received.fields, 39: "00"})
        answer = CODECS[upstream].decode(CODECS[upstream].encode(echo))
        back = ADAPTATIONS[upstream].incoming(answer, request=request, sent=sent, dialect=terminal)
        reply = Message(response_mti(request.mti), back.fields)
        told = AS_WRITTEN[terminal].decode(CODECS[terminal].encode(reply))
        for number, value in written.fields.items():
            if told.get(number) == value and number in told:
                continue
            assert number not in told, f"{terminal} -> {upstream}: DE{number} was changed"
            ruled = number in named or left_out(terminal, upstream, number, written)
            assert ruled, f"{terminal} -> {upstream}: DE{number} was lost"


def left_out(terminal: str, upstream: str, number: int, written: Message) -> bool:
    """Whether a rule says that the field does not reach this upstream."""
    if terminal == upstream:
        return False
    translation = TRANSLATIONS[terminal, upstream]
    if any(one.number == number and one.effect == "left out" for one in translation.differences()):
        return True
    editions = DIALECTS[terminal].meaning.edition, DIALECTS[upstream].meaning.edition
    if editions == ("1987", "1993"):
        return number == 13 and 12 not in written
    if editions == ("1993", "1987"):
        # Of 1993 alone: the effective date, the reason, and references and amounts of its own.
        return number in (13, 25, 90, 95)
    return False


@pytest.mark.parametrize("terminal", DIALECTS)
def test_every_field_of_every_pair_is_carried_or_named(terminal: str) -> None:
    for upstream in DIALECTS:
        if upstream == terminal:
            continue
        known = {one.number for one in TRANSLATIONS[terminal, upstream].differences()}
        for number in DIALECTS[terminal].fields:
            assert number in DIALECTS[upstream].fields or number in known


def test_what_cannot_be_written_there_is_an_error_that_names_the_field() -> None:
    request = Message("0200", {3: "000000", 4: "000000000100", 43: "商店".ljust(38)})
    with pytest.raises(CannotAdapt, match=r"DE43: character 1 \(U\+5546\) is not in ascii"):
        ADAPTATIONS["iso87_ascii"].outgoing(request, "unionpay_pos")
    with pytest.raises(CannotAdapt, match=r"DE45: dialect unionpay_pos has no such field"):
        ADAPTATIONS["unionpay_pos"].outgoing(Message("0200", {45: "B4761"}), "iso87_ascii")
    with pytest.raises(EncodeError, match="43"):
        CODECS["iso87_ascii"].encode(request)
