"""The files that terminals' downloads are served from, read and checked whole."""

from __future__ import annotations

import hashlib
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes

from gateway.settings.findings import Finding
from gateway.settings.lines import KeyPath, Lines


class Content(StrEnum):
    """What can be downloaded, each with a version of its own."""

    PARAMETERS = "parameters"
    KEYS = "keys"
    AIDS = "aids"
    BLACKLIST = "blacklist"


FILES: Final = {
    Content.PARAMETERS: "parameters.toml",
    Content.KEYS: "ca-keys.toml",
    Content.AIDS: "aids.toml",
    Content.BLACKLIST: "blacklist.txt",
}
RECORDS_MAX: Final = 99  # a terminal says in two digits how many it knows already
BLACKLIST_MAX: Final = 999  # and in three
_FILE_BYTES_MAX: Final = 1_048_576
_BIN: Final = re.compile(r"[0-9]{2,12}")  # no card number, which PCI DSS would have masked
_VERSION_CHARS: Final = 12
_VALUE_BYTES_MAX: Final = 65_535  # what two bytes of a length can say


@dataclass(frozen=True, slots=True)
class Record:
    """A key or the parameters of an application."""

    name: bytes  # TLV: what a terminal asks for it by
    listed: bytes  # TLV: its entry in the list of what there is
    data: bytes  # TLV: all of it
    expires: date | None = None


@dataclass(frozen=True, slots=True)
class DownloadSet:
    """All that can be downloaded, and which version each is; absent what there is no file of."""

    keys: tuple[Record, ...] = ()
    aids: tuple[Record, ...] = ()
    blacklist: tuple[str, ...] = ()
    parameters: bytes = b""
    versions: Mapping[Content, str] | None = None


def read_downloads(folder: Path, *, answer_bytes_max: int) -> tuple[DownloadSet, list[Finding]]:
    """What the files of a folder say, and everything that is wrong in them; call it in a thread.

    It reads files, of none more than a mebibyte, and parses them, which may take a second.
    A record has to go into one answer of `answer_bytes_max` bytes, its first byte being a status.
    """
    room = answer_bytes_max - 1
    files = {content: _File(folder / name) for content, name in FILES.items()}
    keys = tuple(_records(files[Content.KEYS], "keys", _key, room))
    aids = tuple(_records(files[Content.AIDS], "aids", _aid, room))
    blacklist = tuple(_blacklist(files[Content.BLACKLIST]))
    parameters = _parameters(files[Content.PARAMETERS], room)
    contents = {
        Content.KEYS: b"".join(one.data for one in keys),
        Content.AIDS: b"".join(one.data for one in aids),
        Content.BLACKLIST: "\n".join(blacklist).encode(),
        Content.PARAMETERS: parameters,
    }
    versions = {
        content: hashlib.sha256(data).hexdigest()[:_VERSION_CHARS]
        for content, data in contents.items()
        if files[content].content is not None
    }
    found = DownloadSet(keys, aids, blacklist, parameters, versions)
    return found, [finding for file in files.values() for finding in file.findings]


class _File:
    """One file, its content where it is there, and what is wrong in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.findings: list[Finding] = []
        self.content: bytes | None = None
        try:
            self.content = _begin_of(path)
        except FileNotFoundError:
            return
        except OSError as error:
            self.found(f"cannot be read: {error.strerror}", "make it readable for the gateway")
            return
        if self.content is None:
            self.found("is no file", "put a file there")
            return
        if len(self.content) > _FILE_BYTES_MAX:
            self.content = b""
            self.found(f"is longer than {_FILE_BYTES_MAX} bytes", "keep what terminals need")

    def text(self) -> str:
        try:
            return (self.content or b"").decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = (self.content or b"").count(b"\n", 0, error.start) + 1
            self.found("is not UTF-8 text", "save the file as UTF-8", line=line)
            return ""

    def tables(self) -> tuple[dict[str, Any], Lines]:
        text = self.text()
        try:
            return tomllib.loads(text), Lines(text)
        except (ValueError, RecursionError) as error:
            place = re.search(r"at line (\d+)", str(error))
            self.found(f"is not TOML: {error}", "see toml.io", line=int(place[1]) if place else 1)
            return {}, Lines("")

    def found(self, problem: str, remedy: str, *, line: int = 1, path: str = "") -> None:
        self.findings.append(
            Finding(
                file=str(self.path),
                line=max(line, 1),
                path=path,
                problem=problem,
                remedy=remedy,
                severity="error",
            )
        )


def _begin_of(path: Path) -> bytes | None:
    """A file's content, of one that is too long a byte too many; None for what is no file.

    A pipe would be waited for, and a device may have no end. Raises OSError.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        return file.read(_FILE_BYTES_MAX + 1)


