"""No card number gets past the last look, and what only resembles one stays readable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.redact import (
    VALUE_CHARACTERS_MAX,
    mask_card_numbers,
    passes_luhn,
    printable,
    redact,
    tame,
)

PAN = "4111111111111111"
MASKED = "411111******1111"


def card_number(body: str) -> str:
    return next(body + str(digit) for digit in range(10) if passes_luhn(body + str(digit)))


def redacted(**fields: object) -> dict[str, object]:
    redact(fields)
    return fields


@given(
    st.text("0123456789", min_size=12, max_size=18),
    st.text("ab:/ -=D", max_size=8),
    st.text("xy. -=D", max_size=8),
)
def test_a_card_number_in_text_is_masked(body: str, before: str, after: str) -> None:
    number = card_number(body)
    shown = redacted(reason=before + number + after)["reason"]
    assert isinstance(shown, str)
    assert number not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (PAN, MASKED),
        ("4111 1111 1111 1111", MASKED),
        ("4111-1111-1111-1111", MASKED),
        ("12 4111 1111 1111 1111", "124111********1111"),
        (f"track {PAN}=25121011", f"track {MASKED}=25121011"),
        (f"track {PAN}D25121011", f"track {MASKED}D25121011"),
        (PAN + "251210110000", "411111******************0000"),
        ("1 " * 80, "111111" + "*" * 70 + "1111 "),
        ("4111111111111112", "4111111111111112"),
        ("411111111111", "411111111111"),
        ("2026-11-21T20:33:54.125Z", "2026-11-21T20:33:54.125Z"),
        ("127.0.0.1:53122", "127.0.0.1:53122"),
    ],
)
def test_runs_of_digits(text: str, shown: str) -> None:
    assert mask_card_numbers(text) == shown


def test_numbers_that_are_not_card_numbers_stay() -> None:
    fields: dict[str, object] = {
        "rrn": "630512345678",
        "merchant_id": "311111111111117",
        "transaction_id": int(PAN),
        "sent_ms": int(PAN),
        "amount_minor": 999_999_999_999,
        "seconds": 0.0012,
        "resumed": True,
        "upstream": None,
    }
    assert passes_luhn("311111111111117") is (
        redacted(x="311111111111117")["x"] != fields["merchant_id"]
    )
    assert redacted(**fields) == fields


def test_other_values() -> None:
    assert redacted(number=int(PAN))["number"] == MASKED
    assert redacted(raw=PAN.encode())["raw"] == "[16 bytes]"
    assert redacted(pan="1")["pan"] == "[hidden]"
    assert redacted(inner={"track_2": "x", "list": [PAN, {"deep": PAN}]})["inner"] == {
        "track_2": "[hidden]",
        "list": [MASKED, {"deep": MASKED}],
    }
    assert redacted(reason=ValueError(f"bad {PAN}"))["reason"] == f"bad {MASKED}"
    assert redacted(huge=1 << 70)["huge"] == "[integer of 71 bits]"
    assert redacted(event="x", time=1, node="y", level=2) == {
        "event_": "x",
        "time_": 1,
        "node_": "y",
        "level_": 2,
    }


def test_long_values_are_cut_and_card_numbers_at_the_cut_are_masked() -> None:
    text = "x" * (VALUE_CHARACTERS_MAX - 14) + PAN + "y" * 10_000
    shown = redacted(reason=text)["reason"]
    assert isinstance(shown, str)
    assert len(shown) < VALUE_CHARACTERS_MAX + 50
    assert "411111****" in shown
    assert "41111111" not in shown
    # A safe name is no way round it.
    assert redacted(merchant_id="x" * 100 + PAN)["merchant_id"] == "x" * 100 + MASKED


def test_a_value_that_cannot_be_shown() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert tame(Broken()) == "<Broken>"
    assert tame("\ud800") == "\\ud800"
    loop: list[object] = []
    loop.append(loop)
    assert "..." in str(tame(loop))


@given(st.text())
def test_printable_is_printable_ascii(text: str) -> None:
    shown = printable(text)
    assert shown.isascii()
    assert shown.isprintable()
