"""However a configuration is spoilt, only SettingsError comes of it, and it says where."""

from __future__ import annotations

import copy
import json
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gateway.settings.check import check
from gateway.settings.findings import SettingsError
from gateway.settings.loader import load

EXAMPLES = sorted((Path(__file__).parents[2] / "config").glob("*.toml"))
NOW = datetime(2026, 11, 21, tzinfo=UTC)

ODD_TEXTS = (
    *("127.0.0.1:9000", "[::]:1", "10.0.0.0/8", "T0000001-T0000002", "A*", "plain", "iso87_ascii"),
    *("", "/", "/dev/null/x", "gateway.toml", "\0", "x" * 300, "\u202e\r"),
)
_scalars = st.integers() | st.floats() | st.booleans() | st.text(max_size=10)
_values = st.recursive(
    _scalars | st.sampled_from(ODD_TEXTS),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=3,
)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every table or list in a value, with each of its keys and one more."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
        yield value, "new"
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return
    for key in keys:
        yield value, key
        yield from places(value[key])


def spoil(data: st.DataObject, document: dict[str, Any]) -> None:
    """Replace, add or remove one thing somewhere."""
    place, key = data.draw(st.sampled_from(list(places(document))), label="place")
    if key != "new" and data.draw(st.integers(0, 4)) == 0:
        del place[key]
    else:
        place[key] = data.draw(st.sampled_from(ODD_TEXTS) | _values, label="value")


# Shrinking draws from a changed document each time, and takes minutes.
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(example=st.sampled_from(EXAMPLES), times=st.integers(1, 6), data=st.data())
def test_a_spoilt_configuration_is_reported(example: Path, times: int, data: st.DataObject) -> None:
    document = copy.deepcopy(tomllib.loads(example.read_text(encoding="utf-8")))
    for _ in range(times):
        spoil(data, document)
    text = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in document.items())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config" / "gateway.toml"
        file.parent.mkdir()
        file.write_text(text, encoding="utf-8")
        report = check(file, now=NOW, addresses_in_use=())
        try:
            load(file)
        except SettingsError as error:
            found = error.findings
            assert any(finding.severity == "error" for finding in found)
        else:
            found = ()
    assert set(found) <= set(report.findings)
    for finding in report.findings:
        assert 1 <= finding.line <= text.count("\n") + 1
        assert finding.remedy
        assert str(finding).isprintable()
