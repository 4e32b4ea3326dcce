"""What may stand at each place of a configuration, in plain words: a reader of the JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.settings.findings import shown_value
from gateway.settings.lines import KeyPath


class Shape:
    """One node of a JSON Schema, with its references and `null` alternatives resolved."""

    def __init__(self, node: Mapping[str, Any], definitions: Mapping[str, Any]) -> None:
        self._node = _resolved(node, definitions)
        self._definitions = definitions

    @classmethod
    def of(cls, model: type[BaseModel]) -> Shape:
        schema = model.model_json_schema()
        return cls(schema, schema.get("$defs", {}))

    @property
    def keys(self) -> list[str]:
        """The keys of a table, in the order of the schema."""
        return list(self._node.get("properties", {}))

    @property
    def required(self) -> list[str]:
        """The keys that a table must have."""
        return list(self._node.get("required", []))

    @property
    def note(self) -> str:
        """What the schema says a table is, on one line."""
        return " ".join(str(self._node.get("description", "")).split())

    @property
    def choices(self) -> list[Any]:
        """The values that are allowed, where they are a closed list."""
        if "const" in self._node:
            return [self._node["const"]]
        return list(self._node.get("enum", []))

    @property
    def default(self) -> object:
        """The value of an absent key; None where there is none."""
        return self._node.get("default")

    @property
    def is_table(self) -> bool:
        return self._node.get("type") == "object"

    @property
    def is_array_of_tables(self) -> bool:
        return self._node.get("type") == "array" and self.items().is_table

    def key(self, key: str) -> Shape | None:
        """The shape of a table's key; None where the table has no such key."""
        node = self._node.get("properties", {}).get(key)
        return None if node is None else Shape(node, self._definitions)

    def items(self) -> Shape:
        """The shape of a list's elements."""
        return Shape(self._node.get("items", {}), self._definitions)

    def at(self, path: KeyPath) -> Shape | None:
        """The shape at a path below this one; None where nothing may stand there."""
        shape: Shape | None = self
        for part in path:
            if shape is None:
                return None
            shape = shape.items() if isinstance(part, int) else shape.key(part)
        return shape

    def describe(self) -> str:
        """What may be written here: `a whole number from 1 to 100`."""
        if self.choices:
            shown = ", ".join(shown_value(choice) for choice in self.choices)
            return f"one of {shown}" if len(self.choices) > 1 else shown
        kind = self._node.get("type")
        if kind == "array":
            least = "at least one item" if self._node.get("minItems") else ""
            inner = f", each {self.items().describe()}" if self._node.get("items") else ""
            return f"a list{' of ' + least if least else ''}{inner}"
        if kind == "object":
            return "a table with " + ", ".join(self.keys)
        if kind in ("integer", "number"):
            return ("a whole number" if kind == "integer" else "a number") + self._bounds()
        if kind == "boolean":
            return "true or false"
        return str(self._node.get("description", "text in quotes"))

    def _bounds(self) -> str:
        low, above = self._node.get("minimum"), self._node.get("exclusiveMinimum")
        high = self._node.get("maximum")
        least = f" from {_plain(low)}" if low is not None else ""
        if above is not None:
            least = f" above {_plain(above)}"
        most = f" to {_plain(high)}" if high is not None else ""
        return least + (most if low is not None else most.replace(" to ", " and up to "))


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node without `$ref` and without the `null` that TOML cannot write."""
    if "anyOf" in node:
        others = [option for option in node["anyOf"] if option.get("type") != "null"]
        if len(others) == 1:
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            return {**_resolved(others[0], definitions), **rest}
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**_resolved(target, definitions), **rest}
    return node


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
