"""`make fuzz-atheris`: the same target, guided by coverage; atheris is no requirement."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed; `pip install atheris` where it has a wheel, or: make fuzz")

with atheris.instrument_imports(include=["gateway.wire", "iso8583"]):
    from tests.fuzz.seeds import framed, links, seeds
    from tests.fuzz.target import through

_LINKS = links()


def one_input(data: bytes) -> None:
    """The first byte says which link reads the rest."""
    if data:
        through(_LINKS[data[0] % len(_LINKS)], data[1:])


def main() -> None:
    with TemporaryDirectory(prefix="gw") as folder:
        for number, seed in enumerate(seeds(_LINKS)):
            frame = framed(_LINKS[seed.link].spec, seed.body)
            Path(folder, str(number)).write_bytes(bytes((seed.link,)) + frame)
        atheris.Setup([*sys.argv, "-max_len=5000", folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
