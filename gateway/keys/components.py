"""Components: a key that two or three people hold a part of each, none of which says anything."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.check_value import BYTES_MAX, CheckValueForm, agrees, check_value
from gateway.keys.records import KeyAlgorithm

COMPONENTS_MIN, COMPONENTS_MAX = 2, 3


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a key, as long as the key; `str` and `repr` do not show it."""

    algorithm: KeyAlgorithm
    clear: bytes = field(repr=False)

    @property
    def check_value(self) -> str:
        """What whoever entered it compares: six hex digits, as of a key."""
        return check_value(self.algorithm, self.clear).hex().upper()

    def __str__(self) -> str:
        return f"a component of check value {self.check_value}"


def read_component(text: str, stated: str, algorithm: KeyAlgorithm, *, where: str) -> Component:
    """A component from hex digits, held against its check value.

    `text` may have blanks and dashes in it; `stated` is the check value in 4 to 10 hex digits, for
    AES in either form that is in use.
    `where` says whose it is, for people. Raises OperatorError, which repeats neither.
    """
    digits = "".join(text.split()).replace("-", "")
    try:
        clear = bytes.fromhex(digits)
    except ValueError:
        raise OperatorError(
            f"{where}: not hex digits: enter {algorithm.bytes * 2} of 0-9 and A-F"
        ) from None
    if len(clear) != algorithm.bytes:
        raise OperatorError(
            f"{where}: {len(digits)} hex digits, and a component of {algorithm} has"
            f" {algorithm.bytes * 2}"
        )
    if not any(clear):
        raise OperatorError(f"{where}: all zeros: whoever has the others has the whole key")
    expected = stated_check_value(stated, where=where)
    try:
        right = any(agrees(expected, algorithm, clear, form=form) for form in CheckValueForm)
    except (KeyUnavailable, ValueError):
        right = False
    if not right:
        raise OperatorError(
            f"{where}: its check value is not the one stated: a digit is wrong, or the check value"
            " is another component's"
        )
    return Component(algorithm, clear)


def stated_check_value(text: str, *, where: str) -> bytes:
    """A check value as people write it, 4 to 10 hex digits; raises OperatorError."""
    digits = "".join(text.split())
    try:
        stated = bytes.fromhex(digits)
    except ValueError:
        stated = b""
    if not 2 <= len(stated) <= BYTES_MAX:
        raise OperatorError(
            f"{where}: a check value has 4 to {BYTES_MAX * 2} hex digits, mostly 6, such as 08D7B4"
        )
    return stated


def combine(components: Sequence[Component]) -> bytes:
    """The key: the components, byte by byte, by exclusive or.

    Raises OperatorError where there are not two or three, they are of different algorithms, two are
    equal (they would cancel each other out), or nothing is left of them.
    """
    if not COMPONENTS_MIN <= len(components) <= COMPONENTS_MAX:
        raise OperatorError(
            f"{len(components)} components: a key is entered in two or three, by as many people"
        )
    if len({one.algorithm for one in components}) != 1:
        raise OperatorError("the components are of different algorithms")
    for index, one in enumerate(components):
        for other in components[:index]:
            if hmac.compare_digest(one.clear, other.clear):
                raise OperatorError(
                    "two components are equal and cancel each other out: each person enters the"
                    " part that was given to them alone"
                )
    clear = bytes(
        functools.reduce(lambda left, right: left ^ right, column)
        for column in zip(*(one.clear for one in components), strict=True)
    )
    if not any(clear):
        raise OperatorError("the components cancel each other out: nothing is left of the key")
    return clear
