"""Hears of edits to files: by the kernel's word at once, and by looking every so often."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

import trio
import watchfiles

from gateway.settings.sources import Digests

_STEP_MS = 100  # quiet for so long: an edit is over. Each look takes the interpreter lock twice
_GROUPED_MS = 200  # or this has passed since its start
_THOROUGH_S = 60.0


class Watch:
    """Calls `changed` when one of the files may have changed; what it finds out is no proof.

    The folders are watched, not the files: an editor that writes a new file and renames it, or a
    link that is set to another place, leaves the old file untouched. Where the kernel does not say
    (another machine wrote to a network's file system) comparing contents every `look_s` does.
    """

    def __init__(
        self,
        files: Callable[[], Collection[Path]],
        changed: Callable[[], None],
        *,
        look_s: float,
        notified: bool = True,
    ) -> None:
        self._files = files
        self._changed = changed
        self._look_s = look_s
        self._notified = notified
        self._folders_may_differ = trio.Event()
        self._names: frozenset[str] = frozenset()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled; started once the first look is done."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._look)
            if self._notified:
                nursery.start_soon(self._listen)
            task_status.started()

    def files_changed(self) -> None:
        """Other files are to be watched from now on, perhaps in other folders."""
        self._folders_may_differ.set()

    # --- looking ------------------------------------------------------------------------------

    async def _look(self, task_status: trio.TaskStatus[None]) -> None:
        digests = Digests()
        seen = await trio.to_thread.run_sync(digests.of, list(self._files()))
        thorough_s = trio.current_time()
        task_status.started()
        while True:
            await trio.sleep(self._look_s)
            thorough = trio.current_time() - thorough_s >= _THOROUGH_S
            if thorough:
                thorough_s = trio.current_time()
            found = await trio.to_thread.run_sync(_digests, digests, list(self._files()), thorough)
            if found != seen:
                seen = found
                self._folders_may_differ.set()  # a link may lead elsewhere now
                self._changed()

    # --- listening ----------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            self._folders_may_differ = trio.Event()
            files = self._files()
            folders, self._names = folders_of(files), names_of(files)
            async with trio.open_nursery() as nursery:
                stop = trio.Event()
                nursery.start_soon(self._hear, sorted(folders), stop)
                nursery.start_soon(_set_when_cancelled, stop)
                while folders_of(self._files()) == folders:
                    await self._folders_may_differ.wait()
                    self._folders_may_differ = trio.Event()
                    self._names = names_of(self._files())
                nursery.cancel_scope.cancel()

    async def _hear(self, folders: list[Path], stop: trio.Event) -> None:
        # Where no folder can be watched, or no more than so many, looking is what is left.
        with contextlib.suppress(OSError, RuntimeError):
            changes = watchfiles.awatch(
                *folders,
                # A store beside the configuration is written to all the time: an edit would never
                # seem to be over.
                watch_filter=lambda _, path: path in self._names,
                debounce=_GROUPED_MS,
                step=_STEP_MS,
                stop_event=stop,
                recursive=False,
                ignore_permission_denied=True,
            )
            async with contextlib.aclosing(changes):
                async for _ in changes:
                    self._folders_may_differ.set()
                    self._changed()


async def _set_when_cancelled(stop: trio.Event) -> None:
    """The thread that listens cannot be cancelled; it looks at this every few milliseconds."""
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _digests(digests: Digests, files: list[Path], thorough: bool) -> dict[Path, str]:
    return digests.of(files, thorough=thorough)


def names_of(files: Collection[Path]) -> frozenset[str]:
    """The paths at which something happens when one of the files is edited, replaced or comes to
    be: the files, what is on the way to them, and both with all links followed."""
    found: set[Path] = set()
    for file in files:
        whole = file.absolute()  # as it is told, however it was named
        found.update((whole, *whole.parents))
        with contextlib.suppress(OSError, RuntimeError):
            real = file.resolve()
            found.update((real, *real.parents))
    return frozenset(map(str, found))


def folders_of(files: Collection[Path]) -> frozenset[Path]:
    """The folders in which something happens when one of the files is edited, replaced, or a link
    on the way to it is set to another place."""
    found: set[Path] = set()
    for file in files:
        found.add(file.parent)
        with contextlib.suppress(OSError, RuntimeError):
            found.add(file.resolve().parent)
        # A link among the folders: `..data`, which points at the version in force.
        for folder in (file, *file.parents):
            if folder.is_symlink():
                found.add(folder.parent)
    return frozenset(folder for folder in found if folder.is_dir())
