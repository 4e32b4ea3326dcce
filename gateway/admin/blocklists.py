"""What operators do with blocklists: block, unblock, look, and have a card's token made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypedDict
from zoneinfo import ZoneInfo

import trio
from pydantic import Field, ValidationInfo, field_validator

from gateway.admin import blockfile_writes
from gateway.admin.access import Role
from gateway.admin.api import Arguments, BadArguments, Progress
from gateway.admin.operations import Operation, Operations
from gateway.errors import OperatorError
from gateway.policy import blockfile_edits
from gateway.policy.blockfile_edits import Edited
from gateway.policy.blockfiles import parse, written_token
from gateway.policy.blocklists import Blocklists, Hit, ListName
from gateway.policy.card_numbers import holds_card_number, passes_luhn
from gateway.settings.loader import Configuration
from gateway.settings.reload import FindingView, ReloadReport
from gateway.settings.sources import list_files

PAGE_MAX = 1_000
_MERCHANT_CHARS = 15  # UnionPay's: digits that cannot be told from a card number
_WORDS_CHARS_MAX = 120

Outcome = Literal["in_force", "waits", "refused", "no_daemon", "unchanged", "would_change"]


Listed = Annotated[ListName, Field(strict=False)]


class EntryArguments(Arguments):
    """An entry of a list; a card is named by its token."""

    list: Listed
    value: str = Field(min_length=1, max_length=200)

    @field_validator("value", mode="after")
    @classmethod
    def _no_card_number(cls, value: str, info: ValidationInfo) -> str:
        value = value.strip()
        is_merchant = info.data.get("list") is ListName.MERCHANTS and len(value) == _MERCHANT_CHARS
        if not is_merchant and holds_card_number(value):
            raise ValueError("looks like a card number, and is kept nowhere: use `block card`")
        return value


class BlockArguments(EntryArguments):
    reason: str = Field(min_length=1, max_length=_WORDS_CHARS_MAX)
    until: Annotated[date, Field(strict=False)] | None = None  # to the end of that day
    code: str = ""


class UnblockArguments(EntryArguments):
    reason: str = Field(min_length=1, max_length=_WORDS_CHARS_MAX)


class TokenArguments(Arguments):
    card_number: str = Field(max_length=40, repr=False)


class PageArguments(Arguments):
    list: Listed | None = None
    after_line: int = 0
    limit: int = Field(default=100, ge=1, le=PAGE_MAX)


class Done(TypedDict):
    """What became of a change to a list."""

    result: Outcome
    list: str
    value: str
    file: str
    line: int  # written, or taken out; 0: there was none
    version: str  # in force; "" without a daemon
    findings: list[FindingView]  # why it is not in force
    notes: list[str]


class EntryView(TypedDict):
    list: str
    file: str
    line: int
    entry: str


class Found(TypedDict):
    """The entry that decides."""

    list: str
    rule: str
    reason: str
    code: str


class Reload(Protocol):
    """The reloader, as far as it is needed here."""

    async def look(self, *, again: bool = False) -> ReloadReport: ...


class BlocklistOperations(Operations):
    """Edits of the lists' files, each taken up before it is answered.

    A file is changed by whoever runs this: the daemon, or a command where none runs (`reloader` and
    `card_token` are None then).
    """

    def __init__(
        self,
        *,
        configuration: Callable[[], Configuration],
        reloader: Reload | None = None,
        lists: Callable[[], Blocklists],
        card_token: Callable[[str], str] | None = None,
        wall_ms: Callable[[], int],
    ) -> None:
        self._configuration = configuration
        self._reloader = reloader
        self._lists = lists
        self._card_token = card_token
        self._wall_ms = wall_ms
        self._editing = trio.Lock()
        super().__init__(
            {
                "block": self._change(BlockArguments, self.block),
                "unblock": self._change(UnblockArguments, self.unblock),
                "would_block": Operation(BlockArguments, self.would_block),
                "would_unblock": Operation(UnblockArguments, self.would_unblock),
                "token": Operation(
                    TokenArguments, self.token, Role.OPERATOR, long=frozenset(("card_number",))
                ),
                "list": Operation(PageArguments, self.page),
                "search": Operation(EntryArguments, self.search),
            }
        )

    def _change(self, arguments: type[EntryArguments], run: Callable[..., object]) -> Operation:
        return Operation(
            arguments,
            run,  # type: ignore[arg-type]
            Role.OPERATOR,
            subject="value",
            old=self._before,
        )

    async def _before(self, arguments: EntryArguments) -> object:
        hit = self._find(arguments)
        return None if hit is None else hit.rule

    # --- changes ----------------------------------------------------------------------------------

    async def block(self, arguments: BlockArguments, _: Progress | None = None) -> Done:
        """Write the entry, in place of the value's own where there is one, and have it in force.

        Raises BadArguments where it would be none, and OperatorError.
        """
        return await self._edited(arguments, self._adding(arguments))

    async def unblock(self, arguments: UnblockArguments, _: Progress | None = None) -> Done:
        """Take the entry out and have that in force; raises OperatorError."""
        return await self._edited(arguments, self._removing(arguments))

    async def would_block(self, arguments: BlockArguments, _: Progress | None = None) -> Done:
        return await self._tried(arguments, self._adding(arguments))

    async def would_unblock(self, arguments: UnblockArguments, _: Progress | None = None) -> Done:
        return await self._tried(arguments, self._removing(arguments))

    async def token(self, arguments: TokenArguments, _: Progress | None = None) -> dict[str, str]:
        """What a list has in place of a card number. The number itself is kept nowhere."""
        if self._card_token is None:
            raise OperatorError(
                "cards need the running gateway, which alone holds the key that makes their tokens:"
                " start it, or write a token that you have"
            )
        digits = "".join(arguments.card_number.split()).replace("-", "")
        if not (digits.isascii() and digits.isdigit() and 12 <= len(digits) <= 19):
            raise BadArguments("that is no card number: it has 12 to 19 digits")
        if not passes_luhn(digits):
            raise BadArguments(
                "that is no card number: its last digit is not the check digit (Luhn, ISO/IEC"
                " 7812-1) of those before it; a digit may be mistyped, or a part be missing"
            )
        return {"token": written_token(self._card_token(digits))}

    def _adding(self, arguments: BlockArguments) -> Callable[[bytes], Edited]:
        try:
            line = blockfile_edits.entry(
                arguments.value,
                until=arguments.until,
                reason=arguments.reason,
                code=arguments.code,
            )
        except ValueError as error:
            raise BadArguments(str(error)) from None
        zone = ZoneInfo(self._configuration().settings.blocklists.time_zone)
        read = parse(arguments.list, line.encode() + b"\n", file="the entry", zone=zone)
        if read.problems:
            problem = read.problems[0]
            raise BadArguments(f"{problem.problem}; {problem.remedy}")
        return partial(_add, arguments.list, arguments.value, line)

    @staticmethod
    def _removing(arguments: UnblockArguments) -> Callable[[bytes], Edited]:
        return partial(_remove, arguments.list, arguments.value)

    async def _edited(self, arguments: EntryArguments, change: Callable[[bytes], Edited]) -> Done:
        file = self._file(arguments.list)
        async with self._editing:
            # Who asked may hang up: what is begun is finished, and in force.
            with trio.CancelScope(shield=True):
                edited = await trio.to_thread.run_sync(blockfile_writes.edit, file, change)
                report = None
                if edited.line and self._reloader is not None:
                    report = await self._reloader.look(again=True)
        if not edited.line:
            return self._done("unchanged", arguments, file, 0)
        if report is None:
            return self._done("no_daemon", arguments, file, edited.line)
        outcome: Outcome = "in_force"
        if report["result"] in ("refused", "waits"):
            outcome = "refused" if report["result"] == "refused" else "waits"
        done = self._done(outcome, arguments, file, edited.line)
        return {**done, "findings": report["findings"], "notes": report["notes"]}

    async def _tried(self, arguments: EntryArguments, change: Callable[[bytes], Edited]) -> Done:
        file = self._file(arguments.list)
        edited = await trio.to_thread.run_sync(lambda: change(blockfile_writes.read(file)))
        outcome: Outcome = "would_change" if edited.line else "unchanged"
        return self._done(outcome, arguments, file, edited.line)

    def _done(self, result: Outcome, arguments: EntryArguments, file: Path, line: int) -> Done:
        return {
            "result": result,
            "list": arguments.list.value,
            "value": arguments.value,
            "file": str(file),
            "line": line,
            "version": self._configuration().version if self._reloader is not None else "",
            "findings": [],
            "notes": [],
        }

    # --- looking ----------------------------------------------------------------------------------

    async def page(self, arguments: PageArguments, _: Progress | None = None) -> dict[str, object]:
        """How many entries each list in force has, and of one the lines of its file."""
        sizes = {name.value: size for name, size in self._lists().sizes().items()}
        if arguments.list is None:
            return {"sizes": sizes, "entries": [], "next": 0}
        name = arguments.list
        file = self._file(name)
        lines = await trio.to_thread.run_sync(
            lambda: _page(blockfile_writes.read(file), arguments.after_line, arguments.limit)
        )
        entries: list[EntryView] = [
            {"list": name.value, "file": str(file), "line": line, "entry": _shown(name, text)}
            for line, text in lines[: arguments.limit]
        ]
        more = len(lines) > arguments.limit
        return {"sizes": sizes, "entries": entries, "next": entries[-1]["line"] if more else 0}

    async def search(
        self, arguments: EntryArguments, _: Progress | None = None
    ) -> dict[str, Found | None]:
        """The entry in force that a value meets: of BINs and networks the narrowest it lies in."""
        hit = self._find(arguments)
        if hit is None:
            return {"found": None}
        return {
            "found": {
                "list": arguments.list.value,
                "rule": hit.rule,
                "reason": hit.reason,
                "code": hit.code,
            }
        }

    def _find(self, arguments: EntryArguments) -> Hit | None:
        lists, now_ms, value = self._lists(), self._wall_ms(), arguments.value
        match arguments.list:
            case ListName.TERMINALS:
                return lists.terminal(value, now_ms)
            case ListName.MERCHANTS:
                return lists.merchant(value, now_ms)
            case ListName.NETWORKS:
                return lists.network(value.partition("/")[0], now_ms)
            case ListName.BINS:
                first = value.partition("-")[0].ljust(11, "0")
                return None if lists.bins is None else lists.bins.find(first, now_ms)
            case ListName.CERTIFICATES:
                return _certificate(lists, value, now_ms)
            case ListName.CARDS:
                token = _read_token(value)
                return None if lists.cards is None or not token else lists.cards.find(token, now_ms)

    def _file(self, name: ListName) -> Path:
        return list_files(self._configuration())[name.value]


def _add(name: ListName, value: str, line: str, content: bytes) -> Edited:
    if content and not content.endswith(b"\n"):
        raise OperatorError(
            f"the file of {name} does not end with a line's end: somebody is writing it, or it is"
            " half a file; mend it first"
        )
    return blockfile_edits.add(name, content, value, line)


def _remove(name: ListName, value: str, content: bytes) -> Edited:
    return blockfile_edits.remove(name, content, value)


def _page(content: bytes, after_line: int, limit: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        text = raw.strip()
        if number <= after_line or not text or text.startswith(b"#"):
            continue
        found.append((number, text.decode("utf-8", "replace")))
        if len(found) > limit:
            break
    return found


def _shown(name: ListName, text: str) -> str:
    """A file that was refused may hold what must not be shown."""
    value, _, rest = text.partition(" ")
    if name is ListName.MERCHANTS and len(value) == _MERCHANT_CHARS:
        return value + (f" {rest}" if rest and not holds_card_number(rest) else "")
    return "[what may be a card number]" if holds_card_number(text) else text


def _certificate(lists: Blocklists, value: str, now_ms: int) -> Hit | None:
    form, _, digits = value.lower().partition(":")
    plain = digits.replace(":", "")
    try:
        number = int(plain, 16)
    except ValueError:
        return None
    if form == "sha256":
        return lists.certificate(sha256=plain, serial=0, now_ms=now_ms)
    return lists.certificate(sha256="", serial=number, now_ms=now_ms)


def _read_token(value: str) -> str:
    """A token as the security module writes it, from the form that files have."""
    version, _, text = value.partition(":")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    if len(text) != 26 or any(one not in alphabet for one in text) or not version[1:].isdigit():
        return ""
    number = 0
    for one in text:
        number = number << 5 | alphabet.index(one)
    return f"{version[1:]}:{number >> 2:032x}"
