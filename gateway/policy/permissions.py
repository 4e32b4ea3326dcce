"""What a profile lets its devices do."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.settings.schema import Profile
from gateway.wire.message import Kind


class Permissions:
    """The transaction kinds that each profile allows; an unknown profile allows nothing."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        profiles = list(profiles)
        self._kinds = {profile.name: frozenset(profile.kinds) for profile in profiles}
        self._keepers = frozenset(profile.name for profile in profiles if profile.keeps_advices)

    def allow(self, profile: str, kind: Kind) -> bool:
        kinds = self._kinds.get(profile)
        return kinds is not None and kind in kinds

    def keeps_advices(self, profile: str) -> bool:
        return profile in self._keepers
