"""The event log: each event as one JSON object a line, or a readable line on a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import orjson
import structlog

from gateway.clock import Clock, iso_time
from gateway.telemetry.events import DEBUG, ERROR, HOT, INFO, LEVELS, WARNING, Event
from gateway.telemetry.redact import printable, redact, tame
from gateway.telemetry.sink import LineSink

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["auto", "json", "console"]
# Told of each event that is not HOT, with its fields already safe to show.
Subscriber = Callable[[Event, Mapping[str, object]], None]

_RANKS = {DEBUG: 0, INFO: 1, WARNING: 2, ERROR: 3}
_COLOURS = {DEBUG: "\x1b[2m", INFO: "\x1b[32m", WARNING: "\x1b[33m", ERROR: "\x1b[31m"}
_PLAIN = "\x1b[0m"


class ClockFailed(Exception):
    """The time of an event could not be read."""


class EventLog:
    """Writes events, masked, to a sink, and tells those who subscribed."""

    def __init__(
        self,
        sink: LineSink,
        *,
        clock: Clock,
        node: str,
        level: Level = "info",
        style: Style = "auto",
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._sink = sink
        self._subscribers: tuple[Subscriber, ...] = ()
        self._told_dropped = 0
        console = style == "console" or (style == "auto" and sink.is_terminal)
        colours = sink.is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._clock = clock
        self._times = _Times()
        lines = _Lines(
            sink,
            [_Console(colours=colours) if console else _render_json],
            {"time": "", "level": "", "event": "", "node": node},
        )
        self._by_event = {
            event: lines.bind(level=its_level, event=event.value)
            for event, its_level in LEVELS.items()
        }
        # Lines of the main path are made by the sink's thread, which keeps times of its own.
        late = _Times()
        self._late = {event: partial(self._line, event, late) for event in HOT}
        self.set_level(level)

    @property
    def level(self) -> Level:
        return self._level

    def set_level(self, level: Level) -> None:
        """From now on write events of this level and above."""
        self._level: Level = level
        self._written = frozenset(
            event for event, its_level in LEVELS.items() if _RANKS[its_level] >= _RANKS[level]
        )

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have `subscriber` called with each event that is not HOT, whatever the level."""
        self._subscribers = (*self._subscribers, subscriber)

    def emit(self, event: Event, /, **fields: object) -> None:
        """Write an event, if its level is written, and tell the subscribers; never raises."""
        written = event in self._written
        late = self._late.get(event)
        if late is not None:
            if written:
                # Many lines at once cost a third of what they cost one by one amid other work.
                self._sink.put(partial(late, fields, self._now_ms()))
                self._look_for_trouble()
            return
        if not (written or self._subscribers):
            return
        _make_safe(fields)
        if written:
            self._sink.put(self._line(event, self._times, fields, self._now_ms()))
            if LEVELS[event] is ERROR:
                self._sink.hurry()
        self._tell(event, fields)
        self._look_for_trouble()

    def reopen(self) -> None:
        """Open the log file anew by its name; returns at once."""
        self._sink.reopen()

    def close(self, timeout_s: float = 2.0) -> bool:
        """Write what is queued; returns whether all of it was written in time."""
        if self._sink.trouble:
            self._report_trouble()
        return self._sink.close(timeout_s)

    def _line(
        self, event: Event, times: _Times, fields: dict[str, object], now_ms: int | None
    ) -> bytes:
        try:
            if times is not self._times:
                _make_safe(fields)
            return self._by_event[event].line(times.text(now_ms), fields)
        except Exception as error:
            # Values are tame by now, so this is a clock that failed or a bug; say that much.
            return json_line(
                {
                    "level": LEVELS[event],
                    "event": event.value,
                    "unloggable": type(error).__name__,
                }
            )

    def _now_ms(self) -> int | None:
        try:
            return self._clock.wall_ms()
        except Exception:
            return None

    def _tell(self, event: Event, fields: Mapping[str, object]) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(event, fields)
            except Exception as error:
                self._write(
                    Event.HANDLER_FAILED, {"where": "subscriber", "reason": type(error).__name__}
                )

    def _look_for_trouble(self) -> None:
        if self._sink.trouble and self._sink.has_room:
            self._report_trouble()

    def _report_trouble(self) -> None:
        failure = self._sink.take_trouble()
        dropped = self._sink.dropped - self._told_dropped
        self._told_dropped += dropped
        told: list[tuple[Event, dict[str, object]]] = []
        if failure:
            told.append((Event.LOG_FAILED, {"reason": failure}))
        if dropped:
            told.append((Event.LOG_LINES_DROPPED, {"lines": dropped}))
        for event, fields in told:
            self._write(event, fields)
            self._tell(event, fields)

    def _write(self, event: Event, fields: dict[str, object]) -> None:
        # Whatever the level: that the log has gaps must be in the log.
        self._sink.put(self._line(event, self._times, fields, self._now_ms()))


class _Lines(structlog.BoundLoggerBase):
    """A structlog logger, bound to an event; its one method returns the line."""

    def line(self, time: str, fields: dict[str, object]) -> bytes:
        arguments, _ = self._process_event("", None, {"time": time, **fields})
        line: bytes = arguments[0]
        return line


class _Times:
    """Milliseconds as text; under load many events share theirs, and nearly all their second."""

    def __init__(self) -> None:
        self._now_ms = -1
        self._second = self._text = ""

    def text(self, now_ms: int | None) -> str:
        if now_ms is None:
            raise ClockFailed
        if now_ms != self._now_ms:
            if now_ms // 1000 != self._now_ms // 1000:
                self._second = iso_time(now_ms)[:-4]
            self._text = f"{self._second}{now_ms % 1000:03d}Z"
            self._now_ms = now_ms
        return self._text


def _make_safe(fields: dict[str, object]) -> None:
    try:
        redact(fields)
    except Exception as error:
        fields.clear()
        fields["unloggable"] = type(error).__name__


def _render_json(_: object, __: str, event: structlog.typing.EventDict) -> bytes:
    return json_line(event)


def json_line(event: Mapping[str, object]) -> bytes:
    """An event as one line of ASCII JSON with its newline; no value makes it fail."""
    try:
        line = orjson.dumps(event)
    except TypeError:
        # Text that is not Unicode (lone surrogates), or a number over 64 bits.
        line = orjson.dumps(tame(event))
    if not line.isascii():
        # C1 controls drive a terminal as escapes do, and U+2028 ends a line for some readers.
        line = json.dumps(orjson.loads(line), separators=(",", ":")).encode()
    if b"\x7f" in line:
        line = line.replace(b"\x7f", b"\\u007f")
    # The copy matters: orjson's own bytes keep a 1 KiB block each, which made a queued line cost
    # twice what it costs to write.
    return line + b"\n"


class _Console:
    """Writes an event for people: time, level, name, then fields as name=value."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = _COLOURS if colours else {}
        self._plain = _PLAIN if colours else ""

    def __call__(self, _: object, __: str, event: structlog.typing.EventDict) -> bytes:
        level = event.pop("level")
        head = f"{event.pop('time')[11:]} {level:<7} {event.pop('event'):<18}"
        event.pop("node")
        fields = " ".join(f"{printable(name)}={_shown(value)}" for name, value in event.items())
        return f"{self._colours.get(level, '')}{head}{self._plain} {fields}\n".encode()


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict | list):
        return printable(json_line(value).decode().rstrip())  # type: ignore[arg-type]
    text = printable(str(value))
    if not text or any(character in text for character in ' "='):
        return '"' + text.replace('"', '\\"') + '"'
    return text
