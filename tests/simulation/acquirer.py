"""Acquirer: a simulated host that writes its ledger before it answers, if it answers."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import trio

from gateway.clock import Clock
from gateway.errors import PeerError
from gateway.upstreams.link import Connect
from gateway.wire.message import (
    AMOUNT,
    ORIGINAL_DATA,
    PROCESSING_CODE,
    RESPONSE_CODE,
    TRANSMISSION_TIME,
    Kind,
    Message,
    kind_of,
    repeat_mti,
    response_mti,
)
from loadtest.host import ORIGINAL_NOT_FOUND, REFERENCE, Host, original_key
from loadtest.ledger import Entry, OriginalKey
from loadtest.switches import Switches
from loadtest.wire import MessageReader, Wire
from tests.simulation.network import Network, SimulatedStream
from tests.simulation.plan import AcquirerPlan, Weather
from tests.simulation.trace import Trace

UNKNOWN_CODES = ("68", "09", "Z9")  # none of them is a plain no
DECLINES = ("05", "51", "14")
_NOT_NOW = ("91", "96")
_ODD_TO_REVERSALS = ("12", "Z9", "30")
_MONEYLESS = (Kind.BALANCE,)
_SWITCHES = {
    (code, tombstones): Switches(response_code=code, tombstones=tombstones)
    for code in ("00", "11", *DECLINES)
    for tombstones in (True, False)
}


class MemoryLedger:
    """An acquirer's ledger; stands in for `AcquirerLedger`, and outlives its host as that does."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self._by_key: dict[tuple[str, str, str], int] = {}
        self._newest: dict[tuple[str, str], int] = {}
        self._tombstones: set[tuple[str, str, str]] = set()

    def add(self, entry: Entry) -> Entry:
        entry_id = len(self.entries) + 1
        made = replace(
            entry,
            entry_id=entry_id,
            # An advice that was kept comes without the terminal's own name for it.
            reference=entry.reference or entry.rrn,
            rrn=entry.rrn or f"{entry_id:012d}",
            approved=entry.approved and entry.kind not in _MONEYLESS,
            approval_code=f"{entry_id:06d}" if entry.approved else "",
        )
        self.entries[entry_id] = made
        self._by_key.setdefault((made.terminal_id, made.stan, made.transmitted), entry_id)
        self._newest[made.terminal_id, made.stan] = entry_id
        return made

    def find(self, key: OriginalKey) -> Entry | None:
        if key.transmitted:
            found = self._by_key.get((key.terminal_id, key.stan, key.transmitted))
        else:
            found = self._newest.get((key.terminal_id, key.stan))
        return None if found is None else self.entries[found]

    def mark_reversed(self, entry: Entry, *, amount_minor: int, now_ms: int) -> None:
        self.entries[entry.entry_id] = replace(
            entry, reversed_ms=now_ms, reversed_amount_minor=amount_minor
        )

    def put_tombstone(self, key: OriginalKey, *, now_ms: int) -> None:
        self._tombstones.add((key.terminal_id, key.stan, key.transmitted))

    def has_tombstone(self, key: OriginalKey) -> bool:
        return any(
            (key.terminal_id, key.stan, transmitted) in self._tombstones
            for transmitted in ("", key.transmitted)
        )


