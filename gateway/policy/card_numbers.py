"""Tells text that holds something like a clear card number from text that does not."""

from __future__ import annotations

import re

_DIGITS_MIN, _DIGITS_MAX = 13, 19  # ISO/IEC 7812-1, and the longest that schemes use
# What people put between the groups of a card number.
_SEPARATORS = r"[ \t\u00a0._-]{1,3}"
_RUN = re.compile(rf"[0-9]+(?:{_SEPARATORS}[0-9]+)*")
_GROUP = re.compile("[0-9]+")
# Two dates in a remark have digits enough, and one pair in ten the right check digit.
_DATE = re.compile(r"(?<![0-9])(?:19|20|21)[0-9]{2}-(?:0[1-9]|1[0-2])-[0-3][0-9](?![0-9])")


def holds_card_number(text: str) -> bool:
    """Whether 13 to 19 digits of it, with or without separators, pass the Luhn check."""
    if sum(character.isdigit() for character in text) < _DIGITS_MIN:
        return False
    for run in _RUN.finditer(_DATE.sub("/", text)):
        groups = _GROUP.findall(run.group())
        for first in range(len(groups)):
            digits = ""
            for group in groups[first:]:
                digits += group
                if len(digits) > _DIGITS_MAX:
                    break
                if len(digits) >= _DIGITS_MIN and passes_luhn(digits):
                    return True
    return False


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) << (index & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
