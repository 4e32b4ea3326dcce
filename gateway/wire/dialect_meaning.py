"""What the values of a dialect mean: its edition, how it asks for each kind, its codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.wire.message import Kind

Raw = dict[str, Any]
Found = tuple[str, str]

EDITION_1987: Final = "1987"
EDITION_1993: Final = "1993"
# What a field of 1993 was, read in the terms of 1987, is kept under its number plus this.
NATIVE: Final = 1_000
# Tables that only say what values mean; the bytes of a field do not depend on them.
MEANING_TABLES: Final = (
    "meaning",
    "kinds",
    "codes",
    "codes_written",
    "functions",
    "entry_modes",
    "entry_modes_read",
)
_KEYS: Final = ("edition", "network", "private", "may_lack", "echoed", "differs", "copies")
_KIND_KEYS: Final = ("mti", "code", "condition", "type")
_ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class KindForm:
    """How a kind of transaction is asked for.

    `mtis` are the message types it may have, the usual one first; `code` begins DE3 (two digits) or
    is all of it (six); `condition` is DE25 and `private_type` the first two digits of DE60; empty
    where the kind does not depend on it.
    """

    mtis: tuple[str, ...]
    code: str
    condition: str = ""
    private_type: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the values of a dialect mean, as far as another one would say it otherwise.

    - `edition`: of ISO 8583, "1987" or "1993".
    - `network`: whose private fields it has; only towards a dialect of the same one they go on.
    - `private`: those fields.
    - `may_lack`: fields that are left out towards this dialect where it has no place for them.
    - `echoed`: what an answer of this network says again of its request; another one may not.
    - `differs`, `copies`: between the editions: fields of which only the number is the same, and
      fields that are filled from another one.
    - `codes`, `codes_written`: DE39 as it is read and written; `*` ends what stands for many.
    - `functions`: DE24 of ISO 8583:1993 by kind.
    - `entry_modes`, `entry_modes_read`: DE22 of 1987 as that of 1993, and back.
    """

    edition: str = EDITION_1987
    network: str = ""
    private: frozenset[int] = frozenset()
    may_lack: frozenset[int] = frozenset()
    echoed: frozenset[int] = frozenset()
    differs: frozenset[int] = frozenset()
    copies: Mapping[int, int] = field(default_factory=dict)
    kinds: Mapping[Kind, KindForm] = field(default_factory=dict)
    codes: Mapping[str, str] = field(default_factory=dict)
    codes_written: Mapping[str, str] = field(default_factory=dict)
    functions: Mapping[str, str] = field(default_factory=dict)
    entry_modes: Mapping[str, str] = field(default_factory=dict)
    entry_modes_read: Mapping[str, str] = field(default_factory=dict)


def mapped(table: Mapping[str, str], value: str) -> str | None:
    """What a table says of a value: of all of it, or of the longest beginning that it names."""
    found = table.get(value)
    if found is not None:
        return found
    for length in range(len(value) - 1, -1, -1):
        found = table.get(value[:length] + _ANY)
        if found is not None:
            return found
    return None


def laid_over_tables(merged: Raw, tables: Raw) -> None:
    """Put a file's tables over those of what it extends, key by key."""
    for name in MEANING_TABLES:
        content = tables.get(name)
        if isinstance(content, dict):
            merged[name] = {**merged.get(name, {}), **content}


def check_meaning(merged: Raw) -> tuple[Meaning, list[Found]]:
    """The meaning that tables describe, and what is wrong in them, which is left out."""
    found: list[Found] = []
    raw = merged.get("meaning", {})
    found += [
        (f"meaning.{key}", f'"{key}" is not known here; there are: {", ".join(_KEYS)}')
        for key in raw
        if key not in _KEYS
    ]
    edition = raw.get("edition", EDITION_1987)
    if edition not in (EDITION_1987, EDITION_1993):
        found.append(("meaning.edition", f'{edition!a} is no edition; write "1987" or "1993"'))
        edition = EDITION_1987
    network = raw.get("network", "")
    if not isinstance(network, str):
        found.append(("meaning.network", "is not text; write it in quotes"))
        network = ""
    lists = ("private", "may_lack", "echoed", "differs")
    numbers = {key: _numbers(raw, key, found) for key in lists}
    tables = {name: _texts(merged, name, found) for name in MEANING_TABLES[2:]}
    copies: dict[int, int] = {}
    for target, source in _table(raw, "copies", "meaning.copies", found).items():
        if str(target).isdigit() and _is_field(int(target)) and _is_field(source):
            copies[int(target)] = source
        else:
            found.append((f"meaning.copies.{target}", "is no pair of fields; write 26 = 18"))
    meaning = Meaning(
        edition=edition,
        network=network,
        private=numbers["private"],
        may_lack=numbers["may_lack"],
        echoed=numbers["echoed"],
        differs=numbers["differs"],
        copies=copies,
        kinds=_kinds(merged, found),
        **tables,
    )
    return meaning, found


def _kinds(merged: Raw, found: list[Found]) -> dict[Kind, KindForm]:
    kinds: dict[Kind, KindForm] = {}
    for name, keys in merged.get("kinds", {}).items():
        path = f"kinds.{name}"
        if name not in tuple(Kind):
            found.append((path, f"is no kind; the kinds are {', '.join(Kind)}"))
            continue
        if not isinstance(keys, dict) or any(key not in _KIND_KEYS for key in keys):
            found.append((path, f"is not a table of {', '.join(_KIND_KEYS)}"))
            continue
        mtis, code = keys.get("mti"), keys.get("code")
        right = isinstance(mtis, list) and mtis and all(_is_mti(mti) for mti in mtis)
        if not right:
            found.append((f"{path}.mti", 'is no list of message types; write ["0200"]'))
        if not _digits(code, 2, 6):
            found.append((f"{path}.code", "gives no DE3; write two digits of it, or all six"))
        for key in ("condition", "type"):
            if key in keys and not _digits(keys[key], 2):
                found.append((f"{path}.{key}", "is not two digits in quotes"))
                right = False
        if right and isinstance(mtis, list) and _digits(code, 2, 6):
            condition, kind_type = keys.get("condition", ""), keys.get("type", "")
            kinds[Kind(name)] = KindForm(tuple(mtis), str(code), condition, kind_type)
    return kinds


def _table(raw: Raw, key: str, path: str, found: list[Found]) -> Raw:
    content = raw.get(key, {})
    if isinstance(content, dict):
        return content
    found.append((path, f"is not a table; write [{path}] and its keys below"))
    return {}


def _texts(merged: Raw, name: str, found: list[Found]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for key, value in merged.get(name, {}).items():
        if isinstance(value, str):
            texts[key] = value
        else:
            found.append((f"{name}.{key}", "is not text; write it in quotes"))
    return texts


def _numbers(raw: Raw, key: str, found: list[Found]) -> frozenset[int]:
    content = raw.get(key, [])
    if isinstance(content, list) and all(_is_field(number) for number in content):
        return frozenset(content)
    found.append((f"meaning.{key}", "is no list of fields; write [60, 61]"))
    return frozenset()


def _is_field(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 2 <= number <= 128


def _is_mti(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"0[0-9]{3}", text) is not None


def _digits(text: object, *lengths: int) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) in lengths
