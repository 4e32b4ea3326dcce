"""What is kept of a message holds no track, PIN block or CVV, wherever the card hid it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transactions import images
from gateway.wire.message import Message

PAN = "9999991234567893"


@pytest.mark.parametrize(
    ("chip", "kept"),
    [
        ("9F36020001", "9F36020001"),
        ("5A089999991234567893" + "9F36020001", "9F36020001"),
        ("57109999991234567893D29121010000000F" + "9F36020001", "9F36020001"),
        # Within a constructed tag (70, a record template) as well.
        ("700F" + "5A089999991234567893" + "9F36020001", "70059F36020001"),
        ("9F6B139999991234567893D2912101000000000F0000", ""),
        # What cannot be read is not kept at all: it may hold anything.
        ("5A08999999123456", ""),
        ("not hex", ""),
        (PAN, ""),
    ],
)
def test_chip_data_is_kept_less_what_a_magstripe_would_hold(chip: str, kept: str) -> None:
    image = images.unpack(images.pack_request(Message("0200", {55: chip})))
    assert image.get(55) == kept


@given(st.binary(max_size=60))
def test_any_chip_data_is_kept_readable_or_not_at_all(data: bytes) -> None:
    image = images.unpack(images.pack_request(Message("0200", {55: data.hex().upper()})))
    assert bytes.fromhex(image.get(55)) is not None


def test_a_request_is_kept_by_an_allow_list() -> None:
    message = Message("0200", dict.fromkeys(range(2, 129), "1") | {55: ""})
    kept = set(images.unpack(images.pack_request(message)).fields)
    assert not kept & {34, 35, 36, 44, 45, 46, 47, 48, 52, 53, 61, 62, 63, 64, 128}
    assert {2, 3, 4, 7, 11, 32, 41, 42, 49} <= kept


def test_what_names_the_original_is_kept() -> None:
    message = Message("0220", {60: "32000001", 61: "0000010000010101", 90: "0" * 42})
    assert images.unpack(images.pack_request(message)).fields == message.fields
    card = Message("0220", {61: PAN})  # without a batch DE61 is no such reference
    assert images.unpack(images.pack_request(card)).fields == {}


def test_an_answer_is_kept_whole_but_for_what_must_not_be() -> None:
    answer = Message(
        "0210", {2: PAN, 35: "track", 38: "123456", 39: "00", 45: "t", 52: "p", 63: "x"}
    )
    kept = images.unpack(images.pack_answer(answer))
    assert kept.fields == {2: PAN, 38: "123456", 39: "00", 63: "x"}


def test_images_of_two_transactions_have_different_contexts() -> None:
    assert images.context_of(1) != images.context_of(2)
