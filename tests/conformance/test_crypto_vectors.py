"""Vectors of cryptography that others published come out as their sources say."""

from __future__ import annotations

import pytest

from tests.conformance.crypto import VECTORS, Vector, crypto_outcome, out_of_scope, vectors

pytestmark = pytest.mark.skipif(
    not VECTORS.is_file(), reason="the folder of published vectors is not beside this checkout"
)


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["id"])
def test_comes_out_as_stated(vector: Vector) -> None:
    everything = {each["id"]: each for each in vectors()}
    outcome = crypto_outcome(vector, everything)
    assert outcome.as_it_should, outcome.text


def test_few_are_out_of_scope_and_each_says_why() -> None:
    left_out = {each["id"]: out_of_scope(each) for each in vectors() if out_of_scope(each)}
    assert len(left_out) <= 6, left_out
