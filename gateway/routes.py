"""Builds the router of a configuration: for the node, and for `gateway routes`."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from gateway.policy.calendars import WeeklyHours
from gateway.settings.loader import Configuration
from gateway.settings.schema_base import OpeningHours
from gateway.upstreams.conditions import IsOpen
from gateway.upstreams.routing import Pending, Router, Share, boardings


def router_of(
    configuration: Configuration, *, pending: Pending | None = None, share: Share | None = None
) -> Router:
    """The router of a checked configuration.

    `pending` says how many requests an upstream has under way, and `share` how much of its share it
    is given at the moment.
    """
    settings = configuration.settings
    return Router(
        settings.routes,
        settings.groups,
        terminal_groups=settings.terminal_groups,
        boarding=boardings(settings.upstreams, configuration.terminals),
        opening_times=opening_times,
        pending=pending,
        share=share,
    )


def opening_times(hours: Sequence[OpeningHours], time_zone: str) -> IsOpen:
    """Whether a moment lies in these hours, on the clocks of the time zone."""
    return WeeklyHours(hours, ZoneInfo(time_zone)).is_open
