"""Every link in the documents leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("certs/*.md"))
    if ".venv" not in path.parts
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def links(document: Path) -> list[str]:
    return [link for link in LINK.findall(document.read_text()) if "://" not in link]


def test_there_are_documents_with_links() -> None:
    assert ROOT / "docs" / "ARCHITECTURE.md" in DOCUMENTS
    assert len(links(ROOT / "docs" / "ARCHITECTURE.md")) > 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_resolves(document: Path) -> None:
    broken = [
        link for link in links(document) if not (document.parent / link.partition("#")[0]).exists()
    ]
    assert not broken
