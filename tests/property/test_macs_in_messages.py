"""A MAC over whatever we write verifies when it is read, and over nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.message_security import MacScheme
from gateway.keys.records import KeyAlgorithm, KeyPurpose
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.macs import MacPlace
from gateway.wire.message import Message
from loadtest.zone_crypto import MACS, Sealing, new_key
from tests.support.message_keys import software, stored

SECURITY = software()
VALUE = new_key()
KEY = stored(VALUE, KeyPurpose.MAC, KeyAlgorithm.TDES_2)
DIALECTS = shipped_dialects()

fields = st.fixed_dictionaries(
    {11: st.from_regex(r"[0-9]{6}", fullmatch=True)},
    optional={
        2: st.from_regex(r"[0-9]{13,19}", fullmatch=True),
        3: st.from_regex(r"[0-9]{6}", fullmatch=True),
        4: st.from_regex(r"[0-9]{12}", fullmatch=True),
        22: st.from_regex(r"[0-9]{3}", fullmatch=True),
        41: st.from_regex(r"[A-Z0-9]{8}", fullmatch=True),
        52: st.from_regex(r"[0-9A-F]{16}", fullmatch=True),
    },
)


@pytest.mark.parametrize("name", ["iso87_ascii", "iso87_bcd", "iso87_ebcdic", "unionpay_pos"])
@pytest.mark.parametrize("scheme", sorted(MACS))
@given(values=fields, mti=st.sampled_from(["0200", "0210", "0400", "0420"]))
def test_both_sides_agree_on_every_message(
    name: str, scheme: str, values: dict[int, str], mti: str
) -> None:
    codec = Codec(DIALECTS[name])
    place, kind = MacPlace(codec), MacScheme(scheme)
    message = Message(mti, values)
    ours = place.sealed(message, lambda data: SECURITY.mac(KEY, kind, data))
    got = codec.decode(ours)
    covered = place.covered(got)
    assert covered is not None
    assert SECURITY.verify_mac(KEY, kind, *covered)
    if name != "iso87_ebcdic":  # the other side writes digits of a MAC in ASCII only
        assert Sealing(scheme, VALUE).body(codec, message) == ours
        assert Sealing(scheme, VALUE).fits(codec, got)
    # Written again, with a MAC of its own, it is the same message and verifies again.
    again = codec.decode(place.sealed(got, lambda data: SECURITY.mac(KEY, kind, data)))
    assert again.raw == ours


@given(values=fields, data=st.data())
def test_one_bit_that_changed_is_noticed(values: dict[int, str], data: st.DataObject) -> None:
    codec = Codec(DIALECTS["unionpay_pos"])
    place = MacPlace(codec)
    body = place.sealed(
        Message("0200", values), lambda part: SECURITY.mac(KEY, MacScheme.X9_19, part)
    )
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    spoilt = bytearray(body)
    spoilt[bit // 8] ^= 1 << bit % 8
    covered = place.covered(Message("0200", {64: ""}, bytes(spoilt)))
    assert covered is not None
    assert not SECURITY.verify_mac(KEY, MacScheme.X9_19, *covered)
