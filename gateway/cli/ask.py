"""Which daemon a configuration file means, and how to ask it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from gateway.admin.client import AdminClient


def client_of(config: Path) -> AdminClient:
    """A client of the daemon that runs on this configuration; raises SettingsError."""
    return AdminClient(admin_socket(config), config=config)


def admin_socket(config: Path) -> Path:
    """The socket of the daemon that was started with this configuration.

    Nothing else of the file needs to be right: a daemon can be asked how it does while its next
    configuration is being written. Raises SettingsError where the path cannot be found.
    """
    try:
        path = tomllib.loads(config.read_text(encoding="utf-8"))["node"]["admin_socket"]
    except (OSError, ValueError, KeyError, TypeError):
        path = None
    if not isinstance(path, str) or not path:
        # Slow to import, and here to say all that is wrong with the file.
        from gateway.settings.loader import load

        path = load(config).settings.node.admin_socket
    return (config.absolute().parent / path).resolve()
