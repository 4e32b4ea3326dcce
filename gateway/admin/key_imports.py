"""Keys in bulk: a whole file is read and checked before the first key of it is kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from gateway.admin.key_room import KeyRoom, NewKey
from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.message_security import KeyForm
from gateway.keys.owners import check_algorithm, check_purpose
from gateway.keys.records import (
    KeyAlgorithm,
    KeyPurpose,
    StoredKey,
    StoredKeyState,
    terminal_owner,
)

COLUMNS = ("terminal_id", "key", "check_value")
PROBLEMS_SHOWN = 20
_STEP = 32  # rows between two looks at other tasks: 100 µs each, with a token 1 ms
_BLOCKS = (KeyForm.TR31_B, KeyForm.TR31_D)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of a file."""

    keys: int  # kept
    unchanged: int  # the same key was in force already
    unknown: int  # of terminals that are not enrolled (yet)


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    owner: str
    wrapped: bytes
    check_value: str


async def import_many(
    room: KeyRoom,
    text: str,
    *,
    purpose: KeyPurpose,
    algorithm: KeyAlgorithm,
    master: StoredKey,
    form: KeyForm,
    is_enrolled: Callable[[str], bool],
    who: str,
    progress: Progress | None = None,
) -> Imported:
    """Keep the keys of a CSV file (see `COLUMNS`), each in force at once.

    All lines are read, unwrapped and held against their check values first: with one mistake
    nothing is kept. Then they are kept some at a time; done again after a crash, what was kept is
    found unchanged. Raises OperatorError, which names the first lines that are wrong, and
    StoreError.
    """
    check_algorithm(purpose, algorithm)
    rows = _read(text, form)
    async with room.changing:
        room.table.check_room(len(rows))
        made: list[StoredKey] = []
        problems: list[str] = []
        unchanged = 0
        for number, row in enumerate(rows):
            wanted = NewKey(owner=row.owner, purpose=purpose, algorithm=algorithm)
            try:
                check_purpose(row.owner, purpose)
                key = room.unwrapped(
                    row.wrapped, wanted, master=master, form=form, check=row.check_value
                )
            except (OperatorError, KeyUnavailable) as error:
                problems.append(f"line {row.line}: {error}")
                continue
            if _is_there(room, key):
                unchanged += 1
            else:
                made.append(key)
            if number % _STEP == 0:
                await trio.lowlevel.checkpoint()
        _refuse(problems)
        await _keep(room, made, progress, who=who)
    unknown = sum(not is_enrolled(row.owner.partition(":")[2]) for row in rows)
    return Imported(keys=len(made), unchanged=unchanged, unknown=unknown)


async def _keep(
    room: KeyRoom, made: list[StoredKey], progress: Progress | None, *, who: str
) -> None:
    settings = room.settings
    for first in range(0, len(made), settings.step_rows):
        changes = [
            change
            for key in made[first : first + settings.step_rows]
            for change in room.succeeding(key)
        ]
        await room.commit(changes, who=who)
        if progress is not None:
            progress(min(first + settings.step_rows, len(made)), len(made))
        await trio.sleep(settings.pause_ms / 1_000)


def _is_there(room: KeyRoom, key: StoredKey) -> bool:
    """Whether the owner's key in force has the same value."""
    wrapping = room.holdings.wrapping
    for known in room.table.versions(key.owner, key.purpose):
        if (
            known.state is StoredKeyState.ACTIVE
            and known.algorithm is key.algorithm
            and known.check_value == key.check_value
        ):
            return wrapping.unwrap(known) == wrapping.unwrap(key)
    return False


def _read(text: str, form: KeyForm) -> list[_Row]:
    """The rows of a file; raises OperatorError with the lines that are none."""
    rows: list[_Row] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for line, record in _records(text):
        if len(record) != len(COLUMNS) and not (len(record) == 2 and form in _BLOCKS):
            problems.append(
                f"line {line}: {len(record)} columns, and there are three: {', '.join(COLUMNS)}"
            )
            continue
        terminal_id, key, check_value = (*(cell.strip() for cell in record), "")[:3]
        owner = terminal_owner(terminal_id)
        wrapped = _wrapped(key, form)
        if wrapped is None:
            problems.append(f"line {line}: the key is not {_shape(form)}")
        elif owner in seen:
            problems.append(f"line {line}: {terminal_id} stands on line {seen[owner]} already")
        else:
            rows.append(_Row(line, owner, wrapped, check_value))
        seen.setdefault(owner, line)
    _refuse(problems)
    if not rows:
        raise OperatorError(f"there is no key in it: write a line {','.join(COLUMNS)} for each")
    return rows


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        for record in reader:
            if not record or record[0].lstrip().startswith("#"):
                continue
            if reader.line_num == 1 and record[0].strip().lower() == COLUMNS[0]:
                continue
            yield reader.line_num, record
    except csv.Error as error:
        raise OperatorError(f"line {reader.line_num}: no CSV: {error}") from None


def wrapped_bytes(text: str, form: KeyForm) -> bytes:
    """A wrapped key as people write it: hex digits, or a key block. Raises OperatorError."""
    found = _wrapped(text, form)
    if found is None:
        raise OperatorError(f"the wrapped key is not {_shape(form)}")
    return found


def _wrapped(text: str, form: KeyForm) -> bytes | None:
    compact = "".join(text.split())
    if form in _BLOCKS:
        return compact.encode() if compact.isascii() and compact else None
    try:
        return bytes.fromhex(compact) or None
    except ValueError:
        return None


def _shape(form: KeyForm) -> str:
    return "a key block" if form in _BLOCKS else "hex digits"


def _refuse(problems: list[str]) -> None:
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = problems[:PROBLEMS_SHOWN] + ([f"and {more} lines more"] if more > 0 else [])
        raise OperatorError("nothing was kept: " + "; ".join(shown))
