"""The table of how long ahead the end of a certificate is told."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.schema_base import Days, Path, Seconds, Table


class Certificates(Table):
    """What is told of certificates and revocation lists before they end: of listeners, their
    authorities, and devices."""

    warn_days: list[Days] = Field(default=[30, 7, 1], min_length=1, max_length=10)
    # The index of the authority that issues the devices' certificates (index.jsonl of `gateway
    # certs`); without it a device is known from its first handshake since the start on.
    index: Path | None = None
    index_look_s: Seconds = 3_600.0
    devices_max: int = Field(default=100_000, ge=1, le=10_000_000)  # kept in memory
