"""What a dialect file may say: each rule with what is wrong and what would be right."""

from __future__ import annotations

import codecs
import re
from typing import Any, Final, TypeGuard

Raw = dict[str, Any]
Found = tuple[str, str]  # path, and what is wrong there and what would be right

FIELD_TYPES: Final = ("a", "n", "s", "an", "as", "ns", "anp", "ans", "b", "z", "x+n")

_TABLES: Final = ("mti", "bitmap", "defaults", "fields")
_DEFAULT_KEYS: Final = ("data_enc", "len_enc", "len_count", "left_pad", "right_pad")
_FIELD_KEYS: Final = ("name", "type", "len", "max", "len_type", *_DEFAULT_KEYS)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
_VARIABLE: Final = re.compile(r"(L{1,6})VAR")
_MAX: Final = 65_535  # No frame is longer.

# Text encodings that are no way to write a field: they carry state, or warn, or name domains.
_UNFIT: Final = frozenset(
    ("idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7", "undefined", "mbcs")
)
_MISNAMED: Final = {
    "bcd": 'BCD is "b", counted in nibbles: len_count = "nibbles"',
    "binary": 'binary is "b"',
    "hex": 'binary is "b", and hex text is "ascii" with twice the length',
}
_COUNTS: Final = ("bytes", "nibbles")
_HEX_DIGITS: Final = "0123456789ABCDEF"


def check_shape(tables: Raw) -> list[Found]:
    """What is wrong with a file's own keys and tables, before any base is laid under it."""
    found: list[Found] = []
    known = ("name", "title", "extends", *_TABLES)
    found += [(key, _unknown(key, known)) for key in tables if key not in known]
    name = tables.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        what = "is missing" if name is None else f"{_shown(name)} is not a name"
        found.append(("name", f"{what}; give lower-case letters, digits, _ . and - (at most 40)"))
    found += [
        (key, f"{_shown(tables[key])} is not text; write it in quotes")
        for key in ("title", "extends")
        if key in tables and not isinstance(tables[key], str)
    ]
    for table in _TABLES:
        content = tables.get(table, {})
        if not isinstance(content, dict):
            found.append((table, f"is not a table; write [{table}] and its keys below"))
        elif table == "fields":
            found += _field_shapes(content)
        else:
            keys = _DEFAULT_KEYS if table == "defaults" else ("data_enc",)
            found += [(f"{table}.{key}", _unknown(key, keys)) for key in content if key not in keys]
    return found


def _field_shapes(fields: Raw) -> list[Found]:
    found: list[Found] = []
    for number, keys in fields.items():
        path = f"fields.{number}"
        if not re.fullmatch(r"[1-9][0-9]{0,2}", number) or not 2 <= int(number) <= 128:
            found.append((path, "is not a field; the fields are 2 to 128"))
        elif number == "65":
            found.append((path, "announces a third bitmap and is no field; leave it out"))
        elif not isinstance(keys, dict):
            found.append((path, 'is not a table; write { type = "n", len = "fixed", max = 6 }'))
        else:
            found += [
                (f"{path}.{key}", _unknown(key, _FIELD_KEYS))
                for key in keys
                if key not in _FIELD_KEYS
            ]
    return found


def sound_fields(tables: Raw) -> dict[str, Raw]:
    """The fields of a file whose shape is right, so that they can be looked at further."""
    fields = tables.get("fields")
    if not isinstance(fields, dict):
        return {}
    wrong = {path for path, _ in _field_shapes(fields)}
    return {number: keys for number, keys in fields.items() if f"fields.{number}" not in wrong}


def check_defaults(defaults: Raw) -> tuple[Raw, list[Found]]:
    """The defaults, and what is wrong in them; what is wrong is made harmless.

    So a mistake in a default is found once, and not once more in every field.
    """
    sound, found = dict(defaults), list[Found]()
    for key in ("data_enc", "len_enc"):
        if key in defaults and not (key == "len_enc" and defaults[key] == "bcd"):
            problems = check_text_encoding(defaults[key], data=key == "data_enc")
            found += [(f"defaults.{key}", text) for text in problems]
            if problems:
                sound[key] = "ascii"
    if sound.get("len_count", "bytes") not in _COUNTS:
        found.append(("defaults.len_count", _not_a_count(sound.pop("len_count"))))
    for pad in ("left_pad", "right_pad"):
        if pad in sound and not _is_pad(sound[pad]):
            found.append((f"defaults.{pad}", _not_a_pad(sound.pop(pad))))
    return sound, found


def with_defaults(keys: Raw, defaults: Raw) -> Raw:
    """A field's keys over the defaults, less those defaults that do not speak of such a field."""
    merged = defaults | keys
    if merged.get("data_enc") != "b" and "len_count" not in keys:
        merged.pop("len_count", None)
    own_pad = "left_pad" in keys or "right_pad" in keys
    if own_pad or merged.get("len_count") != "nibbles":
        for pad in ("left_pad", "right_pad"):
            if pad not in keys:
                merged.pop(pad, None)
    return merged


