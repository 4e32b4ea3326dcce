"""An alarm is told once, a storm of it once per `repeat_s`, and a command that hangs is killed."""

import json
import sys
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.telemetry.alarms import KEPT_MAX, LAPSE_MS, Alarms
from gateway.telemetry.events import Event

START_MS = 1_795_293_234_125
# Puts what it reads into a new file; renamed, so that a file that is there is whole.
KEEP = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
part = folder / f"{os.getpid()}.part"
part.write_bytes(sys.stdin.buffer.read())
part.rename(folder / f"{len(list(folder.glob('*.json')))}.json")
"""


class Emitted:
    def __init__(self) -> None:
        self.events: list[tuple[Event, dict[str, object]]] = []
        self.some = trio.Event()

    def __call__(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))
        self.some.set()


def alarms_for(
    command: list[str],
    emit: Emitted,
    *,
    timeout_s: float = 10.0,
    running_max: int = 2,
    repeat_s: float = 60.0,
) -> Alarms:
    return Alarms(
        command,
        timeout_s=timeout_s,
        running_max=running_max,
        repeat_s=repeat_s,
        clock=VirtualClock(START_MS),
        emit=emit,
        node="n1",
    )


@pytest.fixture
def still_clock() -> trio.testing.MockClock:
    """Time that moves only when it is told to: the commands are real processes."""
    return trio.testing.MockClock()


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


async def there_are(count: int, folder: Path) -> list[Path]:
    """The finished files of a folder, the oldest first, once there are so many."""
    end_s = time.monotonic() + 20
    while len(found := sorted(await trio.to_thread.run_sync(finished, folder))) < count:
        assert time.monotonic() < end_s
    return found


def finished(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix != ".part"]


async def told(folder: Path, count: int) -> list[dict[str, object]]:
    """What the command was given, once it was run so often."""
    return [json.loads(file.read_bytes()) for file in await there_are(count, folder)]


async def settle() -> None:
    for _ in range(20):
        await trio.lowlevel.checkpoint()


async def test_the_event_is_on_standard_input(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    emit = Emitted()
    alarms = alarms_for([sys.executable, "-c", KEEP, str(tmp_path)], emit)
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        alarms.on_event(Event.UPSTREAM_DOWN, {"upstream": "acquirer-a", "reason": "\ud800\n"})
        alarms.on_event(Event.LINK_DOWN, {"upstream": "acquirer-a"})
        (line,) = await told(tmp_path, 1)
        nursery.cancel_scope.cancel()
    assert line == {
        "time": "2026-11-21T20:33:54.125Z",
        "level": "warning",
        "event": "upstream_down",
        "node": "n1",
        "since": "2026-11-21T20:33:54.125Z",
        "raised": 1,
        "upstream": "acquirer-a",
        "reason": "\\ud800\n",
    }
    assert emit.events == []


async def test_a_storm_is_told_once_and_summed_up_at_the_end_of_the_time(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    alarms = alarms_for([sys.executable, "-c", KEEP, str(tmp_path)], Emitted())
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        alarms.on_event(Event.MAC_FAILED, {"listener": "a", "terminal": "T1"})
        await told(tmp_path, 1)
        for number in range(100):
            alarms.on_event(Event.MAC_FAILED, {"listener": "a", "terminal": f"T{number}"})
        alarms.on_event(Event.MAC_FAILED, {"listener": "b", "terminal": "T1"})
        lines = await told(tmp_path, 2)
        assert [line["listener"] for line in lines] == ["a", "b"]
        still_clock.jump(59)
        await settle()
        assert len(names(tmp_path)) == 2
        still_clock.jump(2)
        lines = await told(tmp_path, 3)
        nursery.cancel_scope.cancel()
    assert (lines[2]["listener"], lines[2]["raised"], lines[2]["terminal"]) == ("a", 100, "T99")


async def test_an_upstream_that_flaps_and_stays_down_is_told_again(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    alarms = alarms_for([sys.executable, "-c", KEEP, str(tmp_path)], Emitted())
    down, up, fields = Event.UPSTREAM_DOWN, Event.UPSTREAM_UP, {"upstream": "a"}
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        alarms.on_event(down, fields)
        await told(tmp_path, 1)
        alarms.on_event(up, fields)
        alarms.on_event(down, fields)
        still_clock.jump(61)
        await told(tmp_path, 2)
        # Raised again but over by the end of the time: nobody is woken.
        alarms.on_event(down, fields)
        alarms.on_event(up, fields)
        still_clock.jump(61)
        await settle()
        assert len(names(tmp_path)) == 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit status 3"),
        (["/no/such/command"], "No such file or directory"),
        (
            [sys.executable, "-c", "import sys; sys.stdin.close(); raise SystemExit(1)"],
            "exit status 1",
        ),
    ],
)
async def test_a_command_that_fails_is_an_event(
    command: list[str], reason: str, still_clock: trio.testing.MockClock
) -> None:
    emit = Emitted()
    alarms = alarms_for(command, emit)
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        alarms.raise_alarm(Event.STORE_FAILING, {"text": "x" * 200_000})
        await emit.some.wait()
        nursery.cancel_scope.cancel()
    assert emit.events == [
        (
            Event.ALARM_COMMAND_FAILED,
            {"alarm": Event.STORE_FAILING, "command": command[0], "reason": reason},
        )
    ]


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    # Dead, but not yet collected by whoever takes in orphans.
    return state.split()[2] not in "ZX"


async def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "import pathlib; pathlib.Path(sys.argv[1], 'x.part').write_text(str(child.pid))\n"
        "pathlib.Path(sys.argv[1], 'x.part').rename(pathlib.Path(sys.argv[1], '1.json'))\n"
        "child.wait()"
    )
    emit = Emitted()
    alarms = alarms_for([sys.executable, "-c", script, str(tmp_path)], emit, timeout_s=5)
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        alarms.raise_alarm(Event.STORE_FAILING, {})
        (child,) = await told(tmp_path, 1)
        still_clock.jump(6)
        await emit.some.wait()
        nursery.cancel_scope.cancel()
    assert emit.events[0][1]["reason"] == "killed after 5 s"
    for _ in range(2_000):  # killed with its group; the kernel takes it away in its own time
        if not lives(int(str(child))):
            return
        await trio.to_thread.run_sync(time.sleep, 0.01)
    raise AssertionError("the command's child goes on")


async def test_no_more_run_at_once_than_allowed(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    script = (
        "import pathlib, sys, time\n"
        "name = __import__('json').loads(sys.stdin.read())['upstream']\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "(folder / name).write_text('')\n"
        "while not (folder / 'go').exists(): time.sleep(0.01)\n"
    )
    alarms = alarms_for([sys.executable, "-c", script, str(tmp_path)], Emitted(), running_max=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        for number in range(4):
            alarms.raise_alarm(Event.UPSTREAM_DOWN, {"upstream": f"u{number}"})
        await there_are(2, tmp_path)
        await settle()
        assert names(tmp_path) == {"u0", "u1"}
        # Over before its turn came: it is not told.
        alarms.on_event(Event.UPSTREAM_UP, {"upstream": "u2"})
        (tmp_path / "go").write_text("")
        await there_are(4, tmp_path)
        assert names(tmp_path) == {"u0", "u1", "u3", "go"}
        nursery.cancel_scope.cancel()


async def test_what_was_raised_just_before_the_end_is_told(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    alarms = alarms_for([sys.executable, "-c", KEEP, str(tmp_path)], Emitted())
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        alarms.raise_alarm(Event.INVARIANT_BROKEN, {})
        nursery.cancel_scope.cancel()
    assert len(await told(tmp_path, 1)) == 1
    alarms.raise_alarm(Event.STORE_FAILING, {})
    alarms.tell_rest()
    lines = await told(tmp_path, 2)
    assert [line["event"] for line in lines] == ["invariant_broken", "store_failing"]
    alarms.tell_rest()
    assert len(names(tmp_path)) == 2


async def test_alarms_of_other_threads_are_told(
    tmp_path: Path, still_clock: trio.testing.MockClock
) -> None:
    class StillClock:
        def wall_ms(self) -> int:
            return START_MS

        def monotonic_s(self) -> float:
            return 0.0

    alarms = Alarms(
        [sys.executable, "-c", KEEP, str(tmp_path)],
        timeout_s=10,
        running_max=1,
        repeat_s=60,
        clock=StillClock(),
        emit=Emitted(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        await settle()
        await trio.to_thread.run_sync(alarms.raise_alarm, Event.STORE_FAILING, {})
        assert len(await told(tmp_path, 1)) == 1
        nursery.cancel_scope.cancel()


async def test_what_is_on(still_clock: trio.testing.MockClock) -> None:
    alarms = alarms_for([], Emitted())
    down, up = Event.UPSTREAM_DOWN, Event.UPSTREAM_UP
    alarms.on_event(down, {"upstream": "a", "reason": "one"})
    still_clock.jump(1)
    alarms.on_event(down, {"upstream": "a", "reason": "two"})
    alarms.on_event(down, {"upstream": "b"})
    alarms.on_event(Event.STORE_FAILING, {})
    alarms.on_event(Event.MAC_FAILED, {"listener": "l"})
    first = alarms.active[0]
    assert (first.name, first.subject, first.count) == ("upstream_down", "a", 2)
    assert (first.since_ms, first.last_ms) == (START_MS, START_MS + 1_000)
    assert first.fields == {"upstream": "a", "reason": "two"}
    alarms.on_event(up, {"upstream": "a"})
    alarms.on_event(Event.STORE_RECOVERED, {})
    assert [(alarm.name, alarm.subject) for alarm in alarms.active] == [
        ("upstream_down", "b"),
        ("mac_failed", "l"),
    ]
    alarms.on_event(down, {"upstream": "a"})
    assert alarms.active[-1].count == 1
    assert alarms.active[-1].since_ms == START_MS + 1_000
    # No event says that MACs are right again; that an upstream is up, one does.
    still_clock.jump(LAPSE_MS / 1_000 + 1)
    assert [alarm.name for alarm in alarms.active] == ["upstream_down", "upstream_down"]


async def test_a_certificate_list_that_loads_ends_both_its_alarms(
    still_clock: trio.testing.MockClock,
) -> None:
    alarms = alarms_for([], Emitted())
    for event in (Event.CRL_STALE, Event.CRL_FAILED):
        alarms.on_event(event, {"listener": "a"})
        alarms.on_event(event, {"listener": "b"})
    alarms.on_event(Event.CRL_LOADED, {"listener": "a"})
    assert {alarm.subject for alarm in alarms.active} == {"b"}


async def test_the_table_of_alarms_is_bounded(still_clock: trio.testing.MockClock) -> None:
    alarms = alarms_for([], Emitted())
    alarms.on_event(Event.UPSTREAM_DOWN, {"upstream": "over"})
    alarms.on_event(Event.UPSTREAM_DOWN, {"upstream": "first"})
    alarms.on_event(Event.UPSTREAM_UP, {"upstream": "over"})
    still_clock.jump(1)
    for number in range(KEPT_MAX - 1):
        alarms.on_event(Event.UPSTREAM_DOWN, {"upstream": f"u{number}"})
    assert len(alarms.active) == KEPT_MAX
    assert alarms.active[0].subject == "first"
    alarms.on_event(Event.UPSTREAM_DOWN, {"upstream": "last"})
    assert len(alarms.active) == KEPT_MAX
    assert "first" not in {alarm.subject for alarm in alarms.active}


async def test_without_a_command_nothing_is_run(still_clock: trio.testing.MockClock) -> None:
    emit = Emitted()
    alarms = alarms_for([], emit)
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        alarms.raise_alarm(Event.STORE_FAILING, {})
        await settle()
        nursery.cancel_scope.cancel()
    alarms.tell_rest()
    assert emit.events == []
