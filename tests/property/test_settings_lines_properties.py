"""Whatever TOML is written, every key is found on a line that shows it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.lines import KeyPath, Lines

_BARE = "abcdefghijklmnopqrstuvwxyz0123456789_-"
_bare_keys = st.text(_BARE, min_size=1, max_size=6)
_keys = _bare_keys | st.text("ab[]{}=#.,'\n ", min_size=1, max_size=5)
_texts = st.text("ab[]{}=#.,'\"\n\\ é", max_size=12)
_scalars = st.integers() | st.booleans() | _texts
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)
_tables = st.dictionaries(_keys, _values, max_size=4)


class Writer:
    """Writes a document and notes on which line it put each key."""

    def __init__(self, data: st.DataObject) -> None:
        self.text = ""
        self.expected: dict[KeyPath, int] = {}
        self._data = data

    def document(self, tables: dict[str, dict[str, Any] | list[dict[str, Any]]]) -> None:
        for name, content in tables.items():
            is_array = isinstance(content, list)
            for index, table in enumerate(content if isinstance(content, list) else [content]):
                self._noise()
                path: KeyPath = (name, index) if is_array else (name,)
                self._here(path)
                header = self._key(name)
                self.text += f"[[{header}]]" if is_array else f"[ {header} ]"
                self._end()
                for key, value in table.items():
                    self._pair((*path, key), value, inline=False)
                    self._end()

    def _pair(self, path: KeyPath, value: Any, *, inline: bool) -> None:
        if not inline:
            self._noise()
        self._here(path)
        self.text += self._key(str(path[-1])) + self._one_of("=", " = ", "\t=")
        self._value(path, value, inline=inline)

    def _value(self, path: KeyPath, value: Any, *, inline: bool) -> None:
        if isinstance(value, dict):
            self.text += "{ "
            for at, (key, inner) in enumerate(value.items()):
                self.text += ", " if at else ""
                self._pair((*path, key), inner, inline=True)
            self.text += " }"
        elif isinstance(value, list):
            self.text += "["
            for at, inner in enumerate(value):
                self.text += self._one_of("", " ", "\n", "\n# [ } ' \"\n  ")
                self._here((*path, at))
                self._value((*path, at), inner, inline=inline)
                self.text += (
                    self._one_of(",", "\n,") if at + 1 < len(value) else self._one_of("", ",")
                )
            self.text += self._one_of("]", "\n]")
        elif isinstance(value, bool):
            self.text += str(value).lower()
        elif isinstance(value, str):
            self.text += self._string(value)
        else:
            self.text += str(value)

    def _string(self, value: str) -> str:
        forms = [json.dumps(value)]
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        forms.append(f'"""\n{escaped}"""')
        if "'" not in value:
            forms.append(f"'''\n{value}'''")
            if "\n" not in value:
                forms.append(f"'{value}'")
        return self._one_of(*forms)

    def _key(self, key: str) -> str:
        return key if key and set(key) <= set(_BARE) else json.dumps(key)

    def _here(self, path: KeyPath) -> None:
        self.expected[path] = self.text.count("\n") + 1

    def _noise(self) -> None:
        self.text += self._one_of("", "\n", '# a = [ "\n', "\t\n  ")

    def _end(self) -> None:
        self.text += self._one_of("\n", " # [x] = '''\n")

    def _one_of(self, *forms: str) -> str:
        return self._data.draw(st.sampled_from(forms))


@given(
    tables=st.dictionaries(_keys, _tables | st.lists(_tables, min_size=1, max_size=3), max_size=4),
    data=st.data(),
)
def test_every_key_is_found_where_it_was_written(
    tables: dict[str, dict[str, Any] | list[dict[str, Any]]], data: st.DataObject
) -> None:
    writer = Writer(data)
    writer.document(tables)
    assert tomllib.loads(writer.text) == tables  # the writer itself is right
    lines = Lines(writer.text)
    assert {path: lines.of(path) for path in writer.expected} == writer.expected


@given(st.text("ab=.[]{}\"',#\n 1", max_size=60))
def test_whatever_tomllib_takes_is_scanned(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = Lines(text)
    last = text.count("\n") + 1
    for path in _paths((), document):
        assert 1 <= lines.of(path) <= last
        # A key that was found nowhere would get its parent's line, which lacks its name.
        key = path[-1]
        if isinstance(key, str) and key.isalnum():
            assert key in text.split("\n")[lines.of(path) - 1]


def _paths(path: KeyPath, value: Any) -> Iterator[KeyPath]:
    children: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, inner in children:
        yield (*path, key)
        yield from _paths((*path, key), inner)