class SimulatedAcquirer:
    """One acquirer: its ledger stays; its process comes and goes."""

    def __init__(
        self,
        name: str,
        *,
        plan: AcquirerPlan,
        weather: Weather,
        late_max_s: float,
        network: Network,
        wire: Wire,
        clock: Clock,
        random: Random,
        trace: Trace,
    ) -> None:
        self.name = name
        self.ledger = MemoryLedger()
        self.stans_seen: dict[str, set[str]] = {}  # every STAN, and what it was used for
        self.strays: list[tuple[str, str]] = []  # what should not have come here, and why
        self._advices: set[str] = set()  # STANs of those that did not say that they are repeats
        self._host = Host(self.ledger, clock)  # type: ignore[arg-type]
        self._plan = plan
        self._weather = weather
        self._late_max_s = late_max_s
        self._network = network
        self._wire = wire
        self._random = random
        self._trace = trace
        self._up = True
        self._calm = False
        self._life = 0  # what an earlier life had in memory is gone
        self._streams: list[SimulatedStream] = []
        self._nursery: trio.Nursery

    # --- the process --------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def go_wrong(self) -> None:
        """Restart now and then, until cancelled."""
        while self._plan.restart_every_s:
            await trio.sleep(self._random.expovariate(1 / self._plan.restart_every_s))
            await self._restart()

    def heal(self) -> None:
        """Back for good, and well."""
        self._calm = True
        self._up = True

    async def _restart(self) -> None:
        self._die()
        await trio.sleep(self._random.expovariate(1 / self._plan.restart_s))
        self._up = True
        self._trace(self.name, "up again")

    def _die(self) -> None:
        self._trace(self.name, "down")
        self._up = False
        self._life += 1
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.kill(reset=self._random.random() < 0.5)

    def connect_with(self, address: str) -> Connect:
        """What an `Upstream` is given in place of sockets."""

        async def connect() -> trio.abc.Stream:
            await trio.sleep(self._weather.latency_s)
            if not self._up or self._network.refuses(self._weather):
                raise ConnectionRefusedError("refused")
            ours, theirs = self._network.pair("gateway", self.name, self._weather)
            self._streams.append(theirs)
            self._nursery.start_soon(self._serve, theirs, self._life)
            return ours

        return connect

    async def _serve(self, stream: SimulatedStream, life: int) -> None:
        reader = MessageReader(stream, self._wire)
        try:
            while (message := await reader.next()) is not None:
                if life != self._life:
                    return
                if message.is_request:
                    self._nursery.start_soon(self._process, message, stream, life)
        except (PeerError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        stream.close()

    # --- one request --------------------------------------------------------------------------

    async def _process(self, request: Message, stream: SimulatedStream, life: int) -> None:
        plan = self._plan
        if self._chance(plan.lose):
            self._note(request, "request lost")
            return
        if self._chance(plan.hold):
            await trio.sleep(self._random.uniform(0, self._late_max_s * 0.3))
        if life != self._life:
            return
        answer = self._answer(request)
        if self._chance(plan.dies_after_commit):
            self._die()
            await trio.sleep(self._random.expovariate(1 / plan.restart_s))
            self._up = True
            return
        if self._chance(plan.answer_lost):
            self._note(request, "answer lost")
            return
        if self._chance(plan.answer_late):
            await trio.sleep(self._random.uniform(0, self._late_max_s))
        if life != self._life:
            return
        frame = self._wire.pack(answer)
        if self._chance(plan.answer_odd):
            frame = self._odd(answer)
        if self._chance(plan.answer_twice):
            frame += frame
        try:
            await stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._note(request, "nobody to answer")

    def _answer(self, request: Message) -> Message:
        """Decide, and write it down."""
        if request.mti[1] == "8":
            return _answer_with(request, "00")  # an echo, a sign-on: no money in it
        answer = self._reverse(request) if request.mti[1] == "4" else self._decide(request)
        self._use(request)
        self._note(request, "decided", code=answer.response_code)
        return answer

    def _decide(self, request: Message) -> Message:
        plan, random = self._plan, self._random
        self._look_for_original(request)
        if self._chance(plan.not_now):
            # Not even looked at: nothing is written down.
            return _answer_with(request, random.choice(_NOT_NOW))
        advice = request.mti[:3] == "022"
        code = random.choice(("00", "00", "00", "11"))
        if not advice and self._chance(plan.decline):
            code = random.choice(DECLINES)
        # An advice may come after its own repeat, and is known by then.
        taken = request
        if advice and not request.is_repeat:
            if request.stan in self._advices:
                self.strays.append((self._name_of(request), "the same advice came unmarked again"))
            self._advices.add(request.stan)
            if self.ledger.find(_key_of(request)) is not None:
                taken = request.changed({}, mti=repeat_mti(request.mti))
        answer = self._host.answer(taken, _SWITCHES[code, plan.tombstones])
        # Only of what can be reversed: nothing but an operator settles it for the others.
        reversible = not advice and request.get(PROCESSING_CODE)[:2] != "20"
        if reversible and answer.response_code == "00" and self._chance(plan.unknown_code):
            return answer.changed({RESPONSE_CODE: random.choice(UNKNOWN_CODES)})
        return answer

    def _reverse(self, request: Message) -> Message:
        plan = self._plan
        done = self._random.random() < 0.5  # it is written down, whatever is answered
        for share, codes in ((plan.not_now, _NOT_NOW), (plan.reversal_odd, _ODD_TO_REVERSALS)):
            if self._chance(share):
                if done:
                    self._host.answer(request, _SWITCHES["00", plan.tombstones])
                return _answer_with(request, self._random.choice(codes))
        return self._host.answer(request, _SWITCHES["00", plan.tombstones])

    def _look_for_original(self, request: Message) -> None:
        if request.get(ORIGINAL_DATA) and self.ledger.find(original_key(request)) is None:
            self.strays.append((self._name_of(request), "its original is not here"))
            self._note(request, "stray", code=ORIGINAL_NOT_FOUND)

    def _use(self, request: Message) -> None:
        """A STAN stands for one thing only: a request and its repeats."""
        group = request.mti[:2]
        what = f"{group} {request.terminal_id} {request.get(ORIGINAL_DATA)[:20]} {request.rrn}"
        self.stans_seen.setdefault(request.stan, set()).add(what)

    def _odd(self, answer: Message) -> bytes:
        what = self._random.randrange(3)
        if what == 0:
            return self._wire.pack(answer.changed({AMOUNT: "000000000007"}))
        if what == 1:
            return self._wire.pack(answer.without([RESPONSE_CODE]))
        return b"\x00\x10" + b"0210" + bytes(12)

    @staticmethod
    def _name_of(request: Message) -> str:
        return request.get(REFERENCE) or request.rrn

    def _chance(self, share: float) -> bool:
        return not self._calm and self._random.random() < share

    def _note(self, request: Message, what: str, code: str = "") -> None:
        self._trace(
            self.name,
            what,
            mti=request.mti,
            kind=kind_of(request).value,
            upstream=self.name,
            upstream_stan=request.stan,
            terminal=request.terminal_id,
            code=code,
            original=request.get(ORIGINAL_DATA)[4:10],
        )


def _key_of(request: Message) -> OriginalKey:
    return OriginalKey(
        terminal_id=request.terminal_id,
        stan=request.stan,
        transmitted=request.get(TRANSMISSION_TIME),
    )


def _answer_with(request: Message, code: str) -> Message:
    return request.changed({RESPONSE_CODE: code}, mti=response_mti(request.mti))
