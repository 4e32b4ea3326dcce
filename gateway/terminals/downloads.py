"""Downloads: parameters, CA public keys, applications and blacklists, as UnionPay terminals ask.

A terminal asks for a list of what there is (0820), for one record after the other (0800), and says
at the end that it has all (0800). It says how many entries it knows, and hears those after them:
what is cut off is taken up again, and nothing of it is kept here but the version that it has.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

import orjson

from gateway.clock import Clock, utc
from gateway.errors import EncodeError, InDoubt, NotSent, StoreError
from gateway.policy.response_codes import APPROVED, CodeSet, Reason, response_code
from gateway.settings.schema_downloads import Downloads as DownloadSettings
from gateway.settings.schema_downloads import DownloadStep as Step
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import PutNote, Store
from gateway.telemetry.events import Emit, Event
from gateway.terminals.download_files import Content, DownloadSet, Record, tlv_objects
from gateway.transactions import replies
from gateway.transactions.request import Reply, Request
from gateway.upstreams.adaptation import CannotAdapt
from gateway.upstreams.pool import Pool
from gateway.wire.framing import Frame
from gateway.wire.message import Message, printable
from gateway.wire.requirements import requirement_of, with_requirement

_PREFIX = "downloads:"
_TYPE_AND_CODE, _DATA = 60, 62
_CODE_AT: Final = slice(8, 11)  # of DE60: after the type and the batch
# What the first byte of DE62 says in an answer.
_NONE, _ALL, _MORE = b"0", b"1", b"2"
_LISTS: Final = {Step.KEY_LIST: Content.KEYS, Step.AID_LIST: Content.AIDS}
_RECORDS: Final = {Step.KEY: Content.KEYS, Step.AID: Content.AIDS}
_ENDS: Final = {
    Step.PARAMETERS_END: Content.PARAMETERS,
    Step.KEYS_END: Content.KEYS,
    Step.AIDS_END: Content.AIDS,
    Step.BLACKLIST_END: Content.BLACKLIST,
}
# The processing requirement that has a terminal come for each, the most pressing first.
_REQUIREMENTS: Final = {
    Content.KEYS: 4,
    Content.AIDS: 5,
    Content.BLACKLIST: 7,
    Content.PARAMETERS: 1,
}
_STATUS_CHARS_MAX: Final = 200
_LONG_NUMBER: Final = re.compile(r"[0-9]{12,}")


def step_of(message: Message, codes: Mapping[str, Step]) -> Step | None:
    """What a network message asks for in DE60.3; None where it is no download."""
    if message.mti[1:2] != "8":
        return None
    return codes.get(message.get(_TYPE_AND_CODE)[_CODE_AT])


class Downloads:
    """What there is to download, and which version of it each terminal has."""

    def __init__(
        self,
        settings: DownloadSettings,
        content: DownloadSet,
        *,
        store: Store,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self.settings = settings
        self._content = content
        self._store = store
        self._clock = clock
        self._emit = emit
        # The version that each terminal has, and the one that it began to fetch.
        self._had: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._begun: OrderedDict[tuple[str, Content], str] = OrderedDict()

    async def restore(self) -> None:
        """Take up which terminal has what; raises StoreError."""
        for name, text in sorted((await self._store.notes(_PREFIX)).items()):
            try:
                self._had[name.removeprefix(_PREFIX)] = dict(orjson.loads(text))
            except (ValueError, TypeError):
                continue  # Of another version of the gateway: that terminal is told to come.

    def use(self, settings: DownloadSettings, content: DownloadSet) -> None:
        """Serve this from now on."""
        self.settings = settings
        self._content = content

    def serve(self, request: Request, step: Step) -> Message:
        """The answer to one step of a download."""
        message = request.message
        terminal = message.terminal_id.rstrip()
        data = _bytes(message.get(_DATA))
        code, answered = APPROVED, b""
        if step in _LISTS:
            answered = self._list(terminal, _LISTS[step], data)
        elif step in _RECORDS:
            answered = self._record(terminal, _RECORDS[step], data)
        elif step is Step.BLACKLIST:
            answered = self._blacklist(terminal, data)
        elif step is Step.PARAMETERS:
            answered = self._content.parameters
            self._begin(terminal, Content.PARAMETERS)
        elif step in _ENDS:
            self._end(terminal, _ENDS[step])
        fields = {"status": _status_text(data)} if step is Step.STATUS else {}
        self._emit(
            Event.NETWORK_MESSAGE,
            terminal=terminal,
            kind=f"download {step.value}",
            stan=printable(message.stan),
            **fields,
        )
        answer = replies.network_answer(message, code)
        changes = {_TYPE_AND_CODE: message.get(_TYPE_AND_CODE)}
        if answered:
            changes[_DATA] = answered.hex().upper()
        return answer.changed(changes)

    def requirement(self, terminal_id: str) -> int:
        """What a terminal is to come for next, as the header's nibble has it; 0 for nothing."""
        versions = self._content.versions
        if not versions or not self.settings.announce:
            return 0
        had = self._had.get(terminal_id.rstrip(), {})
        for content, requirement in _REQUIREMENTS.items():
            if content in versions and had.get(content.value) != versions[content]:
                return requirement
        return 0

    # --- steps --------------------------------------------------------------------------------

    def _list(self, terminal: str, content: Content, data: bytes) -> bytes:
        """The entries after those that the terminal knows ("1" and their number in two digits)."""
        records = self._records(content)
        known = int(data[1:3]) if re.fullmatch(rb"[0-9]{3}.*", data, re.DOTALL) else 0
        if not known:
            self._begin(terminal, content)
        found, taken = b"", 0
        for record in records[known:]:
            if len(found) + len(record.listed) >= self.settings.answer_bytes_max:
                break
            found += record.listed
            taken += 1
        if not taken:
            return _NONE
        return (_MORE if known + taken < len(records) else _ALL) + found

    def _record(self, terminal: str, content: Content, data: bytes) -> bytes:
        """The record that is named by its first data objects."""
        self._begin(terminal, content, unless_begun=True)
        try:
            named = list(tlv_objects(data))
        except ValueError:
            return _NONE
        for record in self._records(content):
            wanted = list(tlv_objects(record.name))
            if named[: len(wanted)] == wanted:
                return _ALL + record.data
        return _NONE

    def _blacklist(self, terminal: str, data: bytes) -> bytes:
        """The BINs from the one whose number is asked for (three digits), and the last's number."""
        first = int(data[:3]) if re.fullmatch(rb"[0-9]{3}.*", data, re.DOTALL) else 0
        if not first:
            self._begin(terminal, Content.BLACKLIST)
        bins = self._content.blacklist
        found, last = b"", first - 1
        for number in bins[first:]:
            entry = f"{len(number):02d}{number}".encode()
            if len(found) + len(entry) + 4 > self.settings.answer_bytes_max:
                break
            found += entry
            last += 1
        if last < first:
            return _NONE
        status = _MORE if last + 1 < len(bins) else _ALL
        return status + b"%03d" % last + found

    def _records(self, content: Content) -> Sequence[Record]:
        """Those that are of use today."""
        if content is Content.AIDS:
            return self._content.aids
        today: date = utc(self._clock.wall_ms()).date()
        return [one for one in self._content.keys if one.expires is None or one.expires >= today]

    # --- versions -----------------------------------------------------------------------------

    def _begin(self, terminal: str, content: Content, *, unless_begun: bool = False) -> None:
        versions = self._content.versions or {}
        key = (terminal, content)
        if content not in versions or (unless_begun and key in self._begun):
            return
        self._begun[key] = versions[content]
        self._begun.move_to_end(key)
        if len(self._begun) > self.settings.terminals_max:
            self._begun.popitem(last=False)

    def _end(self, terminal: str, content: Content) -> None:
        """It has all of the version that it began with; a newer one it is told of again."""
        version = self._begun.pop((terminal, content), None)
        if version is None:
            return
        had = self._had.setdefault(terminal, {})
        had[content.value] = version
        self._had.move_to_end(terminal)
        forgotten = ""
        if len(self._had) > self.settings.terminals_max:
            forgotten, _ = self._had.popitem(last=False)
        try:
            self._store.post(PutNote(_PREFIX + terminal, orjson.dumps(had).decode()))
            if forgotten:
                self._store.post(PutNote(_PREFIX + forgotten, ""))
        except StoreError:
            return  # The store says so itself; after a restart the terminal is told to come again.


