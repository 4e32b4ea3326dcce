"""What operators do with the configuration of a running gateway: look, reload, confirm."""

from __future__ import annotations

from typing import Protocol

from gateway.admin.access import Role
from gateway.admin.api import Progress
from gateway.admin.desk import NoArguments
from gateway.admin.operations import Operation, Operations
from gateway.settings.reload import ReloadReport, ReloadStatus


class ReloaderApi(Protocol):
    """The reloader, as far as operators use it: see settings/reload.py."""

    def status(self) -> ReloadStatus: ...

    async def look(
        self, *, dry_run: bool = False, confirm: bool = False, again: bool = False
    ) -> ReloadReport: ...


class ConfigurationOperations(Operations):
    """Taking up edits on demand, and saying what became of them.

    Who changed a file is not known; who had it taken up is.
    """

    def __init__(self, reloader: ReloaderApi) -> None:
        self._reloader = reloader
        super().__init__(
            {
                "show": Operation(NoArguments, self.show),
                "try": Operation(NoArguments, self.try_),
                "reload": Operation(NoArguments, self.reload, Role.OPERATOR),
                "confirm": Operation(NoArguments, self.confirm, Role.ADMIN),
            }
        )

    async def show(self, _: NoArguments, __: Progress | None = None) -> ReloadStatus:
        return self._reloader.status()

    async def try_(self, _: NoArguments, __: Progress | None = None) -> ReloadReport:
        return await self._reloader.look(dry_run=True)

    async def reload(self, _: NoArguments, __: Progress | None = None) -> ReloadReport:
        return await self._reloader.look(again=True)

    async def confirm(self, _: NoArguments, __: Progress | None = None) -> ReloadReport:
        return await self._reloader.look(confirm=True, again=True)
