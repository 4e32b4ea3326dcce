"""A moov-io/iso8583 specification, which is JSON, to the text of a dialect file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.wire.packager import PACKAGER_BYTES_MAX, PackagerError, written

_TOP: Final = ("name", "fields")
_KEYS: Final = (
    "type",
    "length",
    "description",
    "enc",
    "prefix",
    "padding",
    "tag",
    "subfields",
    "bitmap",
    "disableautoexpand",
)
_TYPES: Final = ("String", "Numeric", "Binary", "Hex", "Bitmap", "Composite")
_TEXT: Final = {"ASCII": "ascii", "EBCDIC": "cp037"}
_PACKED: Final = {"BCD": "left_pad", "LBCD": "right_pad"}  # where an odd digit's pad is
_HEX_TEXT: Final = ("HexToASCII", "Hex")  # bytes, as two characters each; Hex is its older name
_PREFIX: Final = re.compile(r"(ASCII|BCD|Hex|EBCDIC|Binary|None)\.(Fixed|L{1,6})")
_LENGTHS: Final = {"ASCII": "ascii", "EBCDIC": "cp037", "BCD": "bcd", "Binary": "b"}
_MTI, _BITMAP, _THIRD_BITMAP, _LAST = 0, 1, 65, 128
_BITMAP_BYTES: Final = 8
_LENGTH_MAX: Final = 999_999  # what six digits of a length can say
_TRACK_2: Final = 35


def dialect_text(specification: bytes, name: str) -> str:
    """The dialect file that says what a specification does, with the fields 0 to 128.

    Fields inside fields are left out: they are a second layer's. Raises PackagerError, which names
    the field, where the JSON is none or something has no equal in a dialect; nothing is guessed.
    """
    title, fields = _read(specification)
    if _MTI not in fields or _BITMAP not in fields:
        raise PackagerError("there is no field 0 or 1: message type and bitmap are needed")
    return written(
        name,
        title=title or "Made from a moov specification",
        mti=_mti(fields[_MTI]),
        bitmap=_bitmap(fields[_BITMAP]),
        fields={
            number: _keys(number, field)
            for number, field in sorted(fields.items())
            if number not in (_MTI, _BITMAP, _THIRD_BITMAP) and number <= _LAST
        },
    )


def _read(specification: bytes) -> tuple[str, dict[int, dict[str, Any]]]:
    if len(specification) > PACKAGER_BYTES_MAX:
        raise PackagerError(f"the specification is longer than {PACKAGER_BYTES_MAX} bytes")
    try:
        document = json.loads(specification, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise PackagerError(f"line {error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        twice = isinstance(error, _Twice)
        raise PackagerError(
            str(error) if twice else "not JSON in UTF-8, or nested deeply"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("fields"), dict):
        raise PackagerError('is no specification: there is no "fields" with the fields by number')
    for key in document:
        if key not in _TOP:
            raise PackagerError(f"{ascii(key)[:60]} is not known here; take it out")
    fields: dict[int, dict[str, Any]] = {}
    for number, field in document["fields"].items():
        if not re.fullmatch(r"[0-9]{1,3}", number) or not isinstance(field, dict):
            raise PackagerError(f"field {ascii(number)[:60]}: is no number with a field")
        if int(number) in fields:
            raise PackagerError(f"field {int(number)}: is there twice")
        fields[int(number)] = field
    title = document.get("name", "")
    return _plain(title), fields


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _Twice(f"field {ascii(twice)[:60]}: is there twice")
    return found


def _mti(field: Mapping[str, Any]) -> str:
    """The encoding of the message type."""
    encoding = _encoding(_MTI, field)
    if encoding in _PACKED or encoding in ("Binary", "ASCIIToHex"):
        return "b"
    if encoding in _TEXT:
        return _TEXT[encoding]
    raise _unknown(_MTI, f"enc {ascii(encoding)[:40]} for a message type")


def _bitmap(field: Mapping[str, Any]) -> str:
    """The encoding of the bitmaps; a second one is there where the first says so."""
    encoding, length = _encoding(_BITMAP, field), field.get("length")
    if field.get("disableautoexpand"):
        raise _unknown(_BITMAP, "disableautoexpand, a bitmap of one fixed length,")
    if encoding == "Binary":
        if length not in (None, 0, _BITMAP_BYTES):
            raise _unknown(_BITMAP, f"a bitmap of {ascii(length)[:20]} bytes")
        return "b"
    if encoding in _HEX_TEXT:
        return "ascii"
    raise _unknown(_BITMAP, f"enc {ascii(encoding)[:40]} for a bitmap")


def _keys(number: int, field: Mapping[str, Any]) -> dict[str, Any]:
    """A field in the words of a dialect."""
    kind, longest = field.get("type"), field.get("length")
    _only_known(number, field)
    if kind not in _TYPES:
        raise _unknown(number, f"type {ascii(kind)[:40]}")
    if not isinstance(longest, int) or isinstance(longest, bool) or not 1 <= longest <= _LENGTH_MAX:
        raise PackagerError(f"field {number}: length {ascii(longest)[:20]} is no length")
    found = _PREFIX.fullmatch(str(field.get("prefix")))
    if found is None:
        raise _unknown(number, f"prefix {ascii(field.get('prefix'))[:40]}")
    family, width = found.groups()
    fixed = width == "Fixed"
    if not fixed and family not in _LENGTHS:
        raise _unknown(number, f"prefix {family}.{width}, a length that is no digits,")
    keys: dict[str, Any] = {"name": _plain(field.get("description", ""))}
    keys |= _data(number, field, fixed=fixed)
    keys["len"] = "fixed" if fixed else f"{width}VAR"
    keys.setdefault("max", longest)
    if not fixed:
        keys["len_enc"] = _LENGTHS[family]
        if family == "Binary":
            # There an L is a byte, here it is a digit.
            keys |= {"len": f"{width * 2}VAR"[-9:], "len_type": len(width)}
    _check_padding(number, field, fixed=fixed)
    return keys


def _data(number: int, field: Mapping[str, Any], *, fixed: bool) -> dict[str, Any]:
    """Type and encoding of a field's content."""
    longest = field["length"]
    if field["type"] == "Composite" or field.get("subfields"):
        encodings = set(_inner(number, field))
        text = _TEXT.get(encodings.pop()) if len(encodings) == 1 else None
        return {"type": "ans", "data_enc": text} if text else {"type": "b", "data_enc": "b"}
    encoding = _encoding(number, field)
    if encoding in _PACKED:
        kind = "z" if number == _TRACK_2 else "n"
        return {"type": kind, "data_enc": "b", "len_count": "nibbles", _PACKED[encoding]: "0"}
    if encoding in _TEXT:
        kind = {"Numeric": "n", "String": "ans"}.get(field["type"], "b")
        if number == _TRACK_2:
            kind = "z"
        return {"type": kind, "data_enc": _TEXT[encoding]}
    if encoding == "Binary":
        return {"type": "b", "data_enc": "b"}
    if encoding in _HEX_TEXT and fixed:
        return {"type": "b", "data_enc": "ascii", "max": 2 * longest}
    if encoding == "ASCIIToHex" and fixed:
        return {"type": "b", "data_enc": "b"}
    what = f"enc {ascii(encoding)[:40]}"
    raise _unknown(number, what if fixed else f"{what} of a length that varies")


