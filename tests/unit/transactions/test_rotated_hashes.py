"""What is found again once the keys of card tokens and contents were rotated."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from gateway.keys.keyring import Key, Keyring
from gateway.keys.records import KeyPurpose
from gateway.keys.security_module import SoftwareSecurityModule
from gateway.policy.limits import Limits, Looking, Use, limit_rule
from gateway.policy.response_codes import Reason
from gateway.settings.schema_policy import Limit
from gateway.store.store import Transaction
from gateway.transactions.duplicates import same_content
from gateway.transactions.keyed_hashes import differ
from tests.support.stores import a_transaction

PAN, OTHER = "6228480000000001", "6228480000000019"
NOW_MS = 1_800_000_000_000


def module(versions: int, *, destroyed: int = 0) -> SoftwareSecurityModule:
    return SoftwareSecurityModule(
        Keyring(
            Key(
                purpose=purpose,
                version=version,
                active=version == versions,
                material=bytes([16 * number + version]) * 32,
            )
            for number, purpose in enumerate(
                (KeyPurpose.STORE_DATA, KeyPurpose.CARD_TOKEN, KeyPurpose.CONTENT)
            )
            for version in range(destroyed + 1, versions + 1)
        )
    )


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("1:a",), ("1:a",), False),
        (("1:a",), ("1:b",), True),
        (("2:x", "1:a"), ("1:a",), False),
        (("2:x", "1:a"), ("1:b",), True),
        (("2:x",), ("1:a",), False),  # nothing to compare
        ((), ("1:a",), False),
        (("3:z", "2:y"), ("2:y", "1:a"), False),
        (("3:z", "2:y"), ("2:n", "1:a"), True),
    ],
)
def test_only_hashes_under_one_version_say_anything(
    one: tuple[str, ...], other: tuple[str, ...], expected: bool
) -> None:
    assert differ(one, other) is expected
    assert differ(other, one) is expected


def drafted(security: SoftwareSecurityModule, pan: str, content: bytes) -> Transaction:
    return replace(
        a_transaction(1),
        card_token=security.card_token(pan),
        content=security.content_hash(content),
        former_card_tokens=security.former_card_tokens(pan),
        former_contents=security.former_content_hashes(content),
    )


def test_a_repeat_is_known_over_a_rotation_and_another_request_is_told_apart() -> None:
    # As the store has it: without what is not kept.
    before = replace(
        drafted(module(1), PAN, b"content"),
        former_card_tokens=(),
        former_contents=(),
    )
    for versions in (1, 2, 4):
        security = module(versions)
        assert same_content(before, drafted(security, PAN, b"content"))
        assert not same_content(before, drafted(security, OTHER, b"content"))
        assert not same_content(before, drafted(security, PAN, b"other"))
    # Once its key is destroyed nothing tells them apart any more: a repeat is taken for one.
    gone = module(2, destroyed=1)
    assert same_content(before, drafted(gone, OTHER, b"content"))


def test_where_nothing_was_rotated_nothing_is_computed() -> None:
    security = module(1)
    assert security.former_card_tokens(PAN) == ()
    assert security.former_content_hashes(b"x") == ()
    rotated = module(3)
    tokens = rotated.former_card_tokens(PAN)
    assert [token.partition(":")[0] for token in tokens] == ["2", "1"]
    assert tokens[1] == security.card_token(PAN)


def test_a_limit_goes_on_with_what_a_card_was_counted_as() -> None:
    rule = limit_rule(
        Limit(per="card", window="day", count_max=2),
        owner="profile retail",
        nth=0,
        rule="limits[0]",
        zone=ZoneInfo("UTC"),
        zone_name="UTC",
        day_starts="00:00",
    )
    limits = Limits()

    def use(number: int, security: SoftwareSecurityModule, pan: str = PAN) -> Use:
        subjects = ("T1", "M1", security.card_token(pan))
        return Use(number, subjects, "978", 100, security.former_card_tokens(pan))

    def take(one: Use) -> Reason | None:
        over = limits.take([rule], one, now_ms=NOW_MS)
        looked = Looking(limits)
        assert over is None or looked.take([rule], one, now_ms=NOW_MS) is not None
        return None if over is None else over.reason

    before, after = module(1), module(2)
    assert take(use(1, before)) is None
    assert take(use(2, after)) is None
    assert take(use(3, after)) is Reason.COUNT_LIMIT
    assert take(use(4, after, OTHER)) is None
    limits.give_back(1)
    assert take(use(5, after)) is None
