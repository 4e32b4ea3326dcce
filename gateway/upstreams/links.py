"""The links of one upstream: run together, and exchanged for others without a pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.upstreams.link import Link
from gateway.upstreams.protocol import CONNECTED, LinkEvent


class Links:
    """All links of an upstream.

    `changed` gives the event that is set when one of them changes; `enabled` says whether operators
    want it in use, which counts whenever a link begins: they may have said so since.
    """

    def __init__(
        self,
        links: list[Link],
        *,
        changed: Callable[[], trio.Event],
        enabled: Callable[[], bool],
    ) -> None:
        self.current = links  # those that take requests
        self._changed = changed
        self._enabled = enabled
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[Link, trio.CancelScope] = {}
        self._exchanging = trio.Lock()
        self._attempts_before = self._suspicions_before = 0  # of those that have left

    def __iter__(self) -> Iterator[Link]:
        return iter(self.current)

    def __len__(self) -> int:
        return len(self.current)

    def __getitem__(self, index: int) -> Link:
        return self.current[index]

    @property
    def attempts(self) -> int:
        """Connections tried since the start."""
        return self._attempts_before + sum(link.life.attempts for link in self._scopes)

    @property
    def suspicions(self) -> int:
        """How often one of them was suspected since the start."""
        return self._suspicions_before + sum(link.suspicions for link in self._scopes)

    @property
    def connected(self) -> bool:
        """Whether one of them has a connection, one that is to be exchanged too."""
        return any(link.life.state in CONNECTED for link in self._scopes)

    @property
    def pending(self) -> int:
        """How many requests are under way, on links that are to be exchanged too."""
        pending = 0
        for link in self._scopes:
            requests = link.requests
            if requests is not None:
                pending += requests.count
        return pending

    def run(self, nursery: trio.Nursery) -> None:
        """Run them in this nursery; where they are not to start they wait for an operator."""
        self._nursery = nursery
        for link in self.current:
            nursery.start_soon(self._live, link)

    async def _live(self, link: Link) -> None:
        with trio.CancelScope() as scope:
            self._scopes[link] = scope
            await link.run(start=self._enabled())

    def steer(self, *events: LinkEvent) -> None:
        """Tell each of them what an operator wants; those that leave only that they are to go."""
        for link in list(self.current):
            for event in events:
                link.steer(event)
        if LinkEvent.DISABLE in events:
            for link in list(self._scopes):
                link.steer(LinkEvent.DISABLE)

    def exchange(self, coming: list[Link], settings: UpstreamSettings) -> None:
        """Have these in place of those. The old ones take requests until the new ones are up."""
        if self._nursery is None:
            self.current = coming
        else:
            self._nursery.start_soon(self._exchange, self._nursery, coming, settings)

    async def _exchange(
        self, nursery: trio.Nursery, coming: list[Link], settings: UpstreamSettings
    ) -> None:
        async with self._exchanging:
            leaving = self.current
            # Where the acquirer calls us it has to lose a connection before it makes another.
            overlaps = self._enabled() and settings.listen is None
            self.current = [*coming, *leaving] if overlaps else coming
            for link in coming:
                nursery.start_soon(self._live, link)
            if overlaps:
                with trio.move_on_after(settings.connect_s + 2 * settings.network.sign_on_s):
                    await self._until(lambda: all(link.up for link in coming))
                self.current = coming
            for link in leaving:
                link.steer(LinkEvent.DRAIN)
            slowest_s = max(settings.answer_s, *settings.answer_s_by_kind.values(), 0.0)
            with trio.move_on_after(slowest_s + settings.network.sign_on_s):
                await self._until(lambda: not any(link.life.state in CONNECTED for link in leaving))
            for link in leaving:
                self._scopes.pop(link).cancel()
                self._attempts_before += link.life.attempts
                self._suspicions_before += link.suspicions

    async def until_closed(self) -> None:
        """Return once none of them has a connection."""
        await self._until(lambda: not self.connected)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed().wait()
