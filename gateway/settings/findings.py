"""What is wrong with a configuration, where it stands, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.errors import GatewayError
from gateway.settings.lines import KeyPath, Lines

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong (error) or should be looked at (warning)."""

    file: str
    line: int  # counted from 1
    path: str  # of the key, such as listeners[0].framing.length; "": the whole file
    problem: str
    remedy: str
    severity: Severity

    def __str__(self) -> str:
        """`file:line: path: what is wrong, and what would be right`, on one line."""
        place = f"{self.file}:{self.line}: " + (f"{self.path}: " if self.path else "")
        return place + self.problem + (f"; {self.remedy}" if self.remedy else "")

    def to_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "line": self.line,
            "path": self.path,
            "problem": self.problem,
            "remedy": self.remedy,
            "severity": self.severity,
        }


class SettingsError(GatewayError):
    """A configuration cannot be used; `findings` holds everything that was found, warnings too."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class Findings:
    """Collects the findings of one file."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self._lines = Lines("")
        self._found: dict[Finding, None] = {}

    def locate_in(self, source: str) -> None:
        """From now on key paths are looked up in this source, which must be valid TOML."""
        self._lines = Lines(source)

    def error(self, path: KeyPath, problem: str, remedy: str) -> None:
        self._add(self._file, self.line_of(path), key_text(path), problem, remedy, "error")

    def warning(self, path: KeyPath, problem: str, remedy: str) -> None:
        self._add(self._file, self.line_of(path), key_text(path), problem, remedy, "warning")

    def error_at(self, line: int, problem: str, remedy: str) -> None:
        """An error that belongs to a line rather than to a key."""
        self._add(self._file, line, "", problem, remedy, "error")

    def error_in(self, file: str, line: int, path: str, problem: str, remedy: str) -> None:
        """An error in another file, which this one names."""
        self._add(file, line, path, problem, remedy, "error")

    def line_of(self, path: KeyPath) -> int:
        return self._lines.of(path)

    def _add(
        self, file: str, line: int, path: str, problem: str, remedy: str, severity: Severity
    ) -> None:
        finding = Finding(
            file=file,
            line=line,
            path=_printable(path),
            problem=_printable(problem),
            remedy=_printable(remedy),
            severity=severity,
        )
        self._found[finding] = None  # The same finding twice says nothing more.

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self._found)

    def in_order(self) -> list[Finding]:
        """All findings, the file's own first, by line, and within a line as they were found."""
        return sorted(
            self._found, key=lambda found: (found.file != self._file, found.file, found.line)
        )


def key_text(path: KeyPath) -> str:
    """A key path as people write it: `listeners[0].framing.length`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if part.replace("-", "").replace("_", "").isalnum() else shown_value(part)
            text += f".{shown}" if text else shown
    return text


_SHOWN_CHARS_MAX = 60
_NUMBER_BITS_MAX = 64


def shown_value(value: object) -> str:
    """A value of the file in a message: on one line, cut where it is long."""
    if isinstance(value, str):
        text = '"' + _printable(value) + '"'
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int) and value.bit_length() > _NUMBER_BITS_MAX:
        text = "a number of more than 64 bits"
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = "a list" if value else "an empty list"
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + '…"'


def _printable(text: str) -> str:
    """A text that cannot break or colour the line it is printed on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
