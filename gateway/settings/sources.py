"""The files that a configuration is made of: which they are, what is in them, what has changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.settings.loader import Configuration

LISTS = ("terminals", "cards", "bins", "merchants", "networks", "certificates")
DOWNLOADS = ("ca-keys.toml", "aids.toml", "blacklist.txt", "parameters.toml")
_VERSION_CHARS = 12
_DIFFERENCE_LINES_MAX = 50
_DIFFERENCE_CHARS_MAX = 200
_PEM = b"-----BEGIN "
_UNREADABLE = b"unreadable: "

# What tells that a file may have changed, without reading it.
_Sight = tuple[int, int, int, int, int]


def list_files(configuration: Configuration) -> dict[str, Path]:
    """The files of the blocklists by the list's name, whether they are there or not."""
    folder = configuration.resolve(configuration.settings.blocklists.folder)
    return {name: folder / name for name in LISTS}


def download_files(configuration: Configuration) -> list[Path]:
    """The files of downloads, whether they are there or not; none where nobody serves them."""
    if all(one.downloads != "serve" for one in configuration.settings.listeners):
        return []
    folder = configuration.resolve(configuration.settings.downloads.folder)
    return [folder / name for name in DOWNLOADS]


def files_of(configuration: Configuration) -> list[Path]:
    """Every file whose content decides on requests, the configuration's own first.

    Listeners' certificates and revocation lists are not among them: see `certificate_files`.
    """
    named = list(_certificates_of_upstreams(configuration))
    return list(
        dict.fromkeys(
            (
                *source_files(configuration),
                *(configuration.resolve(path) for path in named),
                *list_files(configuration).values(),
                *download_files(configuration),
            )
        )
    )


def certificate_files(configuration: Configuration) -> list[Path]:
    """Certificates, keys and revocation lists of the listeners."""
    found: list[str] = []
    for listener in configuration.settings.listeners:
        tls = listener.tls
        if tls is not None:
            found += [tls.certificate, tls.key, tls.client_ca, *([tls.crl] if tls.crl else [])]
    return list(dict.fromkeys(map(configuration.resolve, found)))


def source_files(configuration: Configuration) -> list[Path]:
    """The files that loading it reads: its own, dialects, and terminals of upstreams."""
    settings = configuration.settings
    terminals = (one.terminals_file for one in settings.upstreams)
    named = [*settings.dialects, *(path for path in terminals if path is not None)]
    return [configuration.file, *map(configuration.resolve, named)]


def _certificates_of_upstreams(configuration: Configuration) -> Iterator[str]:
    for upstream in configuration.settings.upstreams:
        tls = upstream.tls
        if tls is not None:
            yield from (file for file in (tls.ca, tls.certificate, tls.key) if file is not None)


# --- what is in them ------------------------------------------------------------------------------


class Digests:
    """The hash of each file's content; a file is read again only where it may have changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Sight, str]] = {}

    def of(self, files: Iterable[Path], *, thorough: bool = False) -> dict[Path, str]:
        """The SHA-256 of each file, "" for one that is absent; reads files.

        `thorough` reads them all: some file systems do not tell each change.
        """
        found: dict[Path, str] = {}
        for file in files:
            sight = _sight(file)
            if sight is None:
                found[file] = ""
                continue
            known = self._known.get(file)
            if known is None or known[0] != sight or thorough:
                known = (sight, _digest(file))
                self._known[file] = known
            found[file] = known[1]
        for gone in self._known.keys() - found.keys():
            del self._known[gone]
        return found


def _sight(file: Path) -> _Sight | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return (0, 0, 0, 0, error.errno or 0)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _digest(file: Path) -> str:
    """What cannot be read differs from all that can, so that it is looked at and told."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return hashlib.sha256(_UNREADABLE + b"no file").hexdigest()
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        reason = os.strerror(error.errno or 0).encode()
        return hashlib.sha256(_UNREADABLE + reason).hexdigest()


def version_of(digests: Mapping[Path, str], *, beside: Path) -> str:
    """The id of a configuration: the same files with the same content have the same one.

    Paths count as they are seen from the configuration file, `beside`: two nodes that keep it in
    different folders run the same version. What is absent counts as if it were empty.
    """
    digest = hashlib.sha256()
    for file, content in sorted(digests.items()):
        if content:
            digest.update(f"{os.path.relpath(file, beside.parent)}\0{content}\n".encode())
    return digest.hexdigest()[:_VERSION_CHARS]


# --- the difference -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """What an edit did to one file, for the audit log."""

    file: str
    removed: int  # lines
    added: int
    lines: tuple[str, ...]  # the first of them, with - or + before each

    def to_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "removed": self.removed,
            "added": self.added,
            "lines": list(self.lines),
        }


def difference(file: Path, old: bytes | None, new: bytes | None) -> Difference:
    """The lines that are gone and those that are new, as a set: a million lines take a second."""
    if any(content is not None and _PEM in content for content in (old, new)):
        return Difference(file.name, 0, 0, ("(a key or certificate: not shown)",))
    before, after = _lines(old), _lines(new)
    gone, come = Counter(before), Counter(after)
    gone.subtract(after)
    come.subtract(before)
    removed, added = +gone, +come
    shown = [
        *(f"-{line}" for line in _first(removed)),
        *(f"+{line}" for line in _first(added)),
    ]
    return Difference(file.name, removed.total(), added.total(), tuple(shown))


def _lines(content: bytes | None) -> list[bytes]:
    return [] if content is None else content.splitlines()


def _first(lines: Counter[bytes]) -> Iterator[str]:
    for number, (line, count) in enumerate(lines.items()):
        if number == _DIFFERENCE_LINES_MAX:
            yield "…"
            return
        text = line[:_DIFFERENCE_CHARS_MAX].decode("utf-8", "backslashreplace")
        yield text if count == 1 else f"{text} ({count} times)"


class Texts:
    """The content of the files as they are in force, for the next difference.

    What is larger than the bound is told by its number of lines only.
    """

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: dict[Path, bytes] = {}

    def changed(
        self, old: Mapping[Path, str], new: Mapping[Path, str]
    ) -> tuple[list[Difference], Callable[[], None]]:
        """What differs between two states of the files, and how to keep the new one."""
        found: list[Difference] = []
        fresh: dict[Path, bytes] = {}
        for file in sorted(old.keys() | new.keys()):
            if old.get(file, "") == new.get(file, ""):
                continue
            content = _content(file, self._bytes_max)
            if content is None and new.get(file):
                found.append(Difference(file.name, 0, 0, ("(too large to be compared)",)))
                continue
            if content is not None and hashlib.sha256(content).hexdigest() != new.get(file):
                found.append(Difference(file.name, 0, 0, ("(edited again meanwhile)",)))
                continue
            if content is not None:
                fresh[file] = content
            found.append(difference(file, self._kept.get(file), content))

        def keep() -> None:
            for file in new:
                if file in fresh:
                    self._kept[file] = fresh[file]
            for file in self._kept.keys() - new.keys():
                del self._kept[file]

        return found, keep

    def take(self, files: Iterable[Path]) -> None:
        """Keep what is in the files now; reads them."""
        for file in files:
            content = _content(file, self._bytes_max)
            if content is not None:
                self._kept[file] = content


def _content(file: Path, bytes_max: int) -> bytes | None:
    try:
        if file.stat().st_size > bytes_max:
            return None
        return file.read_bytes()
    except OSError:
        return None
