"""All upstreams by name, which of them may take a request now, and how they come and go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

import trio

from gateway.errors import StoreError
from gateway.settings.schema_upstreams import Group
from gateway.upstreams.budget import MoveBudget
from gateway.upstreams.health import Health
from gateway.upstreams.stan import StanRing
from gateway.upstreams.upstream import Control, Means, Standing, Upstream

_RETRY_S = 0.5
_RETIRING_LOOK_S = 0.5
_QUIET_LOOKS = 4

_TAKES, _SPARE = Standing.TAKES, Standing.SPARE  # an enumeration's look-up is slow

Make = Callable[[Means], Upstream]
# Takes over which STANs earlier runs have issued to an upstream; raises StoreError.
RestoreStans = Callable[[Upstream], Awaitable[None]]


class Pool:
    """All upstreams.

    `groups` says which of them stand in for each other; without it, all do. `make` and
    `restore_stans` are for those that a later configuration adds.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        *,
        groups: Iterable[Group] = (),
        moves: MoveBudget | None = None,
        make: Make | None = None,
        restore_stans: RestoreStans | None = None,
    ) -> None:
        self._by_name = {upstream.name: upstream for upstream in upstreams}
        self._make = make
        self._restore_stans = restore_stans
        self._nursery: trio.Nursery | None = None
        self._kept_stans: dict[str, StanRing] = {}  # of those that were removed
        self._scopes: dict[str, trio.CancelScope] = {}
        self._retiring: dict[str, trio.CancelScope] = {}
        self.moves = moves or MoveBudget(per_s=10.0, share=0.2, now_s=0.0)
        self.owed: Callable[[str], int] = _nothing  # reversals; who knows is made after this
        self.added: Callable[[Upstream], None] = _ignored
        self.removed: Callable[[str], None] = _removed
        self.control_of: Callable[[str], Control] = _enabled  # what operators have set
        self._team(groups)

    def _team(self, groups: Iterable[Group]) -> None:
        teams = [{member.upstream for member in group.members} for group in groups]
        for name, upstream in self._by_name.items():
            mates = set[str]().union(*(team for team in teams if name in team))
            others = (mates if teams else set(self._by_name)) - {name}
            upstream.others_up = partial(self._any_up, frozenset(others))

    def __getitem__(self, name: str) -> Upstream:
        return self._by_name[name]

    def get(self, name: str) -> Upstream | None:
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Upstream]:
        return iter(list(self._by_name.values()))

    @staticmethod
    def candidates(upstreams: Sequence[Upstream]) -> Iterator[Upstream]:
        """Those of them that may take a request now, in this order; last those that are only
        better than nobody: suspects, and those that are just coming back."""
        spare = []
        for upstream in upstreams:
            standing = upstream.standing()
            if standing is _TAKES:
                yield upstream
            elif standing is _SPARE:
                spare.append(upstream)
        yield from spare

    @staticmethod
    def any_full(upstreams: Sequence[Upstream]) -> bool:
        """Whether one of them could take a request if it had less to do."""
        return any(upstream.standing() is Standing.FULL for upstream in upstreams)

    def _any_up(self, names: frozenset[str]) -> bool:
        return any(
            other.health.state is Health.UP and other.control is Control.ENABLED
            for name in names
            if (other := self._by_name.get(name)) is not None
        )

    # --- running --------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run every upstream until cancelled; started once each may issue STANs."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for upstream in self._by_name.values():
                await nursery.start(self._live, upstream)
            task_status.started()

    async def _live(
        self,
        upstream: Upstream,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.CancelScope() as scope:
            self._scopes[upstream.name] = scope
            await upstream.run(task_status)

    # --- another configuration ------------------------------------------------------------

    def apply(self, all_means: Iterable[Means], *, groups: Iterable[Group]) -> None:
        """Change those that are configured otherwise now, begin the new ones, retire the rest.

        One that is removed gets nothing new, and stays until what is under way and what is owed to
        it is done.
        """
        wanted = {means.settings.name: means for means in all_means}
        for name, means in wanted.items():
            upstream = self._by_name.get(name)
            if upstream is None:
                self._begin(means)
                continue
            if name in self._retiring:
                self._retiring.pop(name).cancel()
                upstream.set_control(self.control_of(name))
            upstream.apply(means)
        for name, upstream in self._by_name.items():
            if name not in wanted and name not in self._retiring:
                leaving = self._retiring[name] = trio.CancelScope()
                upstream.retired = True
                if self._nursery is not None:
                    self._nursery.start_soon(self._retire, upstream, leaving)
        self._team(groups)

    def _begin(self, means: Means) -> None:
        if self._make is None:
            return
        upstream = self._by_name[means.settings.name] = self._make(means)
        kept = self._kept_stans.pop(upstream.name, None)
        if kept is not None:
            upstream.stans = kept  # with those that what was given up still names
        upstream.set_control(self.control_of(upstream.name))
        self.added(upstream)
        if self._nursery is not None:
            # From now on: it may be removed before its first start is over.
            scope = self._scopes[upstream.name] = trio.CancelScope()
            self._nursery.start_soon(self._first_start, upstream, scope)

    async def _first_start(self, upstream: Upstream, scope: trio.CancelScope) -> None:
        with scope:
            while self._restore_stans is not None and not upstream.stans.has_any:
                try:
                    await self._restore_stans(upstream)
                except StoreError:
                    await trio.sleep(_RETRY_S)  # the store says so itself
                else:
                    break
            await upstream.run()

    async def _retire(self, upstream: Upstream, leaving: trio.CancelScope) -> None:
        """Polled: what it waits for may take days. `leaving` is cancelled if it is configured
        again."""
        name = upstream.name
        with leaving:
            quiet = 0  # a debt is written a moment after its request was pending
            while quiet < _QUIET_LOOKS:
                await trio.sleep(_RETIRING_LOOK_S)
                quiet = 0 if upstream.pending or self.owed(name) else quiet + 1
            if leaving.cancel_called:
                return
            upstream.set_control(Control.DRAINED)
            await upstream.links.until_closed()
        if self._retiring.get(name) is leaving:
            del self._retiring[name], self._by_name[name]
            self._scopes.pop(name).cancel()
            self._kept_stans[name] = upstream.stans
            self.removed(name)


def _nothing(upstream: str) -> int:
    return 0


def _enabled(upstream: str) -> Control:
    return Control.ENABLED


def _ignored(upstream: Upstream) -> None:
    """Nobody is told."""


def _removed(upstream: str) -> None:
    """Nobody is told."""
