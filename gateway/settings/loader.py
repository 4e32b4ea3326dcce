"""Reads a configuration file and all it names into one checked value, or says all that is wrong."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from gateway.settings.boarding import BoardedTerminals
from gateway.settings.download_rules import check_downloads
from gateway.settings.draft import Part
from gateway.settings.findings import Finding, Findings, SettingsError
from gateway.settings.key_rules import check_key_fields
from gateway.settings.rules import check_dialect_names, check_values
from gateway.settings.schema import Settings
from gateway.settings.shape import Shape
from gateway.settings.translation_rules import check_translation
from gateway.settings.upstream_rules import check_field_rules, read_terminals_files
from gateway.settings.wording import report
from gateway.wire.dialect import Dialect, DialectError, load_dialects, shipped_dialects

_VERSION_CHARS = 12


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole configuration, checked: every name in it exists and every bound holds."""

    settings: Settings
    dialects: Mapping[str, Dialect]
    version: str  # of the contents of every file that was read
    file: Path  # absolute
    warnings: tuple[Finding, ...] = ()
    source: str = ""  # the file's text: where each key stands
    terminals: Mapping[str, BoardedTerminals] = field(default_factory=dict)  # by upstream

    def resolve(self, path: str) -> Path:
        """A path of the configuration as an absolute one: it is relative to the file's folder."""
        return resolve(self.file, path)


@dataclass(slots=True)
class Reading:
    """What could be made of a configuration file, right or wrong."""

    file: Path  # absolute
    findings: Findings
    version: str = ""  # "" where a file could not be read
    source: str = ""
    top: Part | None = None  # None where the file is not TOML
    settings: Settings | None = None
    dialects: dict[str, Dialect] = field(default_factory=dict)
    terminals: dict[str, BoardedTerminals] = field(default_factory=dict)  # by upstream


def load(path: Path) -> Configuration:
    """The configuration in a file; raises SettingsError with every finding where it is not right.

    Files that it names are not looked at, but for those of dialects: see settings/check.py.
    """
    reading = read(path)
    found = reading.findings.in_order()
    if reading.settings is None or reading.findings.has_errors:
        raise SettingsError(found)
    return Configuration(
        settings=reading.settings,
        dialects=reading.dialects,
        version=reading.version,
        file=reading.file,
        warnings=tuple(found),
        source=reading.source,
        terminals=reading.terminals,
    )


def audit_folder(configuration: Configuration) -> Path:
    """Where the audit log is kept: as the settings say, or beside the store."""
    folder = configuration.settings.audit.folder
    if folder is not None:
        return configuration.resolve(folder)
    return configuration.resolve(configuration.settings.store.path).parent / "audit"


def resolve(file: Path, path: str) -> Path:
    """A path that stands in a configuration file, as an absolute one; links are not followed."""
    # resolve() would follow links, and raise at a circle of them.
    return Path(os.path.abspath(file.parent / path))  # noqa: PTH100


def read(path: Path) -> Reading:
    """Everything that the file says and everything that is wrong with it; raises nothing."""
    reading = Reading(file=path.absolute(), findings=Findings(path))
    contents: list[bytes] = []
    document = _document(path, reading.findings, contents)
    if document is None:
        return reading
    reading.source = contents[0].decode("utf-8-sig")
    shape = Shape.of(Settings)
    bad: frozenset[tuple[str | int, ...]] = frozenset()
    try:
        reading.settings = Settings.model_validate(document)
    except ValidationError as error:
        bad = report(reading.findings, error.errors(include_url=False), shape)
    reading.top = Part((), document, shape, bad)
    check_values(reading.top, reading.findings)
    reading.dialects = _dialects(reading, reading.top, contents)
    check_field_rules(reading.top, reading.dialects, reading.findings)
    check_translation(reading.top, reading.dialects, reading.findings)
    check_key_fields(reading.top, reading.dialects, reading.findings)
    check_downloads(reading.top, reading.dialects, reading.findings)
    reading.terminals = read_terminals_files(
        reading.top, partial(resolve, reading.file), reading.findings, contents
    )
    reading.version = _version(contents)
    return reading


# --- the file ------------------------------------------------------------------------------------


def _document(path: Path, findings: Findings, contents: list[bytes]) -> dict[str, object] | None:
    source = _source(path, findings, contents)
    if source is None:
        return None
    try:
        document = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        _not_toml(str(error), source, findings)
        return None
    except (ValueError, RecursionError):
        findings.error_at(1, "holds a number or a nesting beyond all bounds", "remove it")
        return None
    findings.locate_in(source)
    return document


def _source(path: Path, findings: Findings, contents: list[bytes]) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "cannot be read"
        findings.error_at(1, f"cannot be read: {reason}", "make it readable for the gateway's user")
        return None
    contents.append(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        findings.error_at(line, "is not UTF-8 text", "save the file as UTF-8")
        return None


# tomllib's words, and what most often is behind them.
_SYNTAX_REMEDIES = (
    ("Cannot overwrite", "write each key once in its table"),
    ("Cannot declare", "write each table once, or use [[ ]] for several"),
    ("Cannot mutate", "write each key once in its table"),
    ("Expected '='", 'write key = value, with text values in quotes: name = "shops"'),
    ("Invalid value", 'put text in quotes: name = "shops"; numbers, true and false stand alone'),
    ("Unterminated", "close the quotes"),
    ("Illegal character", "close the quotes on the same line"),
    ("Unclosed array", "close the list with ]"),
    ("Unclosed inline", "close the table with }"),
    ("after", "put each key on a line of its own"),
)
_PLACE = re.compile(r" ?\((?:at line (\d+), column (\d+)|at end of document)\)$")


def _not_toml(message: str, source: str, findings: Findings) -> None:
    found = _PLACE.search(message)
    line = int(found.group(1)) if found and found.group(1) else source.rstrip().count("\n") + 1
    column = f", column {found.group(2)}" if found and found.group(2) else ""
    words = _PLACE.sub("", message)
    remedy = next((remedy for start, remedy in _SYNTAX_REMEDIES if start in words), "")
    problem = words[:1].lower() + words[1:]
    findings.error_at(line, f"not TOML{column}: {problem}", remedy or "see toml.io for the syntax")


# --- dialects ------------------------------------------------------------------------------------


def _dialects(reading: Reading, top: Part, contents: list[bytes]) -> dict[str, Dialect]:
    """The shipped dialects and those of the files named; names are checked against them."""
    findings = reading.findings
    files: list[Path] = []
    for path, text in top.texts("dialects"):
        file = reading.file.parent / text
        try:
            contents.append(file.read_bytes())
        except OSError as error:
            findings.error(
                path, f"{file} cannot be read: {error.strerror}", "name a dialect file that exists"
            )
        else:
            files.append(file)
    were_named = top.raw.get("dialects", [])
    all_loaded = isinstance(were_named, list) and len(were_named) == len(files)
    try:
        dialects = load_dialects(files)
    except DialectError as error:
        dialects = shipped_dialects()
        all_loaded = False
        for finding in error.findings:
            problem, _, remedy = finding.text.partition("; ")
            findings.error_in(finding.file, max(finding.line, 1), finding.path, problem, remedy)
    if all_loaded:
        # Else a name that seems unknown may be in a file that could not be used.
        check_dialect_names(top, dialects, findings)
    return dialects


def _version(contents: list[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:_VERSION_CHARS]
