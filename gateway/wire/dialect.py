"""Dialects: how each field is written on one link, loaded from TOML into pyiso8583's spec form."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError
from gateway.wire.dialect_meaning import check_meaning, laid_over_tables
from gateway.wire.dialect_rules import (
    Found,
    Raw,
    check_defaults,
    check_field,
    check_frame,
    check_shape,
    check_text_encoding,
    laid_over,
    sound_fields,
    sound_types,
    with_defaults,
)
from gateway.wire.dialect_spec import Dialect, FieldInfo, Spec
from gateway.wire.framing import FramingSpec
from gateway.wire.sub_layouts import check_layouts, laid_over_layouts

SHIPPED = (
    "iso87_ascii",
    "iso87_ascii_binbitmap",
    "iso87_bcd",
    "iso87_ebcdic",
    "iso93_ascii",
    "iso93_ascii_binbitmap",
    "iso93_bcd",
    "iso93_ebcdic",
    "unionpay_pos",
    "cups_h2h",
    "visa_like",
)

__all__ = (
    "SHIPPED",
    "Dialect",
    "DialectError",
    "FieldInfo",
    "Finding",
    "Spec",
    "dialect_of",
    "load_dialect",
    "load_dialects",
    "shipped_dialects",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong in a dialect file, and what would be right; `line` is 0 where unknown."""

    file: str
    line: int
    path: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.text}" if self.path else f"{place}: {self.text}"


class DialectError(GatewayError):
    """Dialect files cannot be used; `findings` holds everything that is wrong in them."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


def shipped_dialects() -> dict[str, Dialect]:
    """The dialects inside the package, by name."""
    return load_dialects(())


def load_dialect(path: Path | str) -> Dialect:
    """The dialect of one file, which may extend a shipped one. Raises DialectError."""
    files = [*_shipped_files(), _read(path)]
    return _build(files)[files[-1].name]


def dialect_of(text: str, path: str) -> Dialect:
    """The dialect that a text describes, as if it were a file of that path. Raises DialectError."""
    file = _File(path, text, {})
    try:
        file.tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        file.found("", f"is not TOML: {error}", 0)
    return _build([*_shipped_files(), file])[file.name]


def load_dialects(paths: Iterable[Path | str]) -> dict[str, Dialect]:
    """The shipped dialects and those of the files given, which may extend each other, by name.

    Raises DialectError with every finding in every file.
    """
    return _build([*_shipped_files(), *map(_read, paths)])


class _File:
    """A dialect file as it was read: its text, its tables, and what was found wrong so far."""

    __slots__ = ("findings", "path", "tables", "text")

    def __init__(self, path: str, text: str, tables: Raw) -> None:
        self.path = path
        self.text = text
        self.tables = tables
        self.findings: list[Finding] = []

    @property
    def name(self) -> str:
        name = self.tables.get("name")
        return name if isinstance(name, str) else ""

    def found(self, path: str, text: str, line: int | None = None) -> None:
        where = _line_of(self.text, path) if line is None else line
        self.findings.append(Finding(self.path, where, path, text))


def _shipped_files() -> list[_File]:
    folder = resources.files(__package__ or "gateway.wire") / "dialects"
    files = []
    for name in SHIPPED:
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        files.append(_File(f"{name}.toml", text, tomllib.loads(text)))
    return files


def _read(path: Path | str) -> _File:
    """A file and its tables; where it cannot be read, nothing but that finding."""
    file = _File(str(path), "", {})
    try:
        file.text = Path(path).read_text(encoding="utf-8")
        file.tables = tomllib.loads(file.text)
    except OSError as error:
        file.found("", f"cannot be read: {error.strerror or error}; give a readable file")
    except UnicodeDecodeError as error:
        file.found("", f"is not UTF-8 at byte {error.start}; save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        file.found("", f"is not TOML: {error}", int(line[1]) if line else 0)
    except RecursionError:
        file.found("", "is nested too deeply; a dialect has tables in tables, no more")
    return file


def _build(files: list[_File]) -> dict[str, Dialect]:
    by_name: dict[str, _File] = {}
    for file in files:
        if file.findings:
            continue
        _take(file, check_shape(file.tables))
        if file.name in by_name:
            other = by_name[file.name].path
            file.found("name", f'"{file.name}" is the name of {other} too; choose another')
        elif file.name:
            by_name[file.name] = file
    dialects = {}
    for name, file in by_name.items():
        merged = _merged(file, by_name)
        if merged is not None:
            dialects[name] = _dialect(file, merged)
    findings = [
        finding for file in files for finding in sorted(file.findings, key=lambda found: found.line)
    ]
    if findings:
        raise DialectError(findings)
    return dialects


def _merged(file: _File, by_name: Mapping[str, _File]) -> Raw | None:
    """The file's tables over those of the dialects it extends; None where those cannot be used."""
    chain = [file]
    while (base := chain[-1].tables.get("extends")) is not None:
        if not isinstance(base, str) or base not in by_name:
            if chain[-1] is file and isinstance(base, str):
                known = ", ".join(sorted(by_name))
                file.found("extends", f'no dialect is named "{base}"; there are: {known}')
            return None
        if by_name[base] in chain:
            file.found("extends", f'"{base}" extends this dialect in turn; break the circle')
            return None
        chain.append(by_name[base])
        if chain[-1].findings:
            return None
    merged: Raw = {"frame": {}, "mti": {}, "bitmap": {}, "defaults": {}, "types": {}, "fields": {}}
    for link in reversed(chain):
        for table in ("frame", "mti", "bitmap", "defaults"):
            content = link.tables.get(table)
            merged[table] |= content if isinstance(content, dict) else {}
        laid_over_tables(merged, link.tables)
        laid_over_layouts(merged, link.tables)
        for kind, keys in sound_types(link.tables).items():
            merged["types"][kind] = laid_over(merged["types"].get(kind, {}), keys)
        for number, keys in sound_fields(link.tables).items():
            merged["fields"][number] = laid_over(merged["fields"].get(number, {}), keys)
    return merged


