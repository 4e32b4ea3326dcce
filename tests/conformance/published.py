"""The messages that others published: where they are, their dialects, and how each one fares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import ParseError
from gateway.wire.codec import Codec
from gateway.wire.dialect import load_dialect, shipped_dialects

# The records belong to their sources: they are read in place, never copied here.
RECORDS = Path(__file__).resolve().parents[3] / "shared" / "domain" / "messages.jsonl"

_LLL_MAX = 999
_ENCODINGS = {
    "binary": "b",
    "bcd": "b",
    "sign-char + bcd": "b",
    "ebcdic": "cp037",
    "gbk": "gb18030",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One published message and what its source says of it."""

    id: str
    kind: str
    dialect: str
    wire: bytes
    prefix_bytes: int
    length_holds: bool
    header_bytes: int
    expected: dict[str, str]
    overrides: dict[str, Any]

    @property
    def body(self) -> bytes:
        return self.wire[self.prefix_bytes + self.header_bytes :]

    @property
    def stated_fields(self) -> dict[str, str]:
        """What the source states of fields, less the bitmaps, which the codec manages."""
        return {k: v for k, v in self.expected.items() if k.isdigit() and k != "1"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one record."""

    record: Record
    text: str
    as_it_should: bool


def records() -> list[Record]:
    """All records; none where the folder is absent."""
    if not RECORDS.is_file():
        return []
    return [_record(json.loads(line)) for line in RECORDS.read_text("utf-8").splitlines()]


def codec_of(record: Record, folder: Path) -> Codec:
    """The record's dialect; where it deviates, one that extends it accordingly."""
    deviations = {
        number: keys
        for number, deviation in record.overrides.items()
        if number.isdigit() and (keys := _keys(deviation))
    }
    mti = record.overrides.get("_mti")
    if not deviations and not mti:
        return Codec(shipped_dialects()[record.dialect])
    lines = ['name = "deviating"', f'extends = "{record.dialect}"']
    if mti:
        lines += [f'mti = {{ data_enc = "{_ENCODINGS[mti]}" }}']
    if shipped_dialects()[record.dialect].spec["41"]["data_enc"] == "ascii":
        # One source wrote letters beyond ASCII; latin-1 reads ASCII the same.
        lines += ['defaults = { data_enc = "latin-1" }']
    lines.append("[fields]")
    for number, keys in deviations.items():
        table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        lines.append(f"{number} = {{ {table} }}")
    file = folder / "deviating.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Codec(load_dialect(file))


def outcome(record: Record, folder: Path) -> Outcome:
    """Whether a record is read, and written back, or refused, as its kind asks for."""
    codec = codec_of(record, folder)
    try:
        message = codec.decode(record.body)
    except ParseError as error:
        return Outcome(record, str(error), record.kind == "negative")
    stated = record.stated_fields
    wrong = [n for n, value in stated.items() if message.get(int(n), "absent") != value]
    if message.mti != record.expected.get("t", message.mti):
        wrong.insert(0, "MTI")
    if wrong:
        return Outcome(record, f"reads otherwise: {', '.join(wrong)}", as_it_should=False)
    same = codec.encode(message) == record.body
    text = f"{len(message.fields)} fields, {len(stated)} of them stated"
    if message.pads:
        kept = ", ".join(f"DE{number} {pad}" for number, pad in message.pads.items())
        text += f", pads kept: {kept}"
    if not same:
        text += "; written back with other bytes"
    return Outcome(record, text, same and record.kind == "good")


def _record(raw: Any) -> Record:
    return Record(
        id=raw["id"],
        kind=raw["kind"],
        dialect=raw["dialect"],
        wire=bytes.fromhex(raw["hex"]),
        prefix_bytes=raw["frame_prefix_bytes"],
        length_holds=bool(raw["frame_length_ok"]),
        header_bytes=raw["header_bytes"],
        expected=raw["expected"],
        overrides=raw["overrides"],
    )


def _keys(deviation: dict[str, Any]) -> dict[str, Any]:
    """A record's deviation of one field, in the words of dialect files."""
    keys = {key: deviation[key] for key in ("type", "max", "len") if key in deviation}
    if "len" not in keys and keys.get("max", 0) > _LLL_MAX:
        keys["max"] = _LLL_MAX  # the source asks for more than its three digits can say
    encoding = deviation.get("data_enc")
    if encoding is not None:
        keys["data_enc"] = _ENCODINGS.get(encoding, encoding)
        keys["len_count"] = "nibbles" if encoding == "bcd" else "bytes"
    if "max_wire_bytes" in deviation:
        keys["max"] = deviation["max_wire_bytes"]
    if "len_enc" in deviation:
        keys["len_enc"] = (
            _ENCODINGS["binary"] if deviation["len_enc"] == "binary" else deviation["len_enc"]
        )
    side, pad = deviation.get("odd", "")[:-1], deviation.get("odd", "")[-1:]
    if side in ("left", "right"):
        keys[f"{side}_pad"] = pad
    return keys
