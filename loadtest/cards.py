"""Cards: the card numbers and amounts that simulated terminals buy with, the same for a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

# No issuer has it: major industry 9 is for national use, and no country is numbered 999.
TEST_BIN = "999999"
TERMINALS_MAX = 999_999
_CARDS_PER_TERMINAL = 7
_EXPIRY = "4912"


@dataclass(frozen=True, slots=True)
class Basket:
    """What one customer brings to the till."""

    pan: str
    expiry: str  # YYMM
    amount_minor: int

    def __repr__(self) -> str:
        return f"<Basket {self.amount_minor}>"


class Shop:
    """The customers of one terminal; no two terminals meet the same card."""

    def __init__(
        self, *, seed: int, number: int, amount_min_minor: int, amount_max_minor: int
    ) -> None:
        if not 1 <= number <= TERMINALS_MAX:
            raise ValueError(f"terminal number {number} is not in 1 to {TERMINALS_MAX}")
        self._seed = seed
        self._number = number
        self._amounts_minor = (amount_min_minor, amount_max_minor)

    def basket(self, sequence: int) -> Basket:
        """The basket of the terminal's transaction with this number; asked again, the same."""
        random = Random(f"{self._seed}/{self._number}/{sequence}")
        return Basket(self._pan(sequence), _EXPIRY, random.randint(*self._amounts_minor))

    def _pan(self, sequence: int) -> str:
        # Without the seed: a terminal restarted under another one can still name the card.
        number = f"{TEST_BIN}{self._number:06d}{sequence % _CARDS_PER_TERMINAL:03d}"
        return number + luhn_digit(number)


def luhn_digit(number: str) -> str:
    """The check digit that follows a card number's other digits (ISO/IEC 7812-1, annex B)."""
    total = 0
    for position, digit in enumerate(reversed(number)):
        value = int(digit) * (1 if position % 2 else 2)
        total += value - 9 if value > 9 else value
    return str(-total % 10)