def check_field(keys: Raw) -> tuple[Raw | None, list[Found]]:
    """A field's keys, defaults included, as pyiso8583's spec; None with what is wrong in them."""
    found: list[Found] = []
    data_enc, len_enc = keys.get("data_enc"), keys.get("len_enc", "ascii")
    found += [("data_enc", text) for text in check_text_encoding(data_enc, data=True)]
    if len_enc != "bcd":
        found += [("len_enc", text) for text in check_text_encoding(len_enc, data=False)]
    if "name" in keys and not isinstance(keys["name"], str):
        found.append(("name", f"{_shown(keys['name'])} is not text; write it in quotes"))
    if keys.get("type", "ans") not in FIELD_TYPES:
        known = ", ".join(FIELD_TYPES)
        found.append(("type", f"{_shown(keys['type'])} is not a type; the types are {known}"))
    count = keys.get("len_count", "bytes")
    if count not in _COUNTS:
        found.append(("len_count", _not_a_count(count)))
    elif count == "nibbles" and data_enc != "b":
        found.append(("len_count", 'text is counted in bytes; write "bytes", or data_enc = "b"'))
    size, problems = _size(keys, len_enc)
    found += problems
    found += _pads(keys, fixed=keys.get("len") == "fixed")
    if found:
        return None, found
    written = {"data_enc": data_enc, "len_enc": len_enc, **size, "len_count": count}
    written |= {pad: keys[pad] for pad in ("left_pad", "right_pad") if pad in keys}
    return written | {"desc": keys.get("name", "")}, found


def check_text_encoding(name: object, *, data: bool) -> list[str]:
    """What is wrong with an encoding's name ("b" is raw bytes), and what would be right."""
    if name == "b":
        return []
    right = 'write "ascii", "cp037" (EBCDIC) or another one, or "b"'
    right += " (binary and BCD)" if data else ' (binary) or "bcd"'
    if name is None:
        return [f"is missing; {right}"]
    if not isinstance(name, str):
        return [f"{_shown(name)} is not text; {right}"]
    if name in _MISNAMED:
        return [f'"{name}" is no encoding here; {_MISNAMED[name]}']
    try:
        normal = codecs.lookup(name).name
        # Bytes are what lengths count: an encoding that needs two for a digit fits no field.
        fits = normal not in _UNFIT and len(_HEX_DIGITS.encode(normal)) == len(_HEX_DIGITS)
    except (LookupError, ValueError):
        return [f"{_shown(name)} is not an encoding; {right}"]
    return [] if fits else [f'"{name}" does not write a digit in one byte; {right}']


def _size(keys: Raw, len_enc: object) -> tuple[Raw, list[Found]]:
    """`len_type` and `max_len` of a field."""
    found: list[Found] = []
    form, longest = keys.get("len"), keys.get("max")
    if not _whole(longest) or not 1 <= longest <= _MAX:
        what = "is missing" if longest is None else f"{_shown(longest)} is not a length"
        found.append(("max", f"{what}; give a whole number from 1 to {_MAX}"))
    width = keys.get("len_type")
    if width is not None and (not _whole(width) or not 1 <= width <= 6 or form == "fixed"):
        text = f"{_shown(width)} does not fit; give 1 to 6, the bytes of a variable length's prefix"
        found.append(("len_type", text))
    variable = _VARIABLE.fullmatch(form) if isinstance(form, str) else None
    if variable is None and form != "fixed":
        what = "is missing" if form is None else f"{_shown(form)} is not known"
        found.append(("len", f'{what}; write "fixed", "LVAR", "LLVAR", "LLLVAR" and so on'))
    if found or not _whole(longest):
        return {}, found
    if variable is None:
        return {"len_type": 0, "max_len": longest}, found
    digits = len(variable[1])
    width = width or _prefix_width(digits, len_enc)
    limit = {"b": 256**width, "bcd": 100**width}.get(str(len_enc), 10**width) - 1
    if len_enc != "b":
        limit = min(limit, 10**digits - 1)
    if longest > limit:
        text = f"{longest} cannot be written as {form} in {len_enc}; at most {limit} can"
        found.append(("max", text))
    return {"len_type": width, "max_len": longest}, found


def _prefix_width(digits: int, len_enc: object) -> int:
    """Bytes of a length prefix; in binary a byte stands for two digits, as pyiso8583 counts."""
    return (digits + 1) // 2 if len_enc in ("b", "bcd") else digits


def _pads(keys: Raw, *, fixed: bool) -> list[Found]:
    found: list[Found] = []
    pads = [pad for pad in ("left_pad", "right_pad") if pad in keys]
    nibbles = keys.get("len_count") == "nibbles"
    for pad in pads:
        value = keys[pad]
        if not _is_pad(value):
            found.append((pad, _not_a_pad(value)))
        elif not nibbles:
            found.append((pad, "only what is counted in nibbles is padded; drop it or len_count"))
    if len(pads) == 2:
        found.append(("right_pad", "left_pad is given too; leave one of them out"))
    longest = keys.get("max")
    if nibbles and fixed and not pads and _whole(longest) and longest % 2:
        found.append(
            ("max", f"{longest} nibbles are half a byte short; give left_pad or right_pad")
        )
    return found


def _is_pad(value: object) -> bool:
    # Decoded values are upper case: a lower-case pad would never be found again.
    return isinstance(value, str) and len(value) == 1 and value in _HEX_DIGITS


def _not_a_pad(value: object) -> str:
    return f"{_shown(value)} is not a pad; write one of 0-9 and A-F"


def _not_a_count(value: object) -> str:
    return f'{_shown(value)} is not a way to count; write "bytes" or "nibbles"'


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _unknown(key: str, known: tuple[str, ...]) -> str:
    return f'"{key}" is not known here; there are: {", ".join(known)}'


def _shown(value: object) -> str:
    """A value of a file as it may stand in a message: short, and on one line."""
    return ascii(value)[:60]
