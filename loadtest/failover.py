"""Failover: what it costs terminals that buy at a set rate when an acquirer sickens."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Literal

import trio

from gateway.admin.client import AdminClient
from gateway.clock import SystemClock
from gateway.errors import OperatorError
from loadtest.addresses import HostPort, lasting_ports
from loadtest.crowd import Crowd
from loadtest.failover_cases import ALWAYS, Case, Sickness
from loadtest.failover_evidence import (
    Heard,
    Verdict,
    listen,
    purchases_of,
    read_taken,
    three_ledgers,
    without_acquirers,
)
from loadtest.failover_measures import Purchases, back_after_s, percentile, purchases, shares
from loadtest.failover_peers import Isoload, Peer, Simulated
from loadtest.failover_result import CaseResult, told
from loadtest.fleet import FleetOptions, terminal_names
from loadtest.isoload import built
from loadtest.processes import Child, ChildFailed, Children, python, run_once
from loadtest.processors import Processors
from loadtest.stage import Stage, import_devices, make_certificates, write_configuration
from loadtest.terminal import Behaviour

Say = Callable[[str], None]

_NAMES = ("acquirer-a", "acquirer-b")
_FAIR = 0.5
_GATEWAY_SHARE = 0.8  # of a till's patience: that it hears 91, and not nothing
# What is settled is no figure: impatience here would only be a storm of reversals.
_REVERSAL_S = 10.0
_LATE_MAX_S = 10.0  # more than the slowest answer takes
_DRAIN_S = 5.0
_GRACE_S = 10.0
_CALM_S = 1.0  # between the last sign-on and the first customer
_POLL_S = 0.25
_STATUS_S = 5.0
_OPEN_S = 60.0
_LAG_MAX_MS = 25.0  # at the 99th percentile; later, and the tool is part of what it measures
# Reversals must not be what a case waits for at its end.
_UPSTREAM_SETTINGS = """\
connect_s = 1.0
reversals_under_way_max = 64
reversal_attempts_max = 1000
reversal_backoff = { first_s = 0.1, max_s = 1.0 }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverOptions:
    seconds: float = 6.0  # what is measured; in the middle an acquirer sickens
    back_s: float = 20.0  # and after it is well again
    flapping_s: float = 60.0
    rate: float = 500.0  # purchases a second
    terminals: int = 0  # 0: as many as the rate needs
    answer_s: float = 0.0  # how long a till waits; 0: as the case says
    acquirer: Literal["ours", "isoload"] = "ours"
    tls: bool = False
    converge_s: float = 45.0
    upstream_settings: tuple[str, ...] = ()  # lines of TOML, for both
    keep: bool = False
    seed: int = 1

    def tills(self, case: Case) -> int:
        """Enough that each of them may wait for its answer, and then be reversed."""
        return self.terminals or ceil(self.rate * (self.till_s(case) + 1)) + 20

    def till_s(self, case: Case) -> float:
        """How long a till waits for its answer."""
        return self.answer_s or case.answer_s


