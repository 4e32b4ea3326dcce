"""Adds an entry to a blocklist's text, or takes one out; every other byte stays as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from gateway.policy.blockfiles import is_entry_of
from gateway.policy.blocklists import ListName

_QUOTED = re.compile(r'[\s"#=]')


@dataclass(frozen=True, slots=True)
class Edited:
    """The new text, and the line (counted from 1) that was written or taken out; 0: none was."""

    content: bytes
    line: int


def entry(
    value: str, *, until: date | None = None, reason: str = "", code: str = "", remark: str = ""
) -> str:
    """The line of an entry, as `parse` reads it; raises ValueError where it could not be one."""
    if any(not text.isprintable() for text in (value, reason, code, remark)):
        raise ValueError("holds a control character or a line's end")
    if '"' in value or '"' in reason:
        raise ValueError('may not hold a quotation mark: "')
    parts = [f'"{value}"' if _QUOTED.search(value) else value]
    if until is not None:
        parts.append(f"until={until.isoformat()}")
    if reason:
        parts.append(f'reason="{reason}"')
    if code:
        parts.append(f"code={code}")
    if remark:
        parts.append(f"# {remark}")
    return " ".join(parts)


def add(name: ListName, content: bytes, value: str, line: str) -> Edited:
    """The text with `line` (made by `entry`) for a value.

    It takes the place of the value's entry where there is one, and stands at the end otherwise.
    """
    lines = _split(content)
    ending = b"\r\n" if lines and lines[0].endswith(b"\r\n") else b"\n"
    new = line.encode() + ending
    for index, old in enumerate(lines):
        if is_entry_of(name, old, value):
            lines[index] = new
            return Edited(b"".join(lines), index + 1)
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += ending
    lines.append(new)
    return Edited(b"".join(lines), len(lines))


def remove(name: ListName, content: bytes, value: str) -> Edited:
    """The text without the value's entry; what stands around it, comments too, stays."""
    lines = _split(content)
    for index, old in enumerate(lines):
        if is_entry_of(name, old, value):
            del lines[index]
            return Edited(b"".join(lines), index + 1)
    return Edited(content, 0)


def _split(content: bytes) -> list[bytes]:
    """Lines as `parse` counts them: only a line feed ends one."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)
