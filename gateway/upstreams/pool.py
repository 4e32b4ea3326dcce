"""All upstreams by name, and which of those that a route names may take a request now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import trio

from gateway.settings.schema import Group
from gateway.upstreams.budget import MoveBudget
from gateway.upstreams.health import Health
from gateway.upstreams.upstream import Control, Standing, Upstream


class Pool:
    """All upstreams.

    `groups` says which of them stand in for each other; without it, all do.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        *,
        groups: Iterable[Group] = (),
        moves: MoveBudget | None = None,
    ) -> None:
        self._by_name = {upstream.name: upstream for upstream in upstreams}
        self.moves = moves or MoveBudget(per_s=10.0, share=0.2, now_s=0.0)
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
        return iter(self._by_name.values())

    @staticmethod
    def candidates(upstreams: Sequence[Upstream]) -> Iterator[Upstream]:
        """Those of them that may take a request now, in this order; last those that are only
        better than nobody: suspects, and those that are just coming back."""
        spare = []
        now_s = trio.current_time()
        for upstream in upstreams:
            standing = upstream.standing(now_s)
            if standing is Standing.TAKES:
                yield upstream
            elif standing is Standing.SPARE:
                spare.append(upstream)
        yield from spare

    @staticmethod
    def any_full(upstreams: Sequence[Upstream]) -> bool:
        """Whether one of them could take a request if it had less to do."""
        now_s = trio.current_time()
        return any(upstream.standing(now_s) is Standing.FULL for upstream in upstreams)

    def _any_up(self, names: frozenset[str]) -> bool:
        return any(
            other.health.state is Health.UP and other.control is Control.ENABLED
            for name in names
            if (other := self._by_name.get(name)) is not None
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run every upstream until cancelled; started once each may issue STANs."""
        async with trio.open_nursery() as nursery:
            for upstream in self._by_name.values():
                await nursery.start(upstream.run)
            task_status.started()