def _dialect(file: _File, merged: Raw) -> Dialect:
    spec: Spec = {"h": _fixed("b", 0, "Header: cut off with the frame")}
    heads = (("t", "mti", 4, "Message type"), ("p", "bitmap", 16, "First bitmap"))
    for key, table, characters, title in (*heads, ("1", "bitmap", 16, "Second bitmap")):
        encoding = merged[table].get("data_enc")
        if key != "1":
            path = f"{table}.data_enc"
            _take(file, [(path, text) for text in check_text_encoding(encoding, data=True)])
        spec[key] = _fixed(encoding, characters // 2 if encoding == "b" else characters, title)
    defaults, found = check_defaults(merged["defaults"])
    _take(file, found)
    types = {}
    for kind, own in merged["types"].items():
        types[kind], found = check_defaults(own, f"types.{kind}")
        _take(file, found)
    frame, found = check_frame(merged["frame"])
    _take(file, found)
    meaning, found = check_meaning(merged)
    _take(file, found)
    fields = {}
    for number in sorted(merged["fields"], key=int):
        own = merged["fields"][number]
        of_type = types.get(own["type"], {}) if isinstance(own.get("type"), str) else {}
        keys = with_defaults(own, laid_over(defaults, of_type))
        written, problems = check_field(keys)
        _take(file, [(f"fields.{number}.{path}", text) for path, text in problems])
        if written is not None:
            spec[number] = written
            name, kind = keys.get("name", ""), keys.get("type", "")
            fields[int(number)] = FieldInfo(int(number), name, kind)
    if not fields and not file.findings:
        file.found("fields", "has no field; give at least one, or extend a dialect")
    layouts, found = check_layouts(merged, spec)
    _take(file, found)
    title = str(file.tables.get("title", ""))
    return Dialect(
        name=file.name,
        title=title,
        spec=spec,
        fields=fields,
        sha256=_fingerprint(spec),
        frame=FramingSpec(**frame),
        extends=str(file.tables.get("extends", "")),
        meaning=meaning,
        layouts=layouts,
    )


def _fixed(encoding: Any, length: int, title: str) -> dict[str, Any]:
    return {
        "data_enc": encoding,
        "len_enc": "ascii",
        "len_type": 0,
        "max_len": length,
        "desc": title,
    }


def _fingerprint(spec: Spec) -> str:
    """SHA-256 over what decides the bytes: descriptions are left out."""
    content = {
        number: {key: value for key, value in keys.items() if key != "desc"}
        for number, keys in spec.items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _take(file: _File, found: Iterable[Found]) -> None:
    for path, text in found:
        file.found(path, text)


def _line_of(text: str, path: str) -> int:
    """The line that a path is written on, or the nearest that holds it; 0 where there is none.

    The TOML reader of the standard library keeps no lines, so the file is looked through again,
    for the forms that dialects are written in: `[table]`, `key = ...`, `N = { ... }`.
    """
    parts = path.split(".") if path else []
    best, table, depth = 0, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        key = re.match(r"""\s*([\w."'-]+)\s*=""", line)
        if header:
            here = table = re.sub(r"""[\s"']""", "", header[1])
        elif key:
            here = ".".join(filter(None, (table, re.sub(r"""["']""", "", key[1]))))
        else:
            continue
        steps = here.split(".")
        if len(steps) > depth and steps == parts[: len(steps)]:
            best, depth = number, len(steps)
    return best
