"""Keys and MACs in messages that others published, by the very parts that serve the wire."""

from __future__ import annotations

import json

import pytest

from gateway.keys.message_security import KeyForm, MacScheme
from gateway.keys.records import KeyAlgorithm, KeyPurpose
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.macs import MacPlace
from gateway.wire.message import Kind, kind_of
from gateway.wire.requirements import requirement_of
from gateway.wire.working_keys import SIZES, as_bytes, packed, unpacked
from tests.conformance.crypto import VECTORS
from tests.conformance.published import RECORDS
from tests.support.message_keys import record, software, stored

pytestmark = pytest.mark.skipif(
    not (VECTORS.is_file() and RECORDS.is_file()),
    reason="the folder of published messages is not beside this checkout",
)

CODEC = Codec(shipped_dialects()["unionpay_pos"])
_HEAD_BYTES = 2 + 5 + 6  # length, TPDU, header


def published(name: str) -> bytes:
    """The bytes of a published message."""
    with RECORDS.open(encoding="utf-8") as lines:
        found = next(one for one in map(json.loads, lines) if one["id"] == name)
    return bytes.fromhex(found["hex"])


def vector(name: str) -> dict[str, str]:
    """The inputs of a published vector, and what comes of it."""
    everything = json.loads(VECTORS.read_text(encoding="utf-8"))
    found = next(one for one in everything if one["id"] == name)
    return {**found["inputs"], "expected": found["expected"]}


def zone_master() -> bytes:
    parts = [vector(f"java8583-zmk-part{number}-kcv")["component"] for number in (1, 2)]
    first, second = (bytes.fromhex(part) for part in parts)
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def test_the_answer_to_a_sign_on_holds_two_keys_and_their_check_values() -> None:
    wire = published("cup-java8583-0810-keys")
    answer = CODEC.decode(wire[_HEAD_BYTES:])
    field = as_bytes(answer.get(62), CODEC.dialect, 62)
    length, count = SIZES[len(field)]
    assert (length, count, answer.get(60)[8:11]) == (16, 2, "003")
    keys = unpacked(field, [length] * count)
    assert [len(key.check_value) for key in keys] == [4, 4]
    assert packed(keys) == field
    assert requirement_of(wire[7:_HEAD_BYTES]) == 0


def test_published_keys_come_out_under_their_master_with_their_check_values() -> None:
    security = software()
    master = stored(zone_master(), KeyPurpose.TERMINAL_MASTER, KeyAlgorithm.TDES_2)
    field = bytes.fromhex(
        vector("java8583-pik-kcv")["de62_pik"] + vector("java8583-mak-kcv")["de62_mak"]
    )
    for carried, purpose in zip(
        unpacked(field, [16, 16]), (KeyPurpose.PIN, KeyPurpose.MAC), strict=True
    ):
        as_ = record(purpose, KeyAlgorithm.TDES_2)
        key = security.import_under(carried.wrapped, master, KeyForm.ECB, as_=as_)
        assert security.check_value_of(key, 4) == carried.check_value


def test_the_mac_of_a_published_reversal_verifies() -> None:
    """A real 0400, MTI to DE63, with its X9.19 MAC in DE64."""
    given = vector("x919-java8583-0400")
    body = bytes.fromhex(given["mab"] + given["expected"])
    reversal = CODEC.decode(body)
    assert kind_of(reversal) is Kind.REVERSAL
    covered = MacPlace(CODEC).covered(reversal)
    assert covered is not None
    security = software()
    master = stored(zone_master(), KeyPurpose.TERMINAL_MASTER, KeyAlgorithm.TDES_2)
    (carried,) = unpacked(bytes.fromhex(vector("java8583-mak-kcv")["de62_mak"]), [16])
    as_ = record(KeyPurpose.MAC, KeyAlgorithm.TDES_2)
    key = security.import_under(carried.wrapped, master, KeyForm.ECB, as_=as_)
    assert security.verify_mac(key, MacScheme.X9_19, *covered)
    assert not security.verify_mac(key, MacScheme.X9_19, covered.data[:-1] + b"\0", covered.mac)


def test_a_mac_of_digits_stands_where_unionpay_has_it() -> None:
    body = published("cup-halo-0400")[_HEAD_BYTES:]
    covered = MacPlace(CODEC).covered(CODEC.decode(body))
    assert covered == (body[:-8], b"3BF75488")
