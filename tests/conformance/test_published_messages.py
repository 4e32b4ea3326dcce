"""Messages that others published read as their sources say, and write back byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.wire.codec import Codec
from gateway.wire.dialect import SHIPPED, load_dialect, shipped_dialects
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame

# The records belong to their sources: they are read in place, never copied here.
RECORDS = Path(__file__).resolve().parents[3] / "shared" / "domain" / "messages.jsonl"

pytestmark = pytest.mark.skipif(
    not RECORDS.is_file(), reason="the folder of published messages is not beside this checkout"
)


def records() -> list[Any]:
    if not RECORDS.is_file():
        return []
    lines = map(json.loads, RECORDS.read_text(encoding="utf-8").splitlines())
    return [record for record in lines if record["kind"] == "good" and record["dialect"] in SHIPPED]


def codec_of(record: Any, folder: Path) -> Codec:
    """The record's dialect; where it deviates, one that extends it accordingly."""
    lines = []
    for number, deviation in record["overrides"].items():
        keys = {key: deviation[key] for key in ("type", "max", "len") if key in deviation}
        if deviation.get("data_enc") in ("binary", "bcd"):
            keys["data_enc"] = "b"
        if deviation.get("unit") == "digits":
            keys["len_count"] = "nibbles"
        if deviation.get("odd") == "left0":
            keys["left_pad"] = "0"
        if keys:
            table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
            lines.append(f"{number} = {{ {table} }}")
    if not lines:
        return Codec(shipped_dialects()[record["dialect"]])
    file = folder / "deviating.toml"
    # One source wrote letters beyond ASCII; latin-1 reads ASCII the same.
    text = (
        f'name = "deviating"\nextends = "{record["dialect"]}"\n[defaults]\ndata_enc = "latin-1"\n'
    )
    file.write_text(text + "[fields]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return Codec(load_dialect(file))


@pytest.mark.parametrize("record", records(), ids=lambda record: record["id"])
def test_reads_as_stated_and_writes_the_same_bytes(record: Any, tmp_path: Path) -> None:
    codec = codec_of(record, tmp_path)
    wire = bytes.fromhex(record["hex"])
    body = wire[record["frame_prefix_bytes"] + record["header_bytes"] :]
    expected = {key: value for key, value in record["expected"].items() if key.isdigit()}
    for _ in range(2):  # by the reference, then by the layout that it learnt
        message = codec.decode(body)
        assert message.mti == record["expected"].get("t", message.mti)
        values = {str(number): value for number, value in message.fields.items()}
        assert {key: values.get(key) for key in expected if key != "1"} == {
            key: value for key, value in expected.items() if key != "1"
        }
        assert codec.encode(message) == body


@pytest.mark.parametrize(
    "record",
    [record for record in records() if record["frame_prefix_bytes"] == 2],
    ids=lambda record: record["id"],
)
def test_whole_frames_are_cut_and_made_again(record: Any) -> None:
    spec = FramingSpec(header_bytes=record["header_bytes"])
    wire = bytes.fromhex(record["hex"])
    (frame,) = FrameReader(spec).feed(wire)
    assert encode_frame(spec, frame.body, header=frame.header) == wire
