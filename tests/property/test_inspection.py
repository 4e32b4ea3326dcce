"""Looking into messages: any bytes are read without a crash, and card numbers are never shown."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.inspection import context, meaning, meaning_of_mti, read, shown
from gateway.wire.message import Message

DIALECTS = shipped_dialects()
few = settings(deadline=None, max_examples=25)


@few
@given(data=st.binary(min_size=1, max_size=120))
def test_any_bytes(data: bytes) -> None:
    reading = read([data], DIALECTS.values())
    assert reading.prefix + reading.tpdu + reading.header == data[: reading.start]
    assert reading.start <= reading.error_position <= len(data)
    meaning_of_mti(reading.message)
    for number, value in reading.message.fields.items():
        meaning(number, value)
        assert shown(number, value).isprintable()
    assert len(context(reading, unmasked=False)) <= len("the end")


@few
@given(
    name=st.sampled_from(sorted(DIALECTS)),
    pan=st.text("123456789", min_size=13, max_size=19),
    cut=st.integers(0, 6),
)
def test_a_card_number_is_never_shown_whole(name: str, pan: str, cut: int) -> None:
    message = Message("0200", {2: pan, 3: "000000", 11: "000001", 41: "T0000001"})
    body = Codec(DIALECTS[name]).encode(message)
    for dialects in (DIALECTS.values(), [DIALECTS[name]]):
        reading = read([body[: len(body) - cut]], dialects)
        fields = reading.message.fields.items()
        told = " ".join(shown(number, value) for number, value in fields)
        told += context(reading, unmasked=False) + str(reading.error)
        assert pan not in told
        assert pan[6:] not in told
