"""Edits under load: what a running gateway's terminals see of blocklists and swaps.

`cutoff` blocks one signed-on terminal after the other with an editor's means; `swaps` puts one
whole configuration after the other in force, and holds every transaction against its version.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from pathlib import Path
from statistics import median

import trio

from gateway.admin.client import AdminClient
from gateway.wire.message import Message
from gateway.wire.stream import TcpStream, connect
from loadtest.addresses import HostPort, lasting_ports
from loadtest.cards import Shop
from loadtest.commit import open_for_reading
from loadtest.processes import Child, ChildFailed, Children, python
from loadtest.reconcile import reconcile_files
from loadtest.requests import sign_on, transmission_time
from loadtest.stage import Stage, write_configuration
from loadtest.wire import MessageReader, Wire, shipped_wire

Say = Callable[[str], None]

_ACQUIRERS = ("acquirer-a", "acquirer-b")
_IDS = "T0000001-T0009999"
_FIRST_PROBE = 9_001
_MERCHANT = "MERCHANT0000001"
_SETTLE_S = 20.0
_GRACE_S = 10.0
_ANSWER_S = 10.0
_WARM_UP_S = 3.0
_SELECT = "SELECT facts ->> 12, upstream FROM transactions"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOptions:
    count: int = 100  # trials, or swaps
    terminals: int = 500
    rate: float = 0.4  # purchases a second of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """What the terminals that nobody blocked did meanwhile."""

    sent: int
    approved: int
    errors: int
    lost: int
    doubled: int
    unexplained: int

    @property
    def whole(self) -> bool:
        return self.approved > 0 and not (self.lost or self.doubled or self.unexplained)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """Seconds from the end of the edit."""

    trials: int
    terminals: int
    closed_median_s: float  # until the open connection was closed
    closed_worst_s: float
    refused_median_s: float  # until the next request, on a new connection, was refused
    refused_worst_s: float
    not_refused: int
    sold: Sold

    @property
    def passed(self) -> bool:
        """Everything but the times, which are the machine's too."""
        return not self.not_refused and self.sold.whole and self.closed_worst_s < inf

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """What came of many swaps."""

    swaps: int
    swap_median_s: float
    versions_used: int  # that decided on at least one transaction
    transactions: int
    unknown_version: int  # of them, decided by none that was ever in force
    wrong_acquirer: int  # and sent elsewhere than their version's routes say
    rss_before_kib: int
    rss_after_kib: int
    sold: Sold

    @property
    def passed(self) -> bool:
        return self.sold.whole and not self.unknown_version and not self.wrong_acquirer

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, slots=True)
class _Stand:
    """A gateway that sells, in a folder."""

    folder: Path
    config: Path
    listen: HostPort
    gateway: Child
    stage: Stage


async def run_cutoff(options: EditOptions, say: Say) -> CutOff:
    """Blocks as many terminals, one after the other, while others buy; raises ChildFailed."""
    times: list[tuple[float, float]] = []
    not_refused = 0

    async def block_all(stand: _Stand) -> None:
        nonlocal not_refused
        wire = shipped_wire()
        file = stand.folder / "blocklists" / "terminals"
        file.parent.mkdir()
        file.write_text("# blocked by loadtest\n")
        await trio.sleep(_WARM_UP_S)
        for number in range(options.count):
            probe = _Probe(number, stand.listen, wire)
            closed_s, refused_s, code = await probe.blocked_by(
                partial(_IN_TURN[number % len(_IN_TURN)], file, probe.terminal_id)
            )
            times.append((closed_s, refused_s))
            not_refused += code != "58"
            if (number + 1) % 10 == 0:
                say(f"{number + 1} of {options.count} blocked")

    sold = await _while_selling(options, block_all, say)
    closed, refused = zip(*times, strict=True)
    return CutOff(
        trials=options.count,
        terminals=options.terminals,
        closed_median_s=round(median(closed), 4),
        closed_worst_s=round(max(closed), 4),
        refused_median_s=round(median(refused), 4),
        refused_worst_s=round(max(refused), 4),
        not_refused=not_refused,
        sold=sold,
    )


