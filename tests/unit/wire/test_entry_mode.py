"""DE22 of each standard says how the card was read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.entry_mode import EntryMode, entry_mode
from gateway.wire.message import Message


@pytest.mark.parametrize(
    ("code", "mode"),
    [
        ("011", EntryMode.MANUAL),
        ("012", EntryMode.MANUAL),
        ("021", EntryMode.MAGSTRIPE),
        ("0210", EntryMode.MAGSTRIPE),  # four digits: one host's padding
        ("901", EntryMode.MAGSTRIPE),
        ("801", EntryMode.MAGSTRIPE),
        ("031", EntryMode.QR),
        ("042", EntryMode.QR),
        ("051", EntryMode.CHIP),
        ("951", EntryMode.CHIP),
        ("071", EntryMode.CONTACTLESS),
        ("911", EntryMode.CONTACTLESS),
        ("961", EntryMode.CONTACTLESS),
        ("982", EntryMode.CONTACTLESS),
        ("100", EntryMode.ON_FILE),
        ("810", EntryMode.ECOMMERCE),
        ("000", EntryMode.UNKNOWN),
        ("", EntryMode.UNKNOWN),
        # ISO 8583:1993, positions 5 (presence), 6 (card present), 7 (input mode)
        ("510101513344", EntryMode.CHIP),
        ("210101213344", EntryMode.MAGSTRIPE),
        ("M10101M13344", EntryMode.CONTACTLESS),
        ("51010X513344", EntryMode.CONTACTLESS),
        ("100050613344", EntryMode.ECOMMERCE),
        ("100040613344", EntryMode.ON_FILE),
        ("610101613344", EntryMode.MANUAL),
        ("310101313344", EntryMode.QR),
        ("000000000000", EntryMode.UNKNOWN),
    ],
)
def test_each_code_says_what_was_read(code: str, mode: EntryMode) -> None:
    assert entry_mode(Message("0200", {22: code})) is mode


def test_without_the_field_nothing_is_known() -> None:
    assert entry_mode(Message("0200", {})) is EntryMode.UNKNOWN


@given(st.text(max_size=14))
def test_whatever_a_terminal_writes_is_some_mode(code: str) -> None:
    assert entry_mode(Message("0200", {22: code})) in EntryMode
