"""One whole version of what decides on requests: each takes one at its start and keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.policy.decide import Policy
from gateway.upstreams.routing import Router


@dataclass(frozen=True, slots=True)
class Version:
    """Permissions, limits, blocklists and routes that belong together.

    The counts of limits are no part of it: all versions share them (`Limits`), so that what was
    taken under one can be given back under another.
    """

    policy: Policy
    router: Router

    @property
    def id(self) -> str:
        """The content hash of the configuration that it was made of."""
        return self.policy.version