class _Wrong(Exception):
    """A record cannot be used: which key of it, what is wrong, what would be right."""

    def __init__(self, key: str, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem
        self.remedy = remedy


def _records(
    file: _File, table: str, made: Callable[[dict[str, Any]], Record], room: int
) -> Iterator[Record]:
    tables, lines = file.tables()
    for key in tables.keys() - {table}:
        file.found(
            f'"{key}" is not known here', f"write [[{table}]] tables only", line=lines.of((key,))
        )
    raw = tables.get(table, [])
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        file.found(f"{table} is no list of tables", f"begin each with [[{table}]]")
        return
    if len(raw) > RECORDS_MAX:
        file.found(f"has {len(raw)} {table}", f"a terminal counts to {RECORDS_MAX}: remove some")
    seen: set[bytes] = set()
    for index, keys in enumerate(raw):
        here: KeyPath = (table, index)
        try:
            record = made(keys)
            _check(record, seen, room)
        except _Wrong as wrong:
            place = (*here, wrong.key) if wrong.key in keys else here
            path = f"{table}[{index}]" + (f".{wrong.key}" if wrong.key else "")
            file.found(wrong.problem, wrong.remedy, line=lines.of(place), path=path)
        else:
            seen.add(record.name)
            yield record


def _check(record: Record, seen: set[bytes], room: int) -> None:
    if len(record.data) > room:
        raise _Wrong("", f"takes {len(record.data)} bytes", f"{room} go into an answer")
    if record.name in seen:
        raise _Wrong("", "is there twice", "remove one of the two")


# --- CA public keys -------------------------------------------------------------------------------

_KEY_KEYS: Final = (
    "rid",
    "index",
    "expires",
    "exponent",
    "modulus",
    "hash",
    "algorithm",
    "hash_algorithm",
)
_HASHES: Final[Mapping[bytes, type[hashes.HashAlgorithm]]] = {
    b"\x01": hashes.SHA1,
    b"\x07": hashes.SM3,
}
_EXPONENTS: Final = (b"\x02", b"\x03", b"\x01\x00\x01")
_MODULUS_BYTES: Final = (64, 248)  # EMV Book 2, section B2.1


def _key(keys: dict[str, Any]) -> Record:
    _only(keys, _KEY_KEYS)
    rid, index = _hex(keys, "rid", 5), _hex(keys, "index", 1)
    exponent, modulus = _hex(keys, "exponent"), _hex(keys, "modulus")
    algorithm = _hex(keys | {"algorithm": keys.get("algorithm", "01")}, "algorithm", 1)
    hashed_by = _hex(keys | {"hash_algorithm": keys.get("hash_algorithm", "01")}, "hash_algorithm")
    expires = keys.get("expires")
    if type(expires) is not date:
        raise _Wrong("expires", "is no date", "write it without quotes: expires = 2030-12-31")
    if algorithm == b"\x01":
        if exponent not in _EXPONENTS:
            raise _Wrong("exponent", "is no exponent of EMV", 'write "03" or "010001"')
        least, most = _MODULUS_BYTES
        if not least <= len(modulus) <= most:
            raise _Wrong("modulus", f"has {len(modulus)} bytes", f"EMV has {least} to {most}")
    if hashed_by not in _HASHES:
        known = ", ".join(one.hex() for one in _HASHES)
        raise _Wrong("hash_algorithm", "is not known here", f"write one of {known}")
    digest = hashes.Hash(_HASHES[hashed_by]())
    digest.update(rid + index + modulus + exponent)  # EMV Book 2, section B2.1, table 24
    right = digest.finalize()
    if _hex(keys, "hash") != right:
        raise _Wrong(
            "hash",
            "is not that of this key: one of its values is mistyped",
            f"compare each with the scheme's publication; these values have {right.hex().upper()}",
        )
    until = tlv("DF05", expires.strftime("%Y%m%d").encode())
    name = tlv("9F06", rid) + tlv("9F22", index)
    data = b"".join(
        (
            name,
            until,
            tlv("DF06", hashed_by),
            tlv("DF07", algorithm),
            tlv("DF02", modulus),
            tlv("DF04", exponent),
            tlv("DF03", right),
        )
    )
    return Record(name, name + until, data, expires)


# --- applications ---------------------------------------------------------------------------------


def _aid(keys: dict[str, Any]) -> Record:
    _only(keys, ("tlv", "tags"))
    if ("tlv" in keys) == ("tags" in keys):
        raise _Wrong("", "has neither tlv nor tags, or both", "write one of them")
    if "tlv" in keys:
        try:
            objects = list(tlv_objects(_hex(keys, "tlv")))
        except ValueError as error:
            raise _Wrong("tlv", str(error), "write tag, length and value of each, in hex") from None
    else:
        tags = keys["tags"]
        if not isinstance(tags, dict):
            raise _Wrong("tags", "is no table", 'write tags = { 9F06 = "A0000003330101" }')
        objects = [(_tag(tag), _hex(tags, tag)) for tag in tags]
        long = next((tag for tag, value in objects if len(value) > _VALUE_BYTES_MAX), None)
        if long is not None:
            raise _Wrong("tags", f"{long} has more than {_VALUE_BYTES_MAX} bytes", "shorten it")
    if len({tag for tag, _ in objects}) < len(objects):
        raise _Wrong("tlv" if "tlv" in keys else "tags", "has a tag twice", "remove one")
    values = dict(objects)
    aid = values.pop("9F06", b"")
    if not 5 <= len(aid) <= 16:  # ISO/IEC 7816-4: the RID, and up to eleven bytes more
        raise _Wrong("", "has no application identifier", "give tag 9F06 with 5 to 16 bytes")
    name = tlv("9F06", aid)
    return Record(name, name, name + b"".join(tlv(tag, data) for tag, data in values.items()))


def tlv(tag: str, value: bytes) -> bytes:
    """One data object as ISO/IEC 8825-1 (BER) writes it."""
    size = len(value)
    if size < 0x80:
        length = bytes((size,))
    elif size < 0x100:
        length = bytes((0x81, size))
    else:
        length = b"\x82" + size.to_bytes(2, "big")
    return bytes.fromhex(tag) + length + value


def tlv_objects(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The data objects in a row of them; raises ValueError, with the byte, where it is none."""
    position = 0
    while position < len(data):
        start = position
        position += 1
        if data[start] & 0x1F == 0x1F:
            while position < len(data) and data[position] & 0x80:
                position += 1
            position += 1
        tag = data[start:position].hex().upper()
        if position >= len(data):
            raise ValueError(f"tag {tag} at byte {start} has no length")
        size, position = data[position], position + 1
        if size >= 0x80:
            count = size & 0x7F
            if count not in (1, 2) or position + count > len(data):
                raise ValueError(f"tag {tag} at byte {start} has a length that is none")
            size = int.from_bytes(data[position : position + count], "big")
            position += count
        if position + size > len(data):
            raise ValueError(f"tag {tag} at byte {start} says {size} bytes, and fewer follow")
        yield tag, data[position : position + size]
        position += size


# --- the others -----------------------------------------------------------------------------------


def _blacklist(file: _File) -> Iterator[str]:
    count = 0
    for number, line in enumerate(file.text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        count += 1
        if not _BIN.fullmatch(text):
            what = "2 to 12 digits: the first of card numbers, and never a whole one"
            file.found("is no BIN", f"write {what}", line=number)
        elif count == BLACKLIST_MAX + 1:
            file.found("is one too many", f"a terminal takes {BLACKLIST_MAX}", line=number)
        else:
            yield text


def _parameters(file: _File, room: int) -> bytes:
    """Tags of two digits and their values, one after the other, as terminals know their lengths."""
    tables, lines = file.tables()
    for key in tables.keys() - {"parameters"}:
        file.found(
            f'"{key}" is not known here', "write a [parameters] table", line=lines.of((key,))
        )
    raw = tables.get("parameters", {})
    if not isinstance(raw, dict):
        file.found("parameters is no table", "write [parameters] and the tags below")
        return b""
    found = b""
    for tag, value in raw.items():
        right = isinstance(value, str) and value.isascii() and value.isprintable()
        if not re.fullmatch(r"[0-9]{2}", tag) or not right:
            remedy = 'write a tag of two digits and its value: 12 = "60"'
            line = lines.of(("parameters", tag))
            file.found("is no parameter", remedy, line=line, path=f"parameters.{tag}")
            continue
        found += f"{tag}{value}".encode()
    if len(found) > room:
        file.found(f"takes {len(found)} bytes", f"{room} go into an answer")
    return found


def _only(keys: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in keys:
        if key not in known:
            raise _Wrong(key, "is not known here", f"there are: {', '.join(known)}")


def _hex(keys: Mapping[str, Any], key: str, size: int = 0) -> bytes:
    text = keys.get(key)
    right = isinstance(text, str) and re.fullmatch(r"(?:[0-9A-Fa-f]{2}|\s)+", text, re.ASCII)
    data = bytes.fromhex(text) if right and isinstance(text, str) else b""
    if not data or (size and len(data) != size):
        what = "is missing" if text is None else "is not hex"
        what = f"has {len(data)} bytes" if data else what
        wanted = f"{size} bytes in hex" if size else "bytes in hex"
        raise _Wrong(key, what, f"give {wanted}, in quotes")
    return data


def _tag(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}|[0-9A-Fa-f]{6}", text):
        raise _Wrong("tags", f"{ascii(text)[:20]} is no tag", "write it in hex, such as DF11")
    raw = bytes.fromhex(text)
    if [tag for tag, _ in _parsed(raw)] != [text.upper()]:
        raise _Wrong("tags", f"{text} is no tag", "write it in hex, such as DF11")
    return text.upper()


def _parsed(tag: bytes) -> list[tuple[str, bytes]]:
    try:
        return list(tlv_objects(tag + b"\x00"))
    except ValueError:
        return []
