"""The reference of all settings, as a Markdown table a TOML table: `python -m` this prints it."""

from __future__ import annotations

import sys

from gateway.settings.findings import shown_value
from gateway.settings.schema import Settings
from gateway.settings.shape import Shape


def markdown() -> str:
    """Every key of a configuration: what may be written, and what holds where it is absent."""
    sections: list[str] = []
    _table("", Shape.of(Settings), sections)
    return "\n".join(sections)


def _table(name: str, shape: Shape, sections: list[str]) -> None:
    rows: list[str] = []
    inner: list[tuple[str, Shape]] = []
    for key in shape.keys:
        child = shape.key(key)
        if child is None:
            continue
        path = f"{name}.{key}" if name else key
        if child.is_table:
            inner.append((path, child))
        elif child.is_array_of_tables:
            inner.append((f"{path}[]", child.items()))
        else:
            rows.append(f"| `{key}` | {child.describe()} | {_default(shape, key, child)} |")
    if rows:
        title = f"[[{name[:-2]}]]" if name.endswith("[]") else f"[{name}]"
        sections.append(f"### `{title.replace('[].', '.')}`\n" if name else "### At the top\n")
        if shape.note:
            sections.append(f"{shape.note}\n")
        sections.append("| key | what may be written | default |\n| --- | --- | --- |")
        sections.append("\n".join(rows) + "\n")
    for path, child in inner:
        _table(path, child, sections)


def _default(table: Shape, key: str, child: Shape) -> str:
    if key in table.required:
        return "must be written"
    if child.default is None:
        return ""
    if isinstance(child.default, list):
        return "`[" + ", ".join(map(shown_value, child.default)) + "]`"
    return f"`{shown_value(child.default)}`"


if __name__ == "__main__":
    sys.stdout.write(markdown())
