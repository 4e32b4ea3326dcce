"""Chip data less the tags that hold a card: held against pyemv and against the layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyemv import tlv

from gateway.wire.emv import without_tags
from gateway.wire.sub_elements import Form, Layout, SubElementError, without

LAYOUT = Layout(55, Form.BER_TLV, is_hex=True)
NEVER = frozenset((b"\x57", b"\x5a", b"\x9f\x1f"))
plain = st.sampled_from(["57", "5A", "9F1F", "82", "9F36", "5F2A", "9F10"])
values = st.binary(max_size=140)


def encoded(tag: str, value: bytes) -> bytes:
    size = len(value)
    length = bytes((size,)) if size < 128 else bytes((0x81, size)) if size < 256 else b""
    return bytes.fromhex(tag) + (length or b"\x82" + size.to_bytes(2, "big")) + value


objects = st.recursive(
    st.builds(encoded, plain, values),
    lambda inner: st.builds(
        lambda tag, found: encoded(tag, b"".join(found)),
        st.sampled_from(["71", "72", "E1"]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=8,
)
chips = st.lists(objects, max_size=6).map(b"".join)


@given(chips)
def test_nothing_else_changes(chip: bytes) -> None:
    assert without_tags(chip, frozenset()) == chip
    left = without_tags(chip, NEVER)
    assert without_tags(left, NEVER) == left
    by_layout = LAYOUT.parse(chip.hex().upper())
    assert LAYOUT.write(by_layout) == chip.hex().upper()
    kept = without(by_layout, frozenset(tag.hex().upper() for tag in NEVER))
    assert LAYOUT.write(kept) == left.hex().upper()


@given(chips)
def test_what_is_left_holds_none_of_them(chip: bytes) -> None:
    def tags(found: dict[str, object]) -> set[str]:
        inside = [tags(value) for value in found.values() if isinstance(value, dict)]
        return set(found).union(*inside)

    left = tlv.decode(without_tags(chip, NEVER), flatten=False, simple=False)
    assert not tags(left) & {"57", "5A", "9F1F"}


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error_or_readable(data: bytes) -> None:
    try:
        without_tags(data, NEVER)
    except ValueError:
        with pytest.raises(SubElementError):
            LAYOUT.parse(data.hex())


@pytest.mark.parametrize(
    "chip", ["57", "5702AA", "9F", "9F36", "578201", "5780", "5784000000010A", "7103820299"]
)
def test_what_is_cut_off_is_not_guessed(chip: str) -> None:
    with pytest.raises(ValueError, match="a "):
        without_tags(bytes.fromhex(chip), NEVER)