async def run_failover(
    cases: Sequence[Case], options: FailoverOptions, say: Say
) -> list[CaseResult]:
    """Runs the cases one after the other, each with a gateway and a folder of its own.

    A folder is kept where the case did not pass. Raises ChildFailed.
    """
    tool = await built() if options.acquirer == "isoload" else None
    results = []
    for case in cases:
        reason = await _unavailable(case, options, tool)
        if reason:
            say(f"{case.name}: not available: {reason}")
            results.append(CaseResult(case=case.name, available=False, note=reason))
            continue
        folder = Path(tempfile.mkdtemp(prefix=f"gateway-failover-{case.name}-"))
        kept = True
        try:
            async with Children(grace_s=_GRACE_S) as children:
                result = await _Run(case, options, folder, children, tool, say).play()
            kept = options.keep or not result.passed
        except trio.Cancelled:
            kept = options.keep
            raise
        finally:
            if kept:
                say(f"{case.name}: kept {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
        results.append(result)
        say(told(result))
    return results


async def _unavailable(case: Case, options: FailoverOptions, tool: Path | None) -> str:
    """Why a case cannot be played; empty: it can."""
    if options.acquirer == "isoload":
        if tool is None:
            return "isoload's sources are not there"
        if case.sickness not in Isoload.CAN:
            return "isoload cannot do that while it runs"
    if case.sickness is Sickness.DRAINED:
        try:
            await run_once(*python("gateway", "upstreams", "drain", "--help"))
        except ChildFailed:
            return "the gateway has no command `upstreams drain`"
    return ""


@dataclass(slots=True)
class _Times:
    """When things happened, on trio's clock, and where wall time stood at the start."""

    start_s: float = 0.0
    start_ms: float = 0.0
    measured_s: float = 0.0  # how long purchases count
    sick_s: float = 0.0  # first
    healed_s: float = 0.0  # last
    end_s: float = 0.0


class _Run:
    """One case, from its start to its verdict."""

    def __init__(
        self,
        case: Case,
        options: FailoverOptions,
        folder: Path,
        children: Children,
        tool: Path | None,
        say: Say,
    ) -> None:
        self._case = case
        self._options = options
        self._folder = folder
        self._children = children
        self._tool = tool
        self._say = say
        self._stage = Stage(children, logs=folder / "logs")
        self._log = folder / "logs" / "gateway.log"
        self._config = folder / "gateway.toml"
        self._times = _Times(measured_s=case.measured_s(options.seconds, options.flapping_s))
        self._accepted_before: int | None = None
        self._processors: dict[str, float] = {}

    async def play(self) -> CaseResult:
        peers = [self._peer(name, port) for name, port in self._ports()]
        for peer in peers:
            await peer.start()
        names = terminal_names(self._options.tills(self._case))
        crowd, gateway = await self._open(peers, [name.terminal_id for name in names])
        sick = peers[:] if self._case.everybody else peers[-1:]
        try:
            if self._case.from_start:
                await self._do(sick, "sicken")
            users = {"tool": [os.getpid()], "gateway": [gateway.pid]}
            using = Processors(users | {"acquirers": [peer.pid for peer in peers]})
            await self._trade(crowd, sick)
            self._processors = using.used_percent({"acquirers": [peer.pid for peer in peers]})
            converged_s = await self._converge(crowd, peers)
        finally:
            await crowd.close()
        open_ = await self._reversals_open()
        await gateway.stop(grace_s=_GRACE_S)
        accepted = await sick[0].connections()
        for peer in peers:
            await peer.stop()
        crowd.notes.save(self._terminals)
        return self._result(
            crowd, sick, peers, converged_s=converged_s, open_=open_, accepted=accepted
        )

    # --- before ------------------------------------------------------------------------------

    def _ports(self) -> list[tuple[str, HostPort]]:
        ports = lasting_ports(len(_NAMES))
        return [
            (name, HostPort("127.0.0.1", port)) for name, port in zip(_NAMES, ports, strict=True)
        ]

    def _peer(self, name: str, address: HostPort) -> Peer:
        if self._tool is None:
            return Simulated(self._stage, name, address, folder=self._folder)
        return Isoload(self._children, self._tool, name, address, folder=self._folder / "logs")

    @property
    def _terminals(self) -> Path:
        return self._folder / "terminals.ledger.db"

    @property
    def _store(self) -> Path:
        return self._folder / "gateway.db"

    @property
    def _client(self) -> AdminClient:
        return AdminClient(self._folder / "gateway.sock", config=self._config, timeout_s=_STATUS_S)

    async def _open(self, peers: Sequence[Peer], ids: Sequence[str]) -> tuple[Crowd, Child]:
        """Tills that are signed on to a gateway that runs."""
        options, target = self._options, HostPort("127.0.0.1", lasting_ports(1)[0])
        names = terminal_names(len(ids))
        certs = await make_certificates(self._folder / "certs", names) if options.tls else None
        settings = _UPSTREAM_SETTINGS + "".join(f"{line}\n" for line in options.upstream_settings)
        self._config = write_configuration(
            self._folder,
            name="failover",
            listen=target,
            upstreams={peer.name: peer.address for peer in peers},
            answer_s=_GATEWAY_SHARE * options.till_s(self._case),
            late_max_s=_LATE_MAX_S,
            drain_s=_DRAIN_S,
            upstream_settings=settings,
            plain_terminals="" if options.tls else f"{ids[0]}-{ids[-1]}",
        )
        gateway = await self._stage.start_gateway(
            self._config, admin_socket=self._folder / "gateway.sock"
        )
        if certs is not None:
            await import_devices(certs / "devices.csv", config=self._config)
        crowd = Crowd(
            FleetOptions(
                target=target,
                names=names,
                ledger=self._terminals,
                certs=certs,
                ca=None if certs is None else certs.parent / "ca.crt",
                behaviour=Behaviour(
                    answer_s=options.till_s(self._case), reversal_answer_s=_REVERSAL_S
                ),
                seed=options.seed,
            )
        )
        with trio.move_on_after(_OPEN_S) as opening:
            await crowd.open()
        if opening.cancelled_caught:
            raise ChildFailed(f"{len(ids)} terminals were not connected within {_OPEN_S:g} s")
        await self._until_upstreams_are_up()
        return crowd, gateway

    async def _until_upstreams_are_up(self) -> None:
        with trio.move_on_after(_OPEN_S):
            while True:
                status = await trio.to_thread.run_sync(self._client.status)
                if all(one["links_up"] == one["links"] for one in status["upstreams"]):
                    await trio.sleep(_CALM_S)
                    return
                await trio.sleep(_POLL_S)
        raise ChildFailed(f"the gateway's links did not come up within {_OPEN_S:g} s: {self._log}")

    # --- meanwhile ---------------------------------------------------------------------------

    async def _trade(self, crowd: Crowd, sick: Sequence[Peer]) -> None:
        options, times, case = self._options, self._times, self._case
        seconds = times.measured_s + (0 if case.from_start else options.back_s)
        self._say(f"{case.name}: {options.rate:g} purchases a second for {seconds:g} s")
        # A collection of everything there is takes longer than an answer may.
        gc.collect()
        gc.freeze()
        times.start_s = times.sick_s = times.healed_s = trio.current_time()
        times.start_ms = SystemClock().wall_ms()
        try:
            # Whoever has not settled so long after the end never will.
            with trio.move_on_after(seconds + 2 * options.till_s(case) + options.converge_s):
                async with trio.open_nursery() as tills, trio.open_nursery() as nursery:
                    nursery.start_soon(self._act, sick)
                    await crowd.come(
                        start_s=times.start_s, per_s=options.rate, seconds=seconds, till=tills
                    )
                    times.end_s = trio.current_time()
        finally:
            gc.unfreeze()

    async def _act(self, sick: Sequence[Peer]) -> None:
        times = self._times
        first = True
        for act in self._case.acts(times.measured_s):
            await trio.sleep_until(times.start_s + act.at_s)
            if first:
                first = False
                times.sick_s = trio.current_time()
                self._accepted_before = await sick[0].connections()
            await self._do(sick, act.what)
            if act.what == "heal":
                times.healed_s = trio.current_time()

    async def _do(self, sick: Sequence[Peer], what: Literal["sicken", "heal"]) -> None:
        async with trio.open_nursery() as nursery:
            for peer in sick:
                if self._case.sickness is Sickness.DRAINED:
                    command = {"sicken": "drain", "heal": "resume"}[what]
                    nursery.start_soon(self._operate, command, peer.name)
                elif what == "sicken":
                    nursery.start_soon(peer.sicken, self._case.sickness)
                else:
                    nursery.start_soon(peer.heal)

    async def _operate(self, command: str, name: str) -> None:
        """What an operator types."""
        await run_once(
            *python("gateway", "upstreams", command, name, "--config", str(self._config))
        )

    # --- afterwards --------------------------------------------------------------------------

    async def _converge(self, crowd: Crowd, peers: Sequence[Peer]) -> float:
        """Waits until nothing is owed and everybody agrees; how long that took."""
        began_s = trio.current_time()
        if self._case.from_start:
            for peer in peers:
                await peer.heal()
        with trio.move_on_after(self._options.converge_s):
            while True:
                if await self._reversals_open() == 0:
                    await trio.to_thread.run_sync(crowd.notes.save, self._terminals)
                    look = partial(self._verdict, peers, final=False)
                    if (await trio.to_thread.run_sync(look)).agrees:
                        break
                await trio.sleep(_POLL_S)
        return round(trio.current_time() - began_s, 2)

    def _verdict(self, peers: Sequence[Peer], *, final: bool) -> Verdict:
        simulated = {peer.name: peer.ledger for peer in peers if isinstance(peer, Simulated)}
        if simulated:
            return three_ledgers(
                terminals=self._terminals, store=self._store, acquirers=simulated, log=self._log
            )
        received = {
            peer.name: None if peer.killed else purchases_of(peer.received)
            for peer in peers
            if isinstance(peer, Isoload)
        }
        return without_acquirers(
            terminals=self._terminals, store=self._store, received=received if final else {}
        )

    async def _reversals_open(self) -> int:
        """How many the gateway says it owes or has handed to an operator; -1: it does not say."""
        try:
            status = await trio.to_thread.run_sync(self._client.status)
        except OperatorError:
            return -1
        return status["reversals_owed"] + status["reversals_given_up"]

    def _result(
        self,
        crowd: Crowd,
        sick: Sequence[Peer],
        peers: Sequence[Peer],
        *,
        converged_s: float,
        open_: int,
        accepted: int | None,
    ) -> CaseResult:
        times, name, case = self._times, sick[0].name, self._case
        verdict = self._verdict(peers, final=True)
        for line in verdict.lines:
            self._say(line)
        measured_to_s = times.start_s + times.measured_s
        counted = partial(self._purchases, crowd, sick_s=times.sick_s)
        sick_at_s, healed_at_s = times.sick_s - times.start_s, times.healed_s - times.start_s
        end_ms = times.start_ms + 1000 * (times.end_s - times.start_s)
        heard = listen(self._log, [name], from_ms=times.start_ms + 1000 * sick_at_s, to_ms=end_ms)
        taken = read_taken(self._store, zero_ms=times.start_ms)
        end_at_s = times.end_s - times.start_s
        lags_ms = sorted(1000 * lag_s for lag_s in crowd.lags_s)
        result = CaseResult(
            case=case.name,
            sick="both" if case.everybody else name,
            purchases=counted(from_s=times.start_s, to_s=measured_to_s),
            attempts_per_s=round(heard.attempts / max(1.0, end_at_s - sick_at_s), 2),
            accepted=_more(accepted, self._accepted_before),
            share_by_second=shares(taken, name, from_s=0, to_s=end_at_s),
            lost=verdict.lost,
            doubled=verdict.doubled,
            unexplained=verdict.unexplained,
            reversals_open=open_ if open_ >= 0 else 1,
            converged_s=converged_s,
            lag_p99_ms=percentile(lags_ms, 99),
            lag_max_ms=percentile(lags_ms, 100),
            queued=crowd.queued,
            processors=self._processors,
            wrongly_suspected=listen(
                self._log,
                [peer.name for peer in peers if peer not in sick],
                from_ms=times.start_ms,
                to_ms=end_ms,
            ).suspicions,
        )
        _take(result, heard)
        if not case.from_start:
            result.afterwards = counted(from_s=measured_to_s, to_s=times.end_s)
            result.share_when_back = shares(taken, name, from_s=healed_at_s, to_s=end_at_s)
            result.back_after_s = back_after_s(
                taken, name, healed_s=healed_at_s, to_s=end_at_s, fair=_FAIR
            )
        if result.lag_p99_ms > _LAG_MAX_MS:
            result.note = "this process was late itself: the figures are more of the machine's"
        result.judge((*ALWAYS, *case.targets))
        return result

    @staticmethod
    def _purchases(crowd: Crowd, *, from_s: float, to_s: float, sick_s: float) -> Purchases:
        came = sum(from_s <= due_s < to_s for due_s in crowd.came)
        ended = sum(from_s <= sale.due_s < to_s for sale in crowd.sales)
        return purchases(
            crowd.sales, from_s=from_s, to_s=to_s, sick_s=sick_s, unsettled=came - ended
        )


def _take(result: CaseResult, heard: Heard) -> None:
    result.attempts = heard.attempts
    result.suspicions = heard.suspicions
    result.suspected_after_s = heard.suspected_after_s
    result.events = heard.events
    result.first_events = heard.first


def _more(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before
