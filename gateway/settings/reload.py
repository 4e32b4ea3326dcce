"""Takes up edits of a running configuration: validated whole, swapped whole, or nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, TypedDict, TypeVar

import trio

from gateway.clock import Clock, iso_time
from gateway.errors import OperatorError
from gateway.settings import loader
from gateway.settings.findings import Finding, SettingsError
from gateway.settings.loader import Configuration
from gateway.settings.sources import Digests, Texts, files_of, source_files, version_of
from gateway.telemetry.audit import DONE, REFUSED, AuditLog
from gateway.telemetry.audit_chain import Who
from gateway.telemetry.audit_files import AuditFailed
from gateway.telemetry.events import Emit, Event

Result = Literal["unchanged", "loaded", "refused", "waits", "would_load"]
UNKNOWN_AUTHOR = Who(name="unknown", origin="file")

_COMPARED_BYTES_MAX = 4 * 1024 * 1024  # larger files are told by name only
_SETTLE_TRIES_MAX = 20
_RETRY_S = 1.0
_SHOWN_MAX = 20  # findings in an event
_FORGIVEN = 1  # entries: one that is taken out is nobody's half file
_LOST_SHARE_MAX = 0.1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared(Generic[T]):
    """A whole configuration that is ready to be swapped in."""

    configuration: Configuration
    parts: T  # what the swap puts in force
    sizes: Mapping[str, int]  # entries of each list


# In a thread: builds what the swap needs, from a configuration that was loaded and, to be quick,
# from what is in force. Raises SettingsError.
Prepare = Callable[[Configuration, "Prepared[T] | None"], "Prepared[T]"]
# In the loop, and in one go: from one step of it to the next nobody else runs. Raises nothing.
Swap = Callable[["Prepared[T]"], None]


@dataclass(frozen=True, slots=True)
class Whole(Generic[T]):
    """A configuration as it was in its files at one moment."""

    prepared: Prepared[T]
    digests: Mapping[Path, str]
    texts: Texts


def read_whole(file: Path, prepare: Prepare[T]) -> Whole[T]:
    """What a node is to be built from; reads files. Raises SettingsError."""
    prepared, digests = _read_whole(file, prepare, None, Digests(), {})
    texts = Texts(bytes_max=_COMPARED_BYTES_MAX)
    texts.take(digests)
    return Whole(prepared, digests, texts)


def _read_whole(
    file: Path,
    prepare: Prepare[T],
    before: Prepared[T] | None,
    known: Digests,
    in_force: Mapping[Path, str],
) -> tuple[Prepared[T], dict[Path, str]]:
    """A configuration, and the hashes of its files: nothing changed while they were read."""
    for _ in range(_SETTLE_TRIES_MAX):
        configuration, digests = _loaded(file, before, known, in_force)
        version = version_of(digests, beside=file)
        prepared = prepare(replace(configuration, version=version), before)
        if known.of(files_of(configuration)) == digests:
            return prepared, digests
    raise SettingsError(
        [
            Finding(
                file=str(file),
                line=1,
                path="",
                problem="changes while it is read, again and again",
                remedy="write files beside it, and rename them into their place",
                severity="error",
            )
        ]
    )


def _loaded(
    file: Path, before: Prepared[T] | None, known: Digests, in_force: Mapping[Path, str]
) -> tuple[Configuration, dict[Path, str]]:
    """The configuration, and the hashes of its files, none of which is older than it is.

    Where only lists were edited it is the one in force: to load it takes longer than most lists.
    """
    if before is not None:
        digests = known.of(files_of(before.configuration))
        sources = source_files(before.configuration)
        if all(digests[one] == in_force.get(one) for one in sources):
            return before.configuration, digests
    digests = known.of(files_of(loader.load(file)))
    # Read again: what was read before the hashes may be older than they are.
    return loader.load(file), digests


class FindingView(TypedDict):
    file: str
    line: int
    path: str
    problem: str
    remedy: str


class ReloadStatus(TypedDict):
    """Which configuration is in force, and what became of the last edit."""

    version: str
    since: str  # ISO 8601, UTC
    reloads: int
    refused: list[FindingView]  # why the files as they are now are not in force; empty: they are
    refused_since: str
    waits: list[str]  # what `gateway reload --confirm` would put in force, in words
    waits_version: str


class ReloadReport(TypedDict):
    """What came of one look at the files."""

    result: Result
    version: str  # in force
    candidate: str  # of the files as they are
    findings: list[FindingView]
    notes: list[str]
    files: list[str]  # that differ


class Reloader(Generic[T]):
    """Holds the version in force, and replaces it; whoever looks waits for who looked before."""

    def __init__(
        self,
        running: Whole[T],
        *,
        prepare: Prepare[T],
        swap: Swap[T],
        needs_restart: Callable[[Configuration, Configuration], list[Finding]],
        audit: AuditLog,
        clock: Clock,
        emit: Emit,
    ) -> None:
        """`running` is what the node was built from."""
        self._running = running.prepared
        self._prepare = prepare
        self._swap = swap
        self._needs_restart = needs_restart
        self._audit = audit
        self._clock = clock
        self._emit = emit
        self._file: Path = running.prepared.configuration.file
        self._digests = Digests()
        self._texts = running.texts
        self._in_force = dict(running.digests)
        self._tried: dict[Path, str] = {}  # was refused, or waits
        self._since_ms = clock.wall_ms()
        self._reloads = 0
        self._findings: tuple[Finding, ...] = ()
        self._refused_ms = 0
        self._waits: tuple[str, ...] = ()
        self._waits_version = ""
        self._looking = trio.Lock()
        self._hint = trio.Event()
        self._again = False

    @property
    def configuration(self) -> Configuration:
        """What is in force."""
        return self._running.configuration

    def files(self) -> list[Path]:
        """The files that are to be watched."""
        return files_of(self._running.configuration)

    def hint(self, *, again: bool = False) -> None:
        """A file may have changed: it will be looked at, after a moment. `again`: see `look`."""
        self._again = self._again or again
        self._hint.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take up what hints tell of, until cancelled."""
        task_status.started()
        while True:
            await self._hint.wait()
            for _ in range(_SETTLE_TRIES_MAX):
                self._hint = trio.Event()
                await trio.sleep(self.configuration.settings.reload.settle_s)
                if not self._hint.is_set():
                    break
            again, self._again = self._again, False
            try:
                await self.look(again=again)
            except OperatorError:
                # It could not be written down, of which the audit log has raised an alarm.
                self._hint.set()
                await trio.sleep(_RETRY_S)

    async def look(
        self, *, dry_run: bool = False, confirm: bool = False, again: bool = False
    ) -> ReloadReport:
        """Compare the files with what is in force, and take up what differs if all of it is right.

        `dry_run` changes nothing and tells what would be done; `confirm` takes up what waits for
        it; `again` judges anew what was refused before, even though nothing was edited since.
        """
        async with self._looking:
            looked = await trio.to_thread.run_sync(self._digests.of, self._watched())
            if all(looked[file] == digest for file, digest in self._in_force.items()):
                return self._unchanged()
            if looked == self._tried and not (dry_run or confirm or again):
                return self._report(
                    "waits" if self._waits else "refused",
                    self._waits_version,
                    findings=self._findings,
                    notes=self._waits,
                )
            try:
                candidate, digests = await trio.to_thread.run_sync(self._candidate)
            except SettingsError as error:
                return await self._refuse(error.findings, looked, dry_run=dry_run, again=again)
            looked |= digests
            if candidate.configuration.version == self.configuration.version:
                return self._unchanged()
            restart = self._needs_restart(self.configuration, candidate.configuration)
            if restart:
                return await self._refuse(restart, looked, dry_run=dry_run, again=again)
            return await self._take(
                candidate, digests, looked=looked, dry_run=dry_run, confirm=confirm
            )

    def status(self) -> ReloadStatus:
        return {
            "version": self.configuration.version,
            "since": iso_time(self._since_ms),
            "reloads": self._reloads,
            "refused": [_view(finding) for finding in self._findings],
            "refused_since": iso_time(self._refused_ms) if self._findings else "",
            "waits": list(self._waits),
            "waits_version": self._waits_version,
        }

    # --- in a thread --------------------------------------------------------------------------

    def _watched(self) -> list[Path]:
        """The files in force and those that a refused configuration names besides."""
        return list(dict.fromkeys((*self.files(), *self._tried)))

    def _candidate(self) -> tuple[Prepared[T], dict[Path, str]]:
        return _read_whole(self._file, self._prepare, self._running, self._digests, self._in_force)

    # --- the three ends -----------------------------------------------------------------------

    async def _refuse(
        self,
        findings: tuple[Finding, ...] | list[Finding],
        looked: dict[Path, str],
        *,
        dry_run: bool,
        again: bool,
    ) -> ReloadReport:
        errors = tuple(finding for finding in findings if finding.severity == "error")
        report = self._report("refused", "", findings=errors)
        if dry_run:
            return report
        known = self._findings == errors and not again
        self._tried = looked
        self._findings, self._waits, self._waits_version = errors, (), ""
        if known:
            return report
        self._refused_ms = self._clock.wall_ms()
        first = errors[0]
        self._emit(
            Event.CONFIG_REFUSED,
            file=first.file,
            line=first.line,
            reason=str(first),
            findings=len(errors),
            config=self.configuration.version,
        )
        try:
            await self._audit.record(
                "config.load",
                who=UNKNOWN_AUTHOR,
                subject=str(self._file),
                new={"findings": [str(finding) for finding in errors[:_SHOWN_MAX]]},
                outcome=f"{REFUSED}: {first}",
            )
        except AuditFailed:
            # Nothing was done; the log has raised its own alarm.
            return report
        return report

    async def _take(
        self,
        candidate: Prepared[T],
        digests: dict[Path, str],
        *,
        looked: dict[Path, str],
        dry_run: bool,
        confirm: bool,
    ) -> ReloadReport:
        version = candidate.configuration.version
        lost = _lost(self._running.sizes, candidate.sizes)
        differences, keep = await trio.to_thread.run_sync(
            self._texts.changed, self._in_force, digests
        )
        files = [difference.file for difference in differences]
        if dry_run:
            return self._report(
                "waits" if lost and not confirm else "would_load", version, notes=lost, files=files
            )
        if lost and not confirm:
            if self._waits_version != version:
                self._emit(Event.CONFIG_WAITS, reason="; ".join(lost), candidate=version)
            self._tried = looked
            self._findings, self._waits, self._waits_version = (), lost, version
            return self._report("waits", version, notes=lost, files=files)
        former = self.configuration.version
        try:
            await self._audit.record(
                "config.load",
                who=UNKNOWN_AUTHOR,
                subject=str(self._file),
                old={"version": former},
                new={"version": version, "files": [one.to_json() for one in differences]},
                outcome=DONE,
            )
        except AuditFailed as error:
            raise OperatorError(
                f"not taken up, since it could not be written down: {error}"
            ) from None
        self._swap(candidate)
        keep()
        self._running = candidate
        self._in_force = digests
        self._since_ms = self._clock.wall_ms()
        self._reloads += 1
        self._all_is_well()
        self._emit(
            Event.CONFIG_LOADED, config=version, former=former, files=files, lists=candidate.sizes
        )
        return self._report("loaded", version, notes=lost, files=files)

    def _unchanged(self) -> ReloadReport:
        """The files say what is in force; what was refused or waited was taken back."""
        if self._findings or self._waits:
            self._emit(Event.CONFIG_LOADED, config=self.configuration.version)
        self._all_is_well()
        return self._report("unchanged", self.configuration.version)

    def _all_is_well(self) -> None:
        self._tried = {}
        self._findings, self._waits, self._waits_version = (), (), ""

    def _report(
        self,
        result: Result,
        candidate: str,
        *,
        findings: tuple[Finding, ...] = (),
        notes: tuple[str, ...] = (),
        files: list[str] | None = None,
    ) -> ReloadReport:
        return {
            "result": result,
            "version": self.configuration.version,
            "candidate": candidate,
            "findings": [_view(finding) for finding in findings],
            "notes": list(notes),
            "files": files or [],
        }


def _lost(old: Mapping[str, int], new: Mapping[str, int]) -> tuple[str, ...]:
    """The lists that lost so much that half a file may be the reason: cut at a line's end it is
    valid text."""
    return tuple(
        f"{name} goes from {size} entries to {new.get(name, 0)}"
        for name, size in old.items()
        if size - new.get(name, 0) > max(_FORGIVEN, size * _LOST_SHARE_MAX)
    )


def _view(finding: Finding) -> FindingView:
    return {
        "file": finding.file,
        "line": finding.line,
        "path": finding.path,
        "problem": finding.problem,
        "remedy": finding.remedy,
    }
