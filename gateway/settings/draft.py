"""A configuration as it was written, right or wrong: lets each rule look at what is usable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.settings.lines import KeyPath
from gateway.settings.shape import Shape


@dataclass(frozen=True, slots=True)
class Part:
    """One table of the file.

    A value is given only if it has the type and the bounds of the schema; an absent one has its
    default. So the rules that compare values say nothing about those already found to be wrong,
    and one mistake does not hide the others.
    """

    path: KeyPath
    raw: Mapping[str, object]
    shape: Shape
    bad: frozenset[KeyPath]  # the paths of values that the schema refused

    def at(self, key: str) -> KeyPath:
        return (*self.path, key)

    def has(self, key: str) -> bool:
        """Whether the key was written, whatever its value."""
        return key in self.raw

    def text(self, key: str) -> str | None:
        value = self._value(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> float | None:
        value = self._value(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and isinstance(value, int | float) else None

    def flag(self, key: str) -> bool:
        return self._value(key) is True

    def texts(self, key: str) -> Iterator[tuple[KeyPath, str]]:
        """The usable elements of a list of texts, each with its path."""
        value = self._value(key)
        for index, element in enumerate(value if isinstance(value, list) else ()):
            path = (*self.path, key, index)
            if isinstance(element, str) and path not in self.bad:
                yield path, element

    def part(self, key: str) -> Part:
        """The table under a key; one that is absent has nothing but defaults."""
        value = self.raw.get(key)
        shape = self.shape.key(key)
        if shape is None:
            raise KeyError(key)
        return Part(self.at(key), value if isinstance(value, dict) else {}, shape, self.bad)

    def parts(self, key: str) -> Iterator[Part]:
        """The tables of an array of tables."""
        value = self.raw.get(key)
        shape = self.shape.key(key)
        if shape is None:
            raise KeyError(key)
        for index, element in enumerate(value if isinstance(value, list) else ()):
            if isinstance(element, dict):
                yield Part((*self.path, key, index), element, shape.items(), self.bad)

    def _value(self, key: str) -> object:
        if self.at(key) in self.bad:
            return None
        if key in self.raw:
            return self.raw[key]
        shape = self.shape.key(key)
        if shape is None:
            raise KeyError(key)
        return shape.default
