"""The tables of who may give orders, who has to agree, and where it is written down."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings.schema_base import Name, Path, Table


class Audit(Table):
    """The record of who did what: each entry is bound to the one before it by its hash."""

    folder: Path | None = None  # default: audit, beside the store
    file_bytes_max: int = Field(default=16_777_216, ge=65_536, le=1_073_741_824)  # then the next
    files_kept: int = Field(default=500, ge=2, le=100_000)  # then the oldest is deleted
    waiting_max: int = Field(default=1_000, ge=10, le=100_000)  # records not on disk yet


class Operator(Table):
    """Somebody who may give orders at the admin socket, known by the operating system's user."""

    name: Name
    users: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)  # names or numbers
    roles: list[Literal["viewer", "operator", "keys", "admin"]] = Field(min_length=1)


class Approvals(Table):
    """What is done only once a second operator has said yes (`gateway approve`)."""

    actions: list[
        Literal[
            "terminals.activate",
            "terminals.resume",
            "terminals.bind",
            "terminals.renew",
            "terminals.import",
            "terminals.lost",
            "terminals.found",
            "terminals.replace",
            "terminals.undo",
            "terminals.close-batch",
            "terminals.deregister",
            "reversals.retry",
            "reversals.resolve",
            "config.confirm",
            "blocklists.unblock",
            "keys.generate",
            "keys.import_wrapped",
            "keys.import_many",
            "keys.activate",
            "keys.export",
            "keys.rotate",
            "keys.rollback",
            "keys.destroy",
            "keys.rewrap",
            "upstreams.drain",
            "upstreams.resume",
            "upstreams.disable",
            "upstreams.enable",
            "upstreams.reconnect",
            "backup.create",
            "restore.resolve",
        ]
    ] = Field(default_factory=list)
    expires_h: float = Field(default=24.0, gt=0, le=24 * 31)
    pending_max: int = Field(default=100, ge=1, le=10_000)
