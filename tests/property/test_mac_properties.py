"""A MAC verifies over the message that it was made over, and over no other."""

from __future__ import annotations

import hashlib

from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.keys.mac import ALGORITHMS
from gateway.keys.message_security import MacScheme
from gateway.keys.records import KeyAlgorithm, KeyPurpose
from tests.support.message_keys import software, stored

WAYS = [(scheme, each) for scheme in MacScheme for each in sorted(ALGORITHMS[scheme])]
# What folds a message by XOR does not see blocks that change places, or two equal changes: the
# scheme's own weakness, which no implementation mends. One change it sees.
ways = st.sampled_from(WAYS)
# Of the form that a module keeps: no weak key of DES, under which two blocks of zeros are none.
keys = st.binary(max_size=4).map(lambda seed: hashlib.sha256(seed).digest())
messages = st.binary(min_size=1, max_size=300)


@given(way=ways, value=keys, data=messages, before=messages)
def test_it_verifies_whatever_came_before(
    way: tuple[MacScheme, KeyAlgorithm], value: bytes, data: bytes, before: bytes
) -> None:
    scheme, algorithm = way
    key = stored(value[: algorithm.bytes], KeyPurpose.MAC, algorithm)
    mac = software().mac(key, scheme, data)
    used = software()
    used.mac(key, scheme, before)
    assert used.verify_mac(key, scheme, data, mac)


@given(way=ways, value=keys, data=messages, at=st.integers(0, 299), bit=st.integers(0, 7))
def test_one_changed_bit_of_the_message_is_noticed(
    way: tuple[MacScheme, KeyAlgorithm], value: bytes, data: bytes, at: int, bit: int
) -> None:
    scheme, algorithm = way
    key = stored(value[: algorithm.bytes], KeyPurpose.MAC, algorithm)
    module = software()
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    mac = module.mac(key, scheme, data)
    # Eight digits are 32 bits: one in 4e9 agrees by chance.
    assert not module.verify_mac(key, scheme, bytes(changed), mac)


@given(way=ways, value=keys, data=messages, at=st.integers(0, 7), bit=st.integers(0, 7))
def test_one_changed_bit_of_the_mac_is_noticed(
    way: tuple[MacScheme, KeyAlgorithm], value: bytes, data: bytes, at: int, bit: int
) -> None:
    scheme, algorithm = way
    key = stored(value[: algorithm.bytes], KeyPurpose.MAC, algorithm)
    module = software()
    mac = bytearray(module.mac(key, scheme, data))
    mac[at] ^= 1 << bit
    assert not module.verify_mac(key, scheme, data, bytes(mac))


@given(way=ways, one=keys, other=keys, data=messages)
def test_another_key_makes_another_mac(
    way: tuple[MacScheme, KeyAlgorithm], one: bytes, other: bytes, data: bytes
) -> None:
    scheme, algorithm = way
    assume(one != other)
    module = software()
    first, second = (
        stored(value[: algorithm.bytes], KeyPurpose.MAC, algorithm, version=version)
        for version, value in enumerate((one, other))
    )
    assert not module.verify_mac(second, scheme, data, module.mac(first, scheme, data))


@given(value=keys, data=messages, cut=st.integers(1, 300))
def test_a_cut_message_has_another_mac_under_schemes_that_mark_the_end(
    value: bytes, data: bytes, cut: int
) -> None:
    module = software()
    shorter = data[: max(0, len(data) - cut)]
    for scheme, algorithm in (
        (MacScheme.X9_19_PAD_2, KeyAlgorithm.TDES_2),
        (MacScheme.AES_CMAC, KeyAlgorithm.AES_128),
        (MacScheme.SM4_CMAC, KeyAlgorithm.SM4),
    ):
        key = stored(value[: algorithm.bytes], KeyPurpose.MAC, algorithm)
        assert module.mac(key, scheme, data) != module.mac(key, scheme, shorter)
