"""On which line of a TOML source each key stands, because tomllib keeps no positions."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]

_BLANKS = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    # Up to two quotes may stand before the three that end a multi-line string.
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_OTHER_SCALAR = re.compile(r"[^,\]}#\n]+")


class Lines:
    """The line of every key, table and list element of a TOML source."""

    def __init__(self, source: str) -> None:
        """Scan a source that tomllib has accepted; any other raises ValueError."""
        self._lines = _Scanner(source).scan()

    def of(self, path: KeyPath) -> int:
        """The line of the key at `path`, or of its nearest parent; 1 where there is none."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return 1


class _Scanner:
    """Walks the source once; it knows keys, brackets and strings, and leaves values alone."""

    def __init__(self, source: str) -> None:
        self._source = source.replace("\r\n", "\n")
        self._at = 0
        self._starts = [0] + [found.end() for found in re.finditer("\n", self._source)]
        self._lines: dict[KeyPath, int] = {}
        # Arrays of tables: the index of the element that the source is in now.
        self._elements: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._next_token():
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    # --- the parts of a document ----------------------------------------------------------------

    def _header(self) -> KeyPath:
        """`[a.b]` or `[[a.b]]`: the path of the table that the pairs after it belong to."""
        line = self._line()
        is_element = self._source.startswith("[[", self._at)
        self._at += 2 if is_element else 1
        keys = self._keys()
        self._expect("]]" if is_element else "]")
        path: KeyPath = ()
        for key in keys[:-1]:
            path = (*path, key)
            self._lines.setdefault(path, line)
            if path in self._elements:
                path = (*path, self._elements[path])
        path = (*path, keys[-1])
        if not is_element:
            # A header of its own says more than one that only passed through.
            self._lines[path] = line
            return path
        self._lines.setdefault(path, line)
        self._elements[path] = self._elements.get(path, -1) + 1
        path = (*path, self._elements[path])
        self._lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._expect("=")
        self._skip(_BLANKS)
        self._value(path)

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._peek() == ".":
            self._at += 1
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._skip(_BLANKS)
        if self._peek() in ('"', "'"):
            # tomllib itself undoes the escapes.
            key = next(iter(tomllib.loads(self._take(_STRING) + " = 0")))
        else:
            key = self._take(_BARE_KEY)
        self._skip(_BLANKS)
        return key

    def _value(self, path: KeyPath) -> None:
        first = self._peek()
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in ('"', "'"):
            self._take(_STRING)
        else:
            self._take(_OTHER_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while self._next_token() and self._peek() != "]":
            element = (*path, index)
            self._lines[element] = self._line()
            self._value(element)
            index += 1
            if self._next_token() and self._peek() == ",":
                self._at += 1
        self._expect("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while self._next_token() and self._peek() != "}":
            self._pair(path)
            if self._next_token() and self._peek() == ",":
                self._at += 1
        self._expect("}")

    # --- the cursor -----------------------------------------------------------------------------

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _next_token(self) -> bool:
        """Step over space and comments; False at the end of the source."""
        self._skip(_SPACE_AND_COMMENTS)
        return self._at < len(self._source)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._source, self._at)
        if found:
            self._at = found.end()

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._source, self._at)
        if not found or not found.group():
            raise ValueError(f"line {self._line()}: not TOML")
        self._at = found.end()
        return found.group()

    def _expect(self, text: str) -> None:
        if not self._source.startswith(text, self._at):
            raise ValueError(f"line {self._line()}: {text!r} expected")
        self._at += len(text)
