"""Key blocks: what is made is read, and garbage is an operator's error and nothing else."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import OperatorError
from gateway.keys import key_block
from gateway.keys.key_block import Header
from gateway.keys.records import KeyAlgorithm

PROTECTION = {
    KeyAlgorithm.TDES_2: "B",
    KeyAlgorithm.TDES_3: "B",
    KeyAlgorithm.AES_128: "D",
    KeyAlgorithm.AES_192: "D",
    KeyAlgorithm.AES_256: "D",
}
MASTER = bytes(range(1, 33))

words = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=1)
protections = st.sampled_from(list(PROTECTION))
optional = st.lists(
    st.text("0123456789ABCDEFabcdefxyz-._", max_size=60).map(
        lambda data: f"KP{len(data) + 4:02X}{data}"
    ),
    max_size=4,
)


@st.composite
def headers(draw: st.DrawFn, version: str) -> Header:
    blocks = draw(optional)
    return Header(
        version=version,
        usage=draw(words) + draw(words),
        algorithm=draw(words),
        mode=draw(words),
        key_version=draw(words) + draw(words),
        exportability=draw(words),
        optional="".join(blocks),
        optional_count=len(blocks),
    )


@given(data=st.data(), under=protections, key=st.binary(min_size=1, max_size=64))
def test_what_is_made_is_read(data: st.DataObject, under: KeyAlgorithm, key: bytes) -> None:
    header = data.draw(headers(PROTECTION[under]))
    protection = MASTER[: under.bytes]
    block = key_block.wrap(
        key, header, protection=protection, protected_by=under, random=secrets.token_bytes
    )
    assert key_block.parse(block) == header
    assert key_block.unwrap(block, protection=protection, protected_by=under) == (header, key)


@given(text=st.text(max_size=200), under=protections)
def test_garbage_is_an_operators_error(text: str, under: KeyAlgorithm) -> None:
    with pytest.raises(OperatorError):
        key_block.unwrap(text, protection=MASTER[: under.bytes], protected_by=under)


@given(
    version=st.sampled_from("ABCD"),
    count=st.integers(0, 99),
    body=st.text("0123456789ABCDEF", max_size=300),
    under=protections,
)
def test_so_is_what_looks_like_a_block(
    version: str, count: int, body: str, under: KeyAlgorithm
) -> None:
    block = f"{version}{16 + len(body):04d}P0AE00E{count:02d}00{body}"
    with pytest.raises(OperatorError):
        key_block.unwrap(block, protection=MASTER[: under.bytes], protected_by=under)


@given(
    at=st.integers(0, 200), other=st.characters(codec="ascii"), under=protections, key=st.binary()
)
def test_one_other_character_is_noticed(
    at: int, other: str, under: KeyAlgorithm, key: bytes
) -> None:
    header = Header(version=PROTECTION[under], usage="P0", algorithm="A", mode="E")
    protection = MASTER[: under.bytes]
    block = key_block.wrap(
        b"k" + key[:31], header, protection=protection, protected_by=under, random=bytes
    )
    at %= len(block)
    changed = block[:at] + other + block[at + 1 :]
    if at >= key_block.HEADER_CHARS and changed.upper() == block:
        return  # hexadecimal digits may be small
    if changed == block:
        return
    with pytest.raises(OperatorError):
        key_block.unwrap(changed, protection=protection, protected_by=under)
