"""Messages that others published read as their sources say, and write back byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import ParseError
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame
from tests.conformance.published import RECORDS, Record, codec_of, outcome, records

pytestmark = pytest.mark.skipif(
    not RECORDS.is_file(), reason="the folder of published messages is not beside this checkout"
)


def of_kind(kind: str) -> list[Record]:
    return [record for record in records() if record.kind == kind]


@pytest.mark.parametrize("record", of_kind("good"), ids=lambda record: record.id)
def test_reads_as_stated_and_writes_the_same_bytes(record: Record, tmp_path: Path) -> None:
    codec = codec_of(record, tmp_path)
    for _ in range(2):  # by the reference, then by the layout that it learnt
        message = codec.decode(record.body)
        assert message.mti == record.expected.get("t", message.mti)
        values = {str(number): value for number, value in message.fields.items()}
        stated = {key: value for key, value in record.expected.items() if key in values}
        assert stated == record.stated_fields
        assert {key: values[key] for key in stated} == stated
        assert codec.encode(message) == record.body
        assert codec.encode(message.changed({})) == record.body
    assert codec.reference_decode(record.body) == message


@pytest.mark.parametrize("record", of_kind("negative"), ids=lambda record: record.id)
def test_what_cannot_be_read_is_refused_with_field_and_position(
    record: Record, tmp_path: Path
) -> None:
    codec = codec_of(record, tmp_path)
    with pytest.raises(ParseError) as caught:
        codec.decode(record.body)
    assert caught.value.field.isdigit()
    assert 0 < caught.value.position <= len(record.body)
    assert f"field {caught.value.field}, byte {caught.value.position}" in str(caught.value)


@pytest.mark.parametrize(
    "record",
    # Others were published without a length, or with one that does not fit.
    [record for record in of_kind("good") if record.prefix_bytes == 2 and record.length_holds],
    ids=lambda record: record.id,
)
def test_whole_frames_are_cut_and_made_again(record: Record) -> None:
    spec = FramingSpec(header_bytes=record.header_bytes)
    (frame,) = FrameReader(spec).feed(record.wire)
    assert encode_frame(spec, frame.body, header=frame.header) == record.wire


def test_the_table_says_of_each_what_became_of_it(tmp_path: Path) -> None:
    outcomes = [outcome(record, tmp_path) for record in records()]
    assert [result.as_it_should for result in outcomes] == [True] * len(outcomes)
