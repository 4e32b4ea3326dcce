"""What a dialect file may say: each rule with what is wrong and what would be right."""

from __future__ import annotations

import codecs
import re
from typing import Any, Final, TypeGuard

from gateway.wire.dialect_meaning import MEANING_TABLES

Raw = dict[str, Any]
Found = tuple[str, str]  # path, and what is wrong there and what would be right

FIELD_TYPES: Final = ("a", "n", "s", "an", "as", "ns", "anp", "ans", "b", "z", "x+n")

_TABLES: Final = ("frame", "mti", "bitmap", "defaults", "types", "fields")
_PADS: Final = ("left_pad", "right_pad", "other_pads")
_DEFAULT_KEYS: Final = ("data_enc", "len_enc", "len_count", *_PADS)
_FRAME_KEYS: Final = (
    "length",
    "length_includes_itself",
    "tpdu",
    "header_bytes",
    "header_counts_itself",
)
_LENGTHS: Final = ("binary2", "binary4", "ascii4", "bcd2", "stx_etx", "stx_bcd2")
_HEADER_MAX: Final = 255
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
    known = ("name", "title", "extends", *_TABLES, *MEANING_TABLES, "layouts")
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
    layouts = tables.get("layouts", [])
    if not isinstance(layouts, list) or not all(isinstance(one, dict) for one in layouts):
        found.append(("layouts", "is no list of tables; write [[layouts]] and its keys below"))
    for table in (*_TABLES, *MEANING_TABLES):
        content = tables.get(table, {})
        if not isinstance(content, dict):
            found.append((table, f"is not a table; write [{table}] and its keys below"))
        elif table == "fields":
            found += _field_shapes(content)
        elif table == "types":
            found += _type_shapes(content)
        elif table in _TABLES:
            keys = {"defaults": _DEFAULT_KEYS, "frame": _FRAME_KEYS}.get(table, ("data_enc",))
            found += [(f"{table}.{key}", _unknown(key, keys)) for key in content if key not in keys]
    return found


def _type_shapes(types: Raw) -> list[Found]:
    found: list[Found] = []
    for name, keys in types.items():
        path = f"types.{name}"
        if name not in FIELD_TYPES:
            found.append((path, _unknown(name, FIELD_TYPES)))
        elif not isinstance(keys, dict):
            found.append((path, 'is not a table; write { data_enc = "b" }'))
        else:
            found += [
                (f"{path}.{key}", _unknown(key, _DEFAULT_KEYS))
                for key in keys
                if key not in _DEFAULT_KEYS
            ]
    return found


def sound_types(tables: Raw) -> dict[str, Raw]:
    """What a file says of whole types of fields, less what is no table."""
    types = tables.get("types")
    if not isinstance(types, dict):
        return {}
    return {name: keys for name, keys in types.items() if isinstance(keys, dict)}


def check_frame(frame: Raw) -> tuple[Raw, list[Found]]:
    """The usual framing of a dialect, and what is wrong in it; what is wrong is left out."""
    sound: Raw = {key: value for key, value in frame.items() if key in _FRAME_KEYS}
    found: list[Found] = []
    if "length" in sound and sound["length"] not in _LENGTHS:
        known = ", ".join(_LENGTHS)
        text = f"{_shown(sound.pop('length'))} is no length; the lengths are {known}"
        found.append(("frame.length", text))
    found += [
        (f"frame.{key}", f"{_shown(sound.pop(key))} is not true or false")
        for key in ("length_includes_itself", "tpdu", "header_counts_itself")
        if key in sound and not isinstance(sound[key], bool)
    ]
    size = sound.get("header_bytes", 0)
    if not _whole(size) or not 0 <= size <= _HEADER_MAX:
        text = f"{_shown(sound.pop('header_bytes'))} is no size; give 0 to {_HEADER_MAX}"
        found.append(("frame.header_bytes", text))
    return sound, found


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


def check_defaults(defaults: Raw, table: str = "defaults") -> tuple[Raw, list[Found]]:
    """The defaults, of all fields or of a type, and what is wrong; what is wrong is made harmless.

    So a mistake in a default is found once, and not once more in every field.
    """
    sound, found = dict(defaults), list[Found]()
    for key in ("data_enc", "len_enc"):
        if key in defaults and not (key == "len_enc" and defaults[key] == "bcd"):
            problems = check_text_encoding(defaults[key], data=key == "data_enc")
            found += [(f"{table}.{key}", text) for text in problems]
            if problems:
                sound[key] = "ascii"
    if sound.get("len_count", "bytes") not in _COUNTS:
        found.append((f"{table}.len_count", _not_a_count(sound.pop("len_count"))))
    for pad in ("left_pad", "right_pad"):
        if pad in sound and not _is_pad(sound[pad]):
            found.append((f"{table}.{pad}", _not_a_pad(sound.pop(pad))))
    if "other_pads" in sound and not _are_pads(sound["other_pads"]):
        found.append((f"{table}.other_pads", _not_pads(sound.pop("other_pads"))))
    return sound, found


def laid_over(base: Raw, keys: Raw) -> Raw:
    """Keys over those of a base; a pad on one side replaces the base's on the other."""
    if "left_pad" in keys or "right_pad" in keys:
        base = {key: base[key] for key in base if key not in ("left_pad", "right_pad")}
    return base | keys


def with_defaults(keys: Raw, defaults: Raw) -> Raw:
    """A field's keys over the defaults, less those defaults that do not speak of such a field."""
    merged = defaults | keys
    if merged.get("data_enc") != "b" and "len_count" not in keys:
        merged.pop("len_count", None)
    packed = merged.get("len_count") == "nibbles"
    own_pad = "left_pad" in keys or "right_pad" in keys
    for pad in _PADS:
        if pad not in keys and (not packed or (own_pad and pad != "other_pads")):
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
    written |= {pad: keys[pad] for pad in _PADS if pad in keys}
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
    if "other_pads" in keys:
        if not _are_pads(keys["other_pads"]):
            found.append(("other_pads", _not_pads(keys["other_pads"])))
        elif not pads:
            found.append(("other_pads", "says which pads are read too; give left_pad or right_pad"))
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


def _are_pads(value: object) -> bool:
    return isinstance(value, str) and all(_is_pad(pad) for pad in value)


def _not_pads(value: object) -> str:
    return f'{_shown(value)} are no pads; write them together, "F" or "0F"'


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
