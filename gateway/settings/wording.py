"""pydantic's errors in plain words: what is wrong, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic_core import ErrorDetails

from gateway.settings.findings import Findings, key_text, shown_value
from gateway.settings.lines import KeyPath
from gateway.settings.shape import Shape

_NAMES_SHOWN_MAX = 20


def report(findings: Findings, errors: Iterable[ErrorDetails], shape: Shape) -> frozenset[KeyPath]:
    """Turn the schema's errors into findings; returns the paths whose values cannot be used."""
    bad: set[KeyPath] = set()
    for error in errors:
        path: KeyPath = tuple(error["loc"])
        if error["type"] == "extra_forbidden":
            _unknown_key(findings, path, shape)
        elif error["type"] == "missing":
            _missing(findings, path, shape)
        else:
            bad.add(path)
            _wrong_value(findings, path, error, shape)
    return frozenset(bad)


def did_you_mean(name: str, known: Iterable[str], *, what: str) -> str:
    """The nearest of the known names, or all of them where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {shown_value(near[0])}?"
    if not names:
        return f"there is no {what} yet: add one"
    shown = ", ".join(map(shown_value, names[:_NAMES_SHOWN_MAX])) + (
        ", …" if len(names) > _NAMES_SHOWN_MAX else ""
    )
    return f"use one of: {shown}"


def _unknown_key(findings: Findings, path: KeyPath, shape: Shape) -> None:
    table = shape.at(path[:-1])
    where = key_text(path[:-1])
    known = table.keys if table else []
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"remove it, or use one of: {', '.join(known)}"
    findings.error(path, f"unknown key{' in ' + where if where else ''}", remedy)


def _missing(findings: Findings, path: KeyPath, shape: Shape) -> None:
    wanted = shape.at(path)
    key = key_text(path)
    if wanted is None:
        remedy = f"add {path[-1]}"
    elif wanted.is_array_of_tables:
        remedy = f"add at least one [[{key}]] table"
    elif wanted.is_table:
        remedy = f"add a [{key}] table"
    else:
        remedy = f"add {path[-1]} = {wanted.describe()}"
    findings.error(path, "is missing", remedy)


_TOO_SMALL = frozenset(("greater_than", "greater_than_equal"))
_TOO_LARGE = frozenset(("less_than", "less_than_equal"))


def _wrong_value(findings: Findings, path: KeyPath, error: ErrorDetails, shape: Shape) -> None:
    wanted = shape.at(path)
    value = error["input"]
    shown = shown_value(value)
    kind = error["type"]
    if kind in _TOO_SMALL:
        problem = f"{shown} is too small"
    elif kind in _TOO_LARGE:
        problem = f"{shown} is too large"
    elif kind in ("too_short", "string_too_short"):
        problem = "is empty"
    elif kind.endswith("_type"):
        type_ = _type_of(value)
        problem = (
            f"{shown} is {type_}, which does not fit here" if type_ else f"{shown} does not fit"
        )
    else:
        problem = f"{shown} is not allowed here"
    if wanted is None:
        remedy = "see the commented example, config/gateway.toml"
    else:
        remedy = f"write {wanted.describe()}"
        texts = [choice for choice in wanted.choices if isinstance(choice, str)]
        near = difflib.get_close_matches(value, texts, n=1) if isinstance(value, str) else []
        if near:
            remedy = f"did you mean {shown_value(near[0])}? (write {wanted.describe()})"
    findings.error(path, problem, remedy)


def _type_of(value: object) -> str:
    """What a value is; "" where the value as it is shown says so itself."""
    if isinstance(value, bool | dict | list):
        return ""
    return {str: "text", int: "a whole number", float: "a number"}.get(
        type(value), "a date or time"
    )
