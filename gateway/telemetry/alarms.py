"""Alarms: which are on, and the configured command run with each as JSON on its standard input."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from gateway.clock import Clock, iso_time
from gateway.telemetry.events import ALARMS, CLEARS, LEVELS, Emit, Event
from gateway.telemetry.log import json_line

# The first of these that an event has is what its alarm is about; an alarm of another subject is
# another alarm.
SUBJECT_FIELDS = ("upstream", "listener", "certificate", "path", "keys")
KEPT_MAX = 1_000
# How long an alarm that no event ends stays on after it was last raised.
LAPSE_MS = 24 * 3_600_000

_ENDED = frozenset(alarm for alarms in CLEARS.values() for alarm in alarms)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveAlarm:
    """An alarm that is on, for status."""

    name: str
    subject: str
    since_ms: int
    last_ms: int
    count: int
    fields: Mapping[str, object]


@dataclass(slots=True)
class _Alarm:
    event: Event
    subject: str
    since_ms: int
    last_ms: int
    count: int
    fields: Mapping[str, object]
    on: bool = True
    untold: int = 0  # raised so often since the command was last run
    told_s: float = -math.inf


class Alarms:
    """Keeps what alarms are on and tells them to a command, each at most once in `repeat_s`.

    An alarm raised again within that time is told at its end, if it is still on then.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        running_max: int,
        repeat_s: float,
        clock: Clock,
        emit: Emit,
        node: str = "",
    ) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._repeat_s = repeat_s
        self._clock = clock
        self._emit = emit
        self._node = node
        self._alarms: dict[tuple[Event, str], _Alarm] = {}
        self._running_max = running_max
        self._token: trio.lowlevel.TrioToken | None = None
        self._wake = trio.Event()
        self._end_s = math.inf

    def on_event(self, event: Event, fields: Mapping[str, object]) -> None:
        """Raise the alarm that an event is, or end those it ends; fits `EventLog.subscribe`."""
        if event in ALARMS:
            self.raise_alarm(event, fields)
        else:
            for ended in CLEARS.get(event, ()):
                alarm = self._alarms.get((ended, _subject(fields)))
                if alarm is not None:
                    alarm.on = False

    def raise_alarm(self, event: Event, fields: Mapping[str, object]) -> None:
        """Note an alarm and have it told; returns at once, and may be called in any thread."""
        now_ms = self._clock.wall_ms()
        subject = _subject(fields)
        alarm = self._alarms.get((event, subject))
        if alarm is None:
            self._make_room()
            alarm = _Alarm(event, subject, now_ms, now_ms, 0, fields)
            self._alarms[event, subject] = alarm
        elif not self._is_on(alarm, now_ms):
            alarm.since_ms, alarm.count, alarm.on = now_ms, 0, True
        alarm.last_ms = now_ms
        alarm.count += 1
        alarm.untold += 1
        alarm.fields = dict(fields)
        self._wake_up()

    @property
    def active(self) -> list[ActiveAlarm]:
        """The alarms that are on, the oldest first."""
        now_ms = self._clock.wall_ms()
        on = [alarm for alarm in list(self._alarms.values()) if self._is_on(alarm, now_ms)]
        return [
            ActiveAlarm(
                name=alarm.event.value,
                subject=alarm.subject,
                since_ms=alarm.since_ms,
                last_ms=alarm.last_ms,
                count=alarm.count,
                fields=alarm.fields,
            )
            for alarm in sorted(on, key=lambda alarm: alarm.since_ms)
        ]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the command for each alarm that is to be told, until cancelled.

        Once cancelled, what is due is still told, within `timeout_s` in all.
        """
        if not self._command:
            task_status.started()
            await trio.sleep_forever()
        self._token = trio.lowlevel.current_trio_token()
        self._end_s = math.inf
        places = trio.Semaphore(self._running_max)
        async with trio.open_nursery() as nursery:
            try:
                task_status.started()
                while True:
                    self._wake = trio.Event()
                    await self._tell_due(nursery, places)
                    with trio.move_on_at(self._next_due_s()):
                        await self._wake.wait()
            finally:
                self._token = None
                self._end_s = trio.current_time() + self._timeout_s
                with trio.CancelScope(shield=True, deadline=self._end_s):
                    await self._tell_due(nursery, places)

    def tell_rest(self) -> None:
        """Run the command, and wait for it, for alarms raised after the loop has ended.

        For the node's last words; may take `timeout_s` for each alarm never told.
        """
        if not self._command:
            return
        for alarm in list(self._alarms.values()):
            if alarm.untold and alarm.told_s == -math.inf:
                payload = self._take(alarm, told_s=0.0)
                try:
                    subprocess.run(
                        self._command,
                        input=payload,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        timeout=self._timeout_s,
                        check=True,
                        start_new_session=True,
                    )
                except (OSError, subprocess.SubprocessError) as error:
                    self._failed(alarm.event, type(error).__name__)

    # --- telling ------------------------------------------------------------------------------

    async def _tell_due(self, nursery: trio.Nursery, places: trio.Semaphore) -> None:
        while self._next_due() is not None:
            await places.acquire()
            # Looked up again: it may have ended while there was no place.
            alarm = self._next_due()
            if alarm is None:
                places.release()
                return
            payload = self._take(alarm, told_s=trio.current_time())
            nursery.start_soon(self._run_command, alarm.event, payload, places)

    async def _run_command(self, event: Event, payload: bytes, places: trio.Semaphore) -> None:
        deadline_s = min(trio.current_time() + self._timeout_s, self._end_s)
        try:
            with trio.CancelScope(shield=True, deadline=deadline_s):
                finished = await trio.run_process(
                    self._command,
                    stdin=payload,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    deliver_cancel=_kill_group,
                    # A group of its own: Ctrl-C is for the gateway, and a script's children are
                    # killed with it.
                    start_new_session=True,
                )
                if finished.returncode != 0:
                    self._failed(event, f"exit status {finished.returncode}")
                return
            self._failed(event, f"killed after {self._timeout_s:g} s")
        except OSError as error:
            self._failed(event, error.strerror or type(error).__name__)
        finally:
            places.release()

    def _failed(self, event: Event, reason: str) -> None:
        self._emit(Event.ALARM_COMMAND_FAILED, alarm=event, command=self._command[0], reason=reason)

    def _to_tell(self) -> list[_Alarm]:
        now_ms = self._clock.wall_ms()
        return [
            alarm
            for alarm in list(self._alarms.values())
            if alarm.untold and self._is_on(alarm, now_ms)
        ]

    def _next_due(self) -> _Alarm | None:
        now_s = trio.current_time()
        due = [alarm for alarm in self._to_tell() if alarm.told_s + self._repeat_s <= now_s]
        return min(due, key=lambda alarm: alarm.since_ms, default=None)

    def _next_due_s(self) -> float:
        return min((alarm.told_s + self._repeat_s for alarm in self._to_tell()), default=math.inf)

    def _take(self, alarm: _Alarm, *, told_s: float) -> bytes:
        """Count an alarm as told, and return what the command reads."""
        head = {
            "time": iso_time(alarm.last_ms),
            "level": LEVELS[alarm.event],
            "event": alarm.event.value,
            "node": self._node,
            "since": iso_time(alarm.since_ms),
            "raised": alarm.untold,
        }
        alarm.told_s = told_s
        alarm.untold = 0
        return json_line({**head, **alarm.fields, **head})

    # --- keeping ------------------------------------------------------------------------------

    @staticmethod
    def _is_on(alarm: _Alarm, now_ms: int) -> bool:
        lapsed = alarm.event not in _ENDED and now_ms - alarm.last_ms > LAPSE_MS
        return alarm.on and not lapsed

    def _make_room(self) -> None:
        if len(self._alarms) >= KEPT_MAX:
            oldest = min(list(self._alarms.items()), key=lambda item: (item[1].on, item[1].last_ms))
            self._alarms.pop(oldest[0], None)

    def _wake_up(self) -> None:
        token = self._token
        if token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._set_wake)

    def _set_wake(self) -> None:
        self._wake.set()


def _subject(fields: Mapping[str, object]) -> str:
    for name in SUBJECT_FIELDS:
        value = fields.get(name)
        if value:
            return str(value)
    return ""


async def _kill_group(process: trio.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
