"""The shipped dialects against tables of them that were collected from public sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.wire.dialect import SHIPPED, shipped_dialects

TABLES = Path(__file__).resolve().parents[3] / "shared" / "domain" / "dialects.json"
TEXT = {"ascii": "ascii", "ebcdic": "cp037", "gbk": "gb18030"}
BITMAPS = {"hex-ascii": "ascii", "binary": "b"}
MTIS = TEXT | {"bcd": "b"}

# Hex text has no raw bytes: a PIN block takes 16 characters there, not 8 bytes.
HEX_TEXT = {"iso87_ascii", "iso93_ascii"}
# Where ours differ on purpose: the tables hold one network's narrower limits, and once its text
# in a field of keys.
OURS = {("iso87_ebcdic", "61"), ("iso93_ebcdic", "53"), ("iso93_ebcdic", "96")}

pytestmark = pytest.mark.skipif(
    not TABLES.is_file(), reason="the folder of collected dialects is not beside this checkout"
)


def tables() -> Any:
    return json.loads(TABLES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_same_fields_with_the_same_forms(name: str) -> None:
    table, dialect = tables()[name], shipped_dialects()[name]
    assert dialect.spec["t"]["data_enc"] == MTIS[table["mti"]["data_enc"]]
    assert dialect.spec["p"]["data_enc"] == BITMAPS[table["bitmap"]["data_enc"]]
    assert {str(number) for number in dialect.fields} == set(table["fields"]) - {"65"}
    differing = []
    for number in map(str, dialect.fields):
        ours, theirs = dialect.spec[number], table["fields"][number]
        if (name, number) in OURS:
            continue
        if name in HEX_TEXT and ours["data_enc"] == "ascii" and theirs["type"] == "b":
            assert ours["max_len"] in (theirs["max"], 2 * theirs["max"])
            continue
        expected = form(theirs)
        found = {key: ours.get(key) for key in expected}
        if found != expected:
            differing.append((number, found, expected))
    assert differing == []


def form(theirs: dict[str, Any]) -> dict[str, Any]:
    """A field of a collected table in pyiso8583's words."""
    encoding, longest = theirs["data_enc"], theirs["max"]
    packed = encoding == "bcd"
    signed = encoding.startswith("sign")
    if signed:
        longest = (longest + 1) // 2
    expected: dict[str, Any] = {
        "data_enc": TEXT.get(encoding, "b"),
        "max_len": longest,
        "len_count": "nibbles" if packed else "bytes",
    }
    if theirs["len"] == "fixed":
        expected["len_type"] = 0
    else:
        expected["len_enc"] = {"binary": "b"}.get(theirs["len_enc"]) or TEXT.get(
            theirs["len_enc"], theirs["len_enc"]
        )
    if packed and longest % 2 and theirs["len"] == "fixed":
        side, pad = theirs["odd"][:-1], theirs["odd"][-1]
        expected[f"{side}_pad"] = pad
    elif packed and theirs["len"] != "fixed":
        side = "left" if theirs["odd"].startswith("left") else "right"
        expected[f"{side}_pad"] = "0"
        if "F" in theirs["odd"]:
            expected["other_pads"] = "F"
    return expected
