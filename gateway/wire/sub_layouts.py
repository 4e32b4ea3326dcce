"""What a dialect file says of sub-elements: its [[layouts]], checked and made ready."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.wire.dialect_meaning import Found, Raw
from gateway.wire.sub_elements import ElementName, Form, Layout

_KEYS: Final = (
    *("field", "mti", "sizes", "form", "elements", "repeats", "tag", "length", "numbers"),
    "bytes",
)
_ELEMENT_KEYS: Final = ("id", "name", "len", "shown")
_NUMBERS: Final = ("text", "bcd", "binary")
_NONE: Final = "none"  # takes away what the dialect that is extended says of a field


def laid_over_layouts(merged: Raw, tables: Raw) -> None:
    """Put a file's layouts over those of what it extends: all of a field's at once."""
    own = tables.get("layouts")
    if not isinstance(own, list):
        return
    by_field: dict[object, list[Any]] = {}
    for one in own:
        by_field.setdefault(one.get("field") if isinstance(one, dict) else None, []).append(one)
    merged["layouts"] = {**merged.get("layouts", {}), **by_field}


def check_layouts(
    merged: Raw, spec: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[int, tuple[Layout, ...]], list[Found]]:
    """The layouts by field, and what is wrong in them; what is wrong is left out."""
    found: list[Found] = []
    layouts: dict[int, tuple[Layout, ...]] = {}
    for number, raws in merged.get("layouts", {}).items():
        if not isinstance(number, int) or str(number) not in spec:
            found.append(("layouts", f"{number!a} is no field of the dialect; write field = 60"))
            continue
        made = [_layout(number, raw, spec[str(number)], found) for raw in raws]
        known = tuple(one for one in made if one is not None)
        if known:
            layouts[number] = known
    return layouts, found


def _layout(number: int, raw: Raw, keys: Mapping[str, Any], found: list[Found]) -> Layout | None:
    path = f"layouts.{number}"
    before = len(found)
    found += [
        (f"{path}.{key}", f'"{key}" is not known here; there are: {", ".join(_KEYS)}')
        for key in raw
        if key not in _KEYS
    ]
    form = raw.get("form")
    if form == _NONE:
        return None
    if form not in tuple(Form):
        found.append((f"{path}.form", f"{form!a} is none; write one of {', '.join(Form)}, none"))
    mtis, sizes = raw.get("mti", []), raw.get("sizes", [])
    if not _all(mtis, lambda one: isinstance(one, str) and re.fullmatch(r"[0-9]{1,4}", one)):
        found.append((f"{path}.mti", 'is no list of message types; write ["0810"] or ["08"]'))
    if not _all(sizes, lambda one: _whole(one, 0, 65_535)):
        found.append((f"{path}.sizes", "is no list of lengths; write [24, 40]"))
    numbers = raw.get("numbers", "text")
    if numbers not in _NUMBERS:
        found.append((f"{path}.numbers", f"{numbers!a} is none of {', '.join(_NUMBERS)}"))
    for key in ("tag", "length"):
        if not _whole(raw.get(key, 2), 1, 8):
            found.append((f"{path}.{key}", "is no size; give 1 to 8"))
    for key in ("repeats", "bytes"):
        if not isinstance(raw.get(key, False), bool):
            found.append((f"{path}.{key}", "is not true or false"))
    elements = _elements(path, raw.get("elements", []), form == Form.POSITIONAL, found)
    if len(found) > before or not isinstance(form, str):
        return None
    # Bytes, and hex text that stands for bytes, have two characters for each.
    packed = keys["data_enc"] == "b" and keys.get("len_count") != "nibbles"
    return Layout(
        number=number,
        form=Form(form),
        is_hex=packed or form == Form.BER_TLV or raw.get("bytes", False),
        elements=elements,
        mtis=tuple(mtis),
        sizes=tuple(sizes),
        repeats=raw.get("repeats", False),
        tag_size=raw.get("tag", 2),
        length_size=raw.get("length", 2),
        numbers=numbers,
    )


def _elements(
    path: str, raws: object, positional: bool, found: list[Found]
) -> dict[str, ElementName]:
    elements: dict[str, ElementName] = {}
    if not isinstance(raws, list) or (positional and not raws):
        found.append((f"{path}.elements", 'is no list; write [{ id = "1", len = 2 }]'))
        return {}
    for at, raw in enumerate(raws, 1):
        here = f"{path}.elements"
        if not isinstance(raw, dict) or any(key not in _ELEMENT_KEYS for key in raw):
            found.append((here, f"the {at}. is not a table of {', '.join(_ELEMENT_KEYS)}"))
            continue
        name, length = raw.get("id"), raw.get("len", 0)
        if not isinstance(name, str) or not name or name in elements:
            found.append((here, f"the {at}. has no id of its own"))
            continue
        if not _whole(length, 0, 65_535) or (not length and positional and at < len(raws)):
            found.append((here, f"{name} has no len; only the last may be all the rest"))
            continue
        shown = raw.get("shown", False) is True
        elements[name] = ElementName(name, str(raw.get("name", "")), length, shown)
    return elements


def _all(values: object, sound: Any) -> bool:
    return isinstance(values, list) and all(sound(one) for one in values)


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
