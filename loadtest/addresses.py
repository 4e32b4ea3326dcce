"""Addresses: where simulators listen and call, kept to this machine."""

from __future__ import annotations

import ipaddress
import random
import socket
from pathlib import Path
from typing import NamedTuple

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10_240


class NotLoopback(ValueError):
    """The address is not on this machine: simulators load nobody else's."""


class HostPort(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def loopback(text: str) -> HostPort:
    """The address `host:port` or `[host]:port`, if it is on this machine.

    Raises NotLoopback where it is not, and ValueError where it is no address.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not an address; 127.0.0.1:8101 would be")
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise NotLoopback(f"{text} is not on this machine (127.0.0.0/8, [::1] or localhost)")
    return HostPort(host, int(port))


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that nobody listens on at this moment, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def lasting_ports(count: int) -> list[int]:
    """As `free_ports`, for listeners that stop and come back.

    They lie below the range that outgoing connections take theirs from, so that none of those can
    have one of them in the meantime.
    """
    try:
        end = int(_EPHEMERAL.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return free_ports(count)
    if end - _FIRST_PORT < 100 * count:
        return free_ports(count)
    found: list[int] = []
    for port in random.sample(range(_FIRST_PORT, end), 50 * count):
        if len(found) == count:
            break
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
    return found
