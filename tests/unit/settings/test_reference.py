"""The reference of settings in config/README.md is the one that the schema gives."""

from __future__ import annotations

from pathlib import Path

from gateway.settings.reference import markdown

README = Path(__file__).parents[3] / "config" / "README.md"
HEADING = "This part is printed by `python -m gateway.settings.reference`.\n\n"


def test_the_reference_is_up_to_date() -> None:
    _, heading, reference = README.read_text(encoding="utf-8").partition(HEADING)
    assert heading
    assert reference == markdown()


def test_every_table_is_in_it() -> None:
    text = markdown()
    for title in ("[node]", "[[listeners]]", "[listeners.framing]", "[[groups.members]]"):
        assert f"### `{title}`\n" in text
    assert '| `approving_codes` | a list, each text in quotes | `["00", ' in text
    assert "| `name` | a name in quotes" in text
