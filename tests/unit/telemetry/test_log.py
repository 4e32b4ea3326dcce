"""Every event is one valid line whatever its values, and what cannot be written is counted."""

import json
import os
import pty
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import iso_time
from gateway.telemetry.events import ALARMS, CLEARS, HOT, LEVELS, Event
from gateway.telemetry.log import EventLog, Level, Style
from gateway.telemetry.sink import Line, LineSink

NOW_MS = 1_795_293_234_125
PAN = "4111111111111111"


class StillClock:
    def wall_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0


class ListSink(LineSink):
    """Keeps what it is given."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self.lines: list[bytes] = []
        self.trouble = False
        self._terminal = is_terminal

    def put(self, line: Line) -> None:
        self.lines.append(line if isinstance(line, bytes) else line())

    def hurry(self) -> None:
        pass

    @property
    def is_terminal(self) -> bool:
        return self._terminal


def log_to(
    sink: LineSink,
    *,
    level: Level = "debug",
    style: Style = "auto",
    environ: Mapping[str, str] | None = None,
) -> EventLog:
    return EventLog(
        sink, clock=StillClock(), node="n1", level=level, style=style, environ=environ or {}
    )


def line_of(emit_to: Callable[[EventLog], None], *, style: Style = "json") -> bytes:
    sink = ListSink()
    emit_to(log_to(sink, style=style))
    (line,) = sink.lines
    return line


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=("Cs", "Cc", "Zl", "Zp")))
    | st.binary()
    | st.sampled_from(Event),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(Event), st.dictionaries(st.text(), values, max_size=6))
def test_any_event_is_one_line_of_json(event: Event, fields: dict[str, object]) -> None:
    line = line_of(lambda log: log.emit(event, **fields))
    assert line.isascii()
    assert line[:-1].decode().isprintable()
    assert line.endswith(b"\n")
    shown = json.loads(line)
    assert shown["event"] == event.value
    assert shown["level"] == LEVELS[event]
    assert shown["time"] == "2026-11-21T20:33:54.125Z"
    assert "unloggable" not in shown or "unloggable" in fields


@given(st.sampled_from(Event), st.dictionaries(st.text(), values, max_size=6))
def test_any_event_is_one_line_on_a_console(event: Event, fields: dict[str, object]) -> None:
    line = line_of(lambda log: log.emit(event, **fields), style="console")
    assert line.isascii()
    assert line[:-1].decode().isprintable()
    assert b"unloggable" not in line or "unloggable" in fields


def test_a_line() -> None:
    line = line_of(
        lambda log: log.emit(Event.TRANSACTION, terminal="T0000001", stan="000123", seconds=0.5)
    )
    assert line == (
        b'{"time":"2026-11-21T20:33:54.125Z","level":"info","event":"transaction","node":"n1",'
        b'"terminal":"T0000001","stan":"000123","seconds":0.5}\n'
    )


def test_text_beyond_unicode_and_numbers_beyond_64_bits() -> None:
    line = line_of(
        lambda log: log.emit(Event.NODE_READY, a="\ud800\x9b\u2028\x7f", b=1 << 64, c=float("nan"))
    )
    assert json.loads(line)["a"] == "\\ud800\x9b\u2028\x7f"
    assert json.loads(line)["b"] == "[integer of 65 bits]"
    assert json.loads(line)["c"] is None


def test_card_numbers_are_masked_in_both_forms() -> None:
    for style in ("json", "console"):
        line = line_of(lambda log: log.emit(Event.NODE_READY, text=f"card {PAN}"), style=style)
        assert PAN.encode() not in line
        assert b"411111******1111" in line


def test_the_console_form() -> None:
    line = line_of(
        lambda log: log.emit(
            Event.UPSTREAM_DOWN,
            upstream="acquirer-a",
            reason='refused "it"\n\x1b[2J',
            seconds=0.00123456789,
            tried=True,
            last=None,
            links=[1, 2],
            empty="",
        ),
        style="console",
    )
    assert line == (
        b"20:33:54.125Z warning upstream_down      upstream=acquirer-a "
        b'reason="refused \\"it\\"\\x0a\\x1b[2J" seconds=0.00123457 tried=yes last=- '
        b'links=[1,2] empty=""\n'
    )


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_on_a_terminal(environ: dict[str, str], *, coloured: bool) -> None:
    sink = ListSink(is_terminal=True)
    log_to(sink, environ=environ).emit(Event.UPSTREAM_DOWN)
    assert (b"\x1b[33m" in sink.lines[0]) is coloured
    assert b"upstream_down" in sink.lines[0]
    assert not sink.lines[0].startswith(b"{")


def test_auto_means_console_on_a_terminal_only(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    log = log_to(LineSink(descriptor=theirs), environ={"NO_COLOR": "1"})
    log.emit(Event.NODE_READY)
    assert log.close()
    assert os.read(ours, 1_000).startswith(b"20:33:54.125Z info    node_ready")
    os.close(ours)
    os.close(theirs)
    log = log_to(LineSink(file=tmp_path / "a.log"))
    log.emit(Event.NODE_READY)
    assert log.close()
    assert (tmp_path / "a.log").read_bytes().startswith(b"{")


def test_levels() -> None:
    sink = ListSink()
    log = log_to(sink)
    for level in get_args(Level):
        sink.lines.clear()
        log.set_level(level)
        assert log.level == level
        for event in Event:
            log.emit(event)
        written = [json.loads(line) for line in sink.lines]
        ranks = ("debug", "info", "warning", "error")
        assert [line["event"] for line in written] == [
            event.value for event in Event if ranks.index(LEVELS[event]) >= ranks.index(level)
        ]


def test_subscribers_hear_all_but_hot_events_at_any_level_and_masked() -> None:
    heard: list[tuple[Event, Mapping[str, object]]] = []
    sink = ListSink()
    log = log_to(sink, level="error")
    log.subscribe(lambda event, fields: heard.append((event, fields)))
    log.emit(Event.CONNECTION_OPEN, text=PAN)
    log.emit(Event.TRANSACTION)
    assert heard == [(Event.CONNECTION_OPEN, {"text": "411111******1111"})]
    assert sink.lines == []


def test_a_subscriber_that_fails_is_told_and_stops_nobody() -> None:
    heard: list[Event] = []

    def fail(event: Event, fields: Mapping[str, object]) -> None:
        raise RuntimeError(PAN)

    sink = ListSink()
    log = log_to(sink)
    log.subscribe(fail)
    log.subscribe(lambda event, fields: heard.append(event))
    log.emit(Event.NODE_READY)
    assert heard == [Event.NODE_READY]
    assert [json.loads(line)["event"] for line in sink.lines] == ["node_ready", "handler_failed"]
    assert PAN.encode() not in b"".join(sink.lines)


def test_a_line_of_the_main_path_is_made_when_it_is_written_and_says_when_it_happened() -> None:
    class Kept(ListSink):
        def __init__(self) -> None:
            super().__init__()
            self.makers: list[Callable[[], bytes]] = []

        def put(self, line: Line) -> None:
            assert not isinstance(line, bytes)
            self.makers.append(line)

    sink = Kept()
    log = log_to(sink)
    log.emit(Event.TRANSACTION, terminal="T1", note="4761730000000011")
    assert sink.lines == []
    (make,) = sink.makers
    line = make()
    assert b"4761730000000011" not in line
    assert json.loads(line)["terminal"] == "T1"
    assert json.loads(line)["time"] == iso_time(NOW_MS)


def test_a_failing_clock_does_not_reach_the_caller() -> None:
    class NoClock(StillClock):
        def wall_ms(self) -> int:
            raise RuntimeError

    sink = ListSink()
    EventLog(sink, clock=NoClock(), node="n1", environ={}).emit(Event.NODE_READY)
    assert json.loads(sink.lines[0]) == {
        "level": "info",
        "event": "node_ready",
        "unloggable": "ClockFailed",
    }


def test_dropped_lines_are_told_once_there_is_room() -> None:
    reader, writer = os.pipe()
    # It looks only when it is told to: how much it takes meanwhile must not depend on the machine.
    sink = LineSink(descriptor=writer, lines_max=100, poll_s=600.0)
    log = log_to(sink)
    heard: list[Event] = []
    log.subscribe(lambda event, fields: heard.append(event))
    for _ in range(2_000):
        log.emit(Event.NODE_READY, text="x" * 1_000)
    dropped = sink.dropped
    assert dropped > 1_000
    assert Event.LOG_LINES_DROPPED not in heard
    got = bytearray()
    sink.hurry()
    while not sink.has_room:
        got += os.read(reader, 65_536)
    log.emit(Event.NODE_STOPPING)
    assert Event.LOG_LINES_DROPPED in heard
    sink.hurry()
    while b"log_lines_dropped" not in got:
        got += os.read(reader, 65_536)
    lines = [json.loads(line) for line in got.splitlines()]
    assert lines[-1]["lines"] == dropped
    assert len(lines) == 2_000 - dropped + 2
    assert log.close()
    os.close(reader)
    os.close(writer)


def test_a_failed_write_is_told() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = LineSink(descriptor=writer, poll_s=0.001)
    log = log_to(sink)
    heard: list[tuple[Event, Mapping[str, object]]] = []
    log.subscribe(lambda event, fields: heard.append((event, fields)))
    log.emit(Event.NODE_READY)
    while not sink.trouble:
        pass
    assert log.close()
    assert (Event.LOG_FAILED, {"reason": "Broken pipe"}) in heard
    assert (Event.LOG_LINES_DROPPED, {"lines": 1}) in heard
    os.close(writer)


def test_the_lists_of_events_agree() -> None:
    assert set(LEVELS) == set(Event)
    for end, ended in CLEARS.items():
        assert end not in ALARMS
        assert ALARMS.issuperset(ended)
    assert Event.ALARM_COMMAND_FAILED not in ALARMS
    assert HOT.isdisjoint(ALARMS)
