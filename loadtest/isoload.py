"""isoload: a load tool that shares no code with us, built where its sources are at hand."""

from __future__ import annotations

from pathlib import Path

from loadtest.processes import run_once

_ROOT = Path(__file__).resolve().parent.parent
SOURCES = _ROOT.parent / "shared" / "tools" / "isoload"
_TOOL = _ROOT / "var" / "tools" / "isoload"
_BUILD_S = 300.0


async def built(sources: Path = SOURCES) -> Path | None:
    """The program, built if it was not; None where there are no sources. Raises ChildFailed."""
    build = sources / "build.sh"
    if not build.exists():
        return None
    if not _TOOL.exists():
        await run_once("bash", str(build), str(_TOOL.parent), timeout_s=_BUILD_S)
    return _TOOL