def _inner(number: int, field: Mapping[str, Any]) -> Iterator[str]:
    """The encodings of all fields inside a field, and of their tags and lengths."""
    subfields = field.get("subfields")
    if not isinstance(subfields, dict) or not subfields:
        raise PackagerError(f"field {number}: is composite, and has no subfields")
    tag = field.get("tag")
    if tag is not None:
        yield str(tag.get("enc", "")) if isinstance(tag, dict) else ""
    if field.get("bitmap") is not None:
        yield "Binary"
    for inner in subfields.values():
        if not isinstance(inner, dict):
            raise PackagerError(f"field {number}: has a subfield that is none")
        if inner.get("subfields"):
            yield from _inner(number, inner)
        else:
            yield str(inner.get("enc", ""))
        prefix = str(inner.get("prefix", "")).partition(".")
        if prefix[2] != "Fixed":
            yield prefix[0]


def _encoding(number: int, field: Mapping[str, Any]) -> str:
    _only_known(number, field)
    encoding = field.get("enc")
    if not isinstance(encoding, str):
        raise PackagerError(f"field {number}: has no enc, which says how it is written")
    return encoding


def _only_known(number: int, field: Mapping[str, Any]) -> None:
    for key in field:
        if key not in _KEYS:
            raise _unknown(number, f"key {ascii(key)[:40]}")


def _check_padding(number: int, field: Mapping[str, Any], *, fixed: bool) -> None:
    """Padding makes values as long as their field; what comes over the wire is as long already."""
    padding = field.get("padding")
    if padding is None:
        return
    kind = padding.get("type") if isinstance(padding, dict) else None
    if kind == "None" or (kind in ("Left", "Right") and fixed):
        return
    what = f"padding {ascii(kind)[:20]}"
    raise _unknown(number, f"{what} of a length that varies" if not fixed else what)


def _unknown(number: int, what: str) -> PackagerError:
    remedy = "take the field out and write it into the dialect by hand"
    return PackagerError(f"field {number}: {what} is not known here; {remedy}")


def _plain(text: object) -> str:
    return "".join(filter(str.isprintable, text)).strip() if isinstance(text, str) else ""
