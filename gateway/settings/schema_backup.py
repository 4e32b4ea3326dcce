"""The tables of backups, of what follows a restore, and of sealing what is stored anew."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.schema_base import Days, Seconds, Table, TimeZone


class Backup(Table):
    """How a backup is made beside the traffic."""

    step_pages: int = Field(default=256, ge=1, le=65_536)  # of 4 KiB, copied in one go
    pause_ms: int = Field(default=10, ge=0, le=10_000)  # between two steps


class Restore(Table):
    """What is done about the time between a backup and the moment it was restored."""

    # STANs of each upstream that are passed over, so that none of the gap's is issued again; less
    # than that is left free behind them.
    stans_ahead: int = Field(default=50_000, ge=1_000, le=500_000)
    time_zones: list[TimeZone] = Field(  # of the clocks in the terminals, for DE12 and DE13
        default=["UTC"], min_length=1, max_length=20
    )
    clock_skew_s: Seconds = 900.0  # how far those clocks may be off
    gap_days: Days = 31  # so long what may be of the gap gets 96 and a line on the operators' list
    lines_max: int = Field(default=10_000, ge=10, le=1_000_000)  # over it: 96 and no line
    lines_of_terminal_max: int = Field(default=200, ge=10, le=1_000_000)  # open; the same over it


class Sealing(Table):
    """How what is sealed under an older key of the store is sealed anew under the newest."""

    enabled: bool = True
    every_s: Seconds = 600.0  # how often is looked whether there is a newer key
    step_rows: int = Field(default=500, ge=1, le=10_000)  # looked at in one go
    pause_ms: int = Field(default=50, ge=0, le=60_000)  # between two of them
