"""Hex as people paste it, from a terminal, a log or a capture, to the bytes that were meant."""

from __future__ import annotations

import ast
import base64
import re
from typing import Final

from gateway.errors import FrameError
from gateway.wire.delimiters import next_content

DUMP_BYTES_MAX: Final = 262_144  # far more than the dump of any frame takes

# "00000010  30 32 ...  |02|", "00000010: 3032 3030 ...  02", "0x0010:  3032", "0010   30 32   02"
_LINE: Final = re.compile(r"\s*(?:0x)?([0-9A-Fa-f]{4,8})(:?\s+)([^\s:].*)")
_GROUP: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){1,8}")
_LINE_DIGITS_MAX: Final = 32
_POST: Final = re.compile(
    rb"(?:POST [^\r\n]*|HTTP/1\.[01] 200[^\r\n]*)\r?\n(?:[^\r\n]+\r?\n)*\r?\n"
)
_LITERAL: Final = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""")
_BASE64_CHARS_MIN: Final = 16
_NOISE: Final = re.compile(r"0[xX]|\\x|[\s:;,.\-_{}()\[\]<>'\"]|\bh\b")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+")


def read_dump(data: bytes) -> list[bytes]:
    """What the data may stand for, the likeliest first: hex, a dump of lines, or itself.

    Empty only where the data is. Text that is hex may also be a message in ASCII that happens to
    hold nothing but hex digits, which is why the data itself always comes last.
    """
    found: list[bytes] = []
    posted = _POST.match(data)
    if posted is not None:
        found.append(data[posted.end() :])
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        # Some dumps show a byte they cannot print as a letter of their own.
        text = data.decode("utf-8", "replace").strip() if b"  " in data[:80] else ""
    if text:
        found += filter(None, (_from_lines(text), _from_hex(text)))
        found += filter(None, (_from_literal(text), _from_base64(text)))
    for one in [*found, data]:
        content = _enclosed(one)
        if content and content not in found:
            found.insert(0, content)
    stripped = data if not text else data.strip(b"\r\n")
    if stripped.strip() and stripped not in found:
        found.append(stripped)
    return found


def _from_hex(text: str) -> bytes:
    digits = _NOISE.sub("", text)
    return bytes.fromhex(digits) if _HEX.fullmatch(digits) else b""


def _from_literal(text: str) -> bytes:
    """The bytes of a literal as Python writes it: b'\\x08\\x00...'."""
    if not _LITERAL.fullmatch(text):
        return b""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return b""
    return value if isinstance(value, bytes) else b""


def _from_base64(text: str) -> bytes:
    """What base64 stands for; digits alone are rather hex, or a message as it is."""
    digits = re.sub(r"\s", "", text)
    if len(digits) < _BASE64_CHARS_MIN or _HEX.fullmatch(digits):
        return b""
    try:
        return base64.b64decode(digits, validate=True)
    except ValueError:
        return b""


def _enclosed(data: bytes) -> bytes:
    """The content of one frame of a serial line, with or without a count before it."""
    for counted in (True, False):
        try:
            start, end, after = next_content(data, 0, counted=counted, bytes_max=DUMP_BYTES_MAX)
        except FrameError:
            continue
        if end > start and after >= len(data.rstrip(b"\r\n")):
            return data[start:end]
    return b""


def _from_lines(text: str) -> bytes:
    """The bytes of a dump with offsets; empty where it is none, or a line is missing."""
    lines: list[tuple[int, str]] = []
    end: int | None = None
    for line in filter(str.strip, text.splitlines()):
        parts = _LINE.fullmatch(line)
        if parts is not None and end is None:
            offset = int(parts[1], 16)
            if not lines and offset and len(parts[2]) == 1:
                return b""  # rather a group of hex than an offset
            lines.append((offset, line[parts.start(3) :]))
        elif lines and end is None and re.fullmatch(r"\s*[0-9A-Fa-f]{4,8}\s*", line):
            end = int(line, 16)  # `hexdump -C` ends with the length alone
        else:
            return b""
    collected = bytearray()
    width = 0  # of the columns of hex, as full lines have shown
    for index, (offset, rest) in enumerate(lines):
        following = lines[index + 1][0] if index + 1 < len(lines) else end
        if following is None:
            collected += _of_last_line(rest[:width] if width else rest)
            continue
        size = following - offset
        taken = re.match(rf"(?:\s*-?[0-9A-Fa-f]{{2}}){{{size}}}", rest) if 0 < size <= 64 else None
        if taken is None:
            return b""
        width = max(width, taken.end())
        collected += bytes.fromhex(re.sub(r"[\s-]", "", taken[0]))
    return bytes(collected)


def _of_last_line(text: str) -> bytes:
    """Groups of hex up to the column of characters, of which nothing else tells where it begins."""
    groups: list[str] = []
    for part in re.split(r"\s\s+", text.split("|")[0].rstrip()):
        words = part.split()
        fits = all(map(_GROUP.fullmatch, words))
        if not fits or sum(map(len, groups)) + sum(map(len, words)) > _LINE_DIGITS_MAX:
            break
        groups += words
    return bytes.fromhex("".join(groups))