async def run_swaps(options: EditOptions, say: Say) -> Swapped:
    """Puts as many configurations in force while terminals buy; raises ChildFailed."""
    versions: dict[str, str] = {}
    times: list[float] = []
    memory_kib: list[int] = []
    stands: list[_Stand] = []
    records: list[tuple[str, str]] = []

    async def swap_all(stand: _Stand) -> None:
        stands.append(stand)
        client = AdminClient(stand.folder / "gateway.sock", config=stand.config, timeout_s=60.0)
        text = stand.config.read_text(encoding="utf-8")
        before, _, after = text.rpartition("members = [")
        rest = after.partition("]\n")[2]
        # Both are there until the first swap, which therefore fits either.
        running = await trio.to_thread.run_sync(client.status)
        versions[running["config_version"]] = ""
        await trio.sleep(_WARM_UP_S)
        for number in range(options.count):
            acquirer = _ACQUIRERS[number % 2]
            content = f'{before}members = [{{ upstream = "{acquirer}" }}]\n{rest}# swap {number}\n'
            _rename(stand.config, content)
            started_s = trio.current_time()
            report = await trio.to_thread.run_sync(client.run, "config", "reload", {})
            times.append(trio.current_time() - started_s)
            versions[str(report["version"])] = acquirer
            if number == min(20, options.count // 10):
                memory_kib.append(_resident_kib(stand.gateway.pid))
            if (number + 1) % 50 == 0:
                memory = _resident_kib(stand.gateway.pid)
                say(f"{number + 1} of {options.count} swapped; the gateway has {memory:,} KiB")
        memory_kib.append(_resident_kib(stand.gateway.pid))

    def read_records(stand: _Stand) -> None:
        records.extend(_decided(stand.folder / "gateway.db"))

    sold = await _while_selling(options, swap_all, say, afterwards=read_records)
    return Swapped(
        swaps=options.count,
        swap_median_s=round(median(times), 4),
        versions_used=len({version for version, _ in records}),
        transactions=len(records),
        unknown_version=sum(version not in versions for version, _ in records),
        wrong_acquirer=sum(
            versions.get(version, "") not in ("", upstream) for version, upstream in records
        ),
        rss_before_kib=memory_kib[0],
        rss_after_kib=memory_kib[-1],
        sold=sold,
    )


# --- the stand ----------------------------------------------------------------------------------


async def _while_selling(
    options: EditOptions,
    edit: Callable[[_Stand], Awaitable[None]],
    say: Say,
    *,
    afterwards: Callable[[_Stand], None] = lambda _: None,
) -> Sold:
    with tempfile.TemporaryDirectory(prefix="gateway-edits-") as name:
        async with _selling(Path(name), options, say) as (stand, terminals):
            await edit(stand)
            say("waiting until the terminals have settled")
            terminals.signal(signal.SIGTERM)
            with trio.move_on_after(_SETTLE_S * 2):
                await terminals.process.wait()
            await stand.gateway.stop(grace_s=_GRACE_S)
            afterwards(stand)
            found = reconcile_files(
                [stand.folder / "terminals.ledger.db"],
                {seat.name: seat.ledger for seat in stand.stage.acquirers.values()},
            )
            for disagreement in found.disagreements[:20]:
                say(str(disagreement))
            summary = found.summary()
            del summary["declined"]
            return Sold(**summary)


@asynccontextmanager
async def _selling(
    folder: Path, options: EditOptions, say: Say
) -> AsyncIterator[tuple[_Stand, Child]]:
    async with Children(grace_s=_GRACE_S) as children:
        stage = Stage(children, logs=folder / "logs")
        for name in _ACQUIRERS:
            await stage.start_acquirer(name, folder=folder)
        listen = HostPort("127.0.0.1", lasting_ports(1)[0])
        config = write_configuration(
            folder,
            name="edits",
            listen=listen,
            upstreams={seat.name: seat.address for seat in stage.acquirers.values()},
            answer_s=_ANSWER_S,
            drain_s=5.0,
            plain_terminals=_IDS,
        )
        gateway = await stage.start_gateway(config, admin_socket=folder / "gateway.sock")
        say(f"{options.terminals} terminals buy, {options.rate:g}/s each")
        terminals = await children.start(
            "terminals",
            [
                *python("loadtest", "terminals", "--target", str(listen)),
                *("--count", str(options.terminals), "--rate", str(options.rate)),
                *("--merchant", _MERCHANT, "--answer-s", str(_ANSWER_S + 2)),
                *("--ledger", str(folder / "terminals.ledger.db")),
                *("--settle-s", str(_SETTLE_S)),
            ],
            log=folder / "logs" / "terminals.log",
        )
        yield _Stand(folder, config, listen, gateway, stage), terminals


# --- a terminal that is blocked -------------------------------------------------------------------


class _Probe:
    """A terminal that signs on, is blocked, and tries again."""

    def __init__(self, number: int, target: HostPort, wire: Wire) -> None:
        self._number = _FIRST_PROBE + number
        self._target = target
        self._wire = wire
        self.terminal_id = f"T{self._number:07d}"

    async def blocked_by(self, edit: Callable[[], None]) -> tuple[float, float, str]:
        """Seconds from the edit to the end of the open connection, and to the next request's
        refusal; and its response code."""
        stream, reader = await self._call()
        answer = await self._ask(stream, reader, self._sign_on())
        if answer is None or answer.response_code != "00":
            raise ChildFailed(f"{self.terminal_id} could not sign on")
        await trio.to_thread.run_sync(edit)
        edited_s = trio.current_time()
        closed_s = refused_s = inf
        code = ""
        with trio.move_on_after(_ANSWER_S):
            await _ended(stream)
            closed_s = trio.current_time() - edited_s
            await stream.aclose()
            stream, reader = await self._call()
            answer = await self._ask(stream, reader, self._purchase())
            refused_s = trio.current_time() - edited_s
            code = "" if answer is None else answer.response_code
        await trio.aclose_forcefully(stream)
        return closed_s, refused_s, code

    async def _call(self) -> tuple[TcpStream, MessageReader]:
        stream = TcpStream(await connect(str(self._target)))
        return stream, MessageReader(stream, self._wire)

    async def _ask(
        self, stream: TcpStream, reader: MessageReader, request: Message
    ) -> Message | None:
        await stream.send_all(self._wire.pack(request))
        return await reader.next()

    def _sign_on(self) -> Message:
        return sign_on(
            terminal_id=self.terminal_id,
            merchant_id=_MERCHANT,
            stan="000001",
            wall_ms=round(time.time() * 1000),
        )

    def _purchase(self) -> Message:
        shop = Shop(seed=1, number=self._number, amount_min_minor=100, amount_max_minor=100)
        moment = transmission_time(round(time.time() * 1000))
        return Message(
            "0200",
            {
                2: shop.basket(1).pan,
                3: "000000",
                4: "000000000100",
                7: moment,
                11: "000002",
                12: moment[4:],
                13: moment[:4],
                14: shop.basket(1).expiry,
                22: "052",
                25: "00",
                37: "blocked00000",
                41: self.terminal_id,
                42: _MERCHANT,
                49: "978",
            },
        )


async def _ended(stream: TcpStream) -> None:
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        return


# --- how people edit files ------------------------------------------------------------------------


def _append(file: Path, terminal_id: str) -> None:
    """Written in place, at the end."""
    with file.open("a", encoding="utf-8") as opened:
        opened.write(f"{terminal_id} reason=stolen\n")


def _write_over(file: Path, terminal_id: str) -> None:
    """Written in place, all of it: for a moment the file is empty."""
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}{terminal_id} reason=stolen\n", encoding="utf-8")


def _write_beside(file: Path, terminal_id: str) -> None:
    """Written beside it, and renamed into its place, as most editors do."""
    _rename(file, f"{file.read_text(encoding='utf-8')}{terminal_id} reason=stolen\n")


def _rename(file: Path, content: str) -> None:
    fresh = file.with_name(f".{file.name}.swp")
    fresh.write_text(content, encoding="utf-8")
    fresh.replace(file)


_IN_TURN = (_append, _write_over, _write_beside)


def _decided(store: Path) -> list[tuple[str, str]]:
    """Of each transaction: the version that decided, and the acquirer that it was sent to."""
    database = open_for_reading(store)
    try:
        return [(str(row[0]), str(row[1])) for row in database.execute(_SELECT)]
    finally:
        database.close()


def _resident_kib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
