"""A jPOS generic packager, which is XML, to the text of a dialect file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from xml.parsers import expat

from gateway.errors import GatewayError

PACKAGER_BYTES_MAX: Final = 1_048_576

# IFA_ writes ASCII, IFB_ packed digits and raw bytes, IFE_ EBCDIC; L counts digits of the length,
# H says that the length is binary, E that the text is EBCDIC, F that the pad is F.
_CLASS: Final = re.compile(
    r"IF(?P<form>[ABE]?)_(?P<pad>F?)(?P<width>L{0,6})(?P<binary>H?)(?P<ebcdic>E?)"
    r"(?P<what>NUMERIC|NUM|CHAR|BINARY|AMOUNT|BITMAP)"
)
_TEXT: Final = {"": "ascii", "A": "ascii", "B": "ascii", "E": "cp037"}
_TYPES: Final = {"NUMERIC": "n", "NUM": "n", "CHAR": "ans", "BINARY": "b", "AMOUNT": "x+n"}
_MTI, _BITMAP, _THIRD_BITMAP, _LAST = 0, 1, 65, 128


class PackagerError(GatewayError):
    """A packager cannot be made into a dialect; the text says which line, and why."""


def dialect_text(packager: bytes, name: str) -> str:
    """The dialect file that says what a generic packager does, with the fields 0 to 128.

    Fields inside fields are left out: they are a second layer's. Raises PackagerError where the
    XML is none, declares entities, or a field has a class that no dialect can express.
    """
    fields = _Reader().read(packager)
    if _MTI not in fields or _BITMAP not in fields:
        raise PackagerError("the packager has no field 0 or 1: message type and bitmap are needed")
    mti = _heading(fields[_MTI], packed=("NUMERIC",))
    bitmap = _heading(fields[_BITMAP], packed=("BITMAP", "BINARY"))
    return written(
        name,
        title="Made from a jPOS packager",
        mti=mti,
        bitmap=bitmap,
        fields={
            number: keys
            for number, attributes in sorted(fields.items())
            if number not in (_MTI, _BITMAP, _THIRD_BITMAP) and number <= _LAST
            if (keys := _keys(attributes)) is not None
        },
    )


def written(
    name: str, *, title: str, mti: str, bitmap: str, fields: Mapping[int, Mapping[str, Any]]
) -> str:
    """A dialect file: encodings of message type and bitmap, and the keys of each field."""
    lines = [
        f"name = {json.dumps(name)}",
        f"title = {json.dumps(title, ensure_ascii=False)}",
        f'\n[mti]\ndata_enc = "{mti}"',
        f'\n[bitmap]\ndata_enc = "{bitmap}"',
        "\n[fields]",
    ]
    for number, keys in fields.items():
        table = ", ".join(
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()
        )
        lines.append(f"{number} = {{ {table} }}")
    return "\n".join(lines) + "\n"


class _Reader:
    """The outermost fields of a packager; entities are refused, and nothing is fetched."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._started
        self._parser.EndElementHandler = self._ended
        # A document type is ordinary here, but nothing that it could define is.
        self._parser.EntityDeclHandler = self._entity
        self._parser.ExternalEntityRefHandler = self._entity
        self._depth = 0
        self._fields: dict[int, dict[str, str]] = {}

    def read(self, data: bytes) -> dict[int, dict[str, str]]:
        if len(data) > PACKAGER_BYTES_MAX:
            raise PackagerError(f"the packager is longer than {PACKAGER_BYTES_MAX} bytes")
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise PackagerError(f"line {error.lineno}: not XML: {reason}") from None
        except (LookupError, ValueError):  # what declares an encoding that expat has not
            raise PackagerError(
                "line 1: its encoding is not known here; save the file as UTF-8"
            ) from None
        return self._fields

    def _started(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if tag not in ("isofield", "isofieldpackager") or self._depth != 2:
            return
        number, length = attributes.get("id", ""), attributes.get("length", "")
        if not re.fullmatch(r"[0-9]{1,3}", number) or not re.fullmatch(r"[0-9]{1,5}", length):
            self._fail("a field needs id and length, whole numbers")
        if int(number) in self._fields:
            self._fail(f"field {int(number)} is there twice")
        line = str(self._parser.CurrentLineNumber)
        self._fields[int(number)] = attributes | {"line": line}

    def _ended(self, _tag: str) -> None:
        self._depth -= 1

    def _entity(self, *_arguments: Any) -> NoReturn:
        self._fail("declares an entity; write the text itself")

    def _fail(self, text: str) -> NoReturn:
        raise PackagerError(f"line {self._parser.CurrentLineNumber}: {text}")


def _parts(attributes: Mapping[str, str]) -> re.Match[str]:
    own = attributes.get("class", "").rpartition(".")[2]
    parts = _CLASS.fullmatch(own)
    if parts is None:
        shown = ascii(own)[:60]
        raise PackagerError(
            f"line {attributes['line']}: field {attributes['id']}: {shown} is a class that is not"
            " known here; take the field out and write it into the dialect by hand"
        )
    return parts


def _heading(attributes: Mapping[str, str], *, packed: tuple[str, ...]) -> str:
    """The encoding of the message type or of the bitmap."""
    parts = _parts(attributes)
    raw = parts["form"] == "B" and parts["what"] in packed
    return "b" if raw else _TEXT[parts["form"]]


def _keys(attributes: Mapping[str, str]) -> dict[str, Any] | None:
    """A field in the words of a dialect; None for one that is never there."""
    if attributes.get("class", "").endswith("IF_NOP"):
        return None
    parts = _parts(attributes)
    what, form = parts["what"], parts["form"]
    longest = int(attributes["length"])
    name = "".join(filter(str.isprintable, attributes.get("name", ""))).strip()
    keys: dict[str, Any] = {"name": name, "type": _TYPES.get(what, "b")}
    keys["len"] = f"{parts['width']}VAR" if parts["width"] else "fixed"
    keys["max"] = longest
    text = "cp037" if parts["ebcdic"] else _TEXT[form]
    if form == "B" and what in ("NUMERIC", "NUM"):
        keys |= {"data_enc": "b", "len_count": "nibbles"}
        if attributes.get("pad", "").lower() == "true":
            keys["left_pad"] = "0"  # F is only ever written at the end
        else:
            keys["right_pad"] = "F" if parts["pad"] else "0"
    elif form == "B" and what == "AMOUNT":
        # A sign and packed digits, kept as raw bytes.
        keys |= {"data_enc": "b", "max": 1 + longest // 2}
    elif what in ("BINARY", "BITMAP") and (form == "B" or parts["width"]):
        keys["data_enc"] = "b"
    elif what in ("BINARY", "BITMAP"):
        # Hex text: two characters for each byte.
        keys |= {"data_enc": text, "max": 2 * longest}
    else:
        keys["data_enc"] = text
    if parts["width"]:
        keys["len_enc"] = "b" if parts["binary"] else "bcd" if form == "B" else _TEXT[form]
    return keys
