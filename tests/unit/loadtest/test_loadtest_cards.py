"""Simulated cards are valid, of no issuer, one terminal's own, and the same for a seed."""

import re
from itertools import pairwise

import pytest

from loadtest.addresses import HostPort, NotLoopback, loopback
from loadtest.cards import TEST_BIN, Shop, luhn_digit


def shop(number: int = 1, seed: int = 1) -> Shop:
    return Shop(seed=seed, number=number, amount_min_minor=100, amount_max_minor=25_000)


@pytest.mark.parametrize(
    ("number", "digit"), [("7992739871", "3"), ("411111111111111", "1"), ("0", "0")]
)
def test_luhn_digit(number: str, digit: str) -> None:
    assert luhn_digit(number) == digit


def test_cards_are_valid_and_of_the_test_range() -> None:
    for sequence in range(1, 50):
        basket = shop(number=20_000).basket(sequence)
        assert re.fullmatch(TEST_BIN + "[0-9]{10}", basket.pan)
        assert luhn_digit(basket.pan[:-1]) == basket.pan[-1]
        assert 100 <= basket.amount_minor <= 25_000
        assert basket.pan not in repr(basket)


def test_no_two_terminals_share_a_card() -> None:
    cards = [{shop(number=n).basket(s).pan for s in range(20)} for n in (1, 2, 10, 20)]
    assert all(len(own) > 1 for own in cards)
    assert all(not one & other for one, other in pairwise(cards))


def test_the_same_seed_buys_the_same_and_another_seed_does_not() -> None:
    def amounts(seed: int) -> list[int]:
        return [shop(seed=seed).basket(s).amount_minor for s in range(20)]

    assert amounts(1) == amounts(1)
    assert amounts(1) != amounts(2)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8101", HostPort("127.0.0.1", 8101)),
        ("localhost:80", HostPort("127.0.0.1", 80)),
        ("127.9.9.9:1", HostPort("127.9.9.9", 1)),
        ("[::1]:443", HostPort("::1", 443)),
    ],
)
def test_loopback_addresses_are_taken(text: str, address: HostPort) -> None:
    assert loopback(text) == address


@pytest.mark.parametrize("text", ["10.0.0.1:80", "example.org:80", "0.0.0.0:80", "[2001:db8::1]:1"])
def test_other_machines_are_not_loaded(text: str) -> None:
    with pytest.raises(NotLoopback):
        loopback(text)