class ListenerDownloads:
    """What becomes of the downloads that the terminals of one listener ask for."""

    def __init__(
        self, listener: ListenerSettings, *, shared: Downloads, pool: Pool, emit: Emit
    ) -> None:
        self._shared = shared
        self._pool = pool
        self._emit = emit
        self._passes = listener.downloads == "pass"
        self._upstream = listener.downloads_to or ""
        self._announces = not self._passes and listener.code_set == "unionpay"

    async def reply(self, request: Request) -> Reply | None:
        """The answer to a download; None where the message asks for none."""
        step = step_of(request.message, self._shared.settings.codes)
        if step is None:
            return None
        if self._passes:
            return Reply(await self._passed_on(request))
        return Reply(self._shared.serve(request, step))

    def telling(self, frame: Frame, message: Message) -> Frame:
        """The frame with a header that tells its terminal to come for what it does not have.

        Not in the answer to a download itself: it is under way.
        """
        if not self._announces or not frame.header or requirement_of(frame.header):
            return frame
        if step_of(message, self._shared.settings.codes) is not None:
            return frame
        wanted = self._shared.requirement(message.terminal_id)
        return frame._replace(header=with_requirement(frame.header, wanted)) if wanted else frame

    async def _passed_on(self, request: Request) -> Message:
        """The upstream's answer. It moves no money: nothing is intended, nothing is owed for it."""
        message = request.message
        upstream = self._pool.get(self._upstream)
        stan = None if upstream is None else upstream.take_stan()
        if upstream is None or stan is None:
            return self._refused(request, Reason.NO_UPSTREAM)
        outgoing = replies.forwarded(message, stan=stan, rrn=None)
        adaptation = upstream.adaptation
        try:
            sent = adaptation.outgoing(outgoing, request.dialect)
            answer = await upstream.ask(sent, transaction_id=0, kind=request.kind)
            answer = adaptation.incoming(
                answer, request=outgoing, sent=sent, dialect=request.dialect
            )
        except (NotSent, CannotAdapt, EncodeError):
            return self._refused(request, Reason.NO_UPSTREAM)
        except InDoubt:
            return self._refused(request, Reason.NO_ANSWER)
        self._emit(
            Event.NETWORK_MESSAGE,
            terminal=printable(message.terminal_id),
            kind="download passed on",
            stan=printable(message.stan),
            upstream=upstream.name,
            code=printable(answer.response_code),
        )
        return replies.answer(message, answer)

    def _refused(self, request: Request, reason: Reason) -> Message:
        code_set: CodeSet = request.code_set
        message = request.message
        code = response_code(reason, code_set)
        self._emit(
            Event.REQUEST_REFUSED,
            terminal=printable(message.terminal_id),
            kind=request.kind.value,
            stan=printable(message.stan),
            reason=reason.value,
            rule=f"download to {self._upstream}",
            code=code,
        )
        answer = replies.network_answer(message, code)
        return answer.changed({_TYPE_AND_CODE: message.get(_TYPE_AND_CODE)})


def _bytes(text: str) -> bytes:
    """DE62 as bytes: the dialect has it as hex, or as text."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return text.encode("ascii", "replace")


def _status_text(data: bytes) -> str:
    """What a terminal tells of itself, as the log may hold it."""
    text = data[:_STATUS_CHARS_MAX].decode("ascii", "replace")
    return printable(_LONG_NUMBER.sub(lambda run: "*" * len(run[0]), text))
