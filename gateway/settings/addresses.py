"""Which TCP addresses are listened on, and by whom: read from /proc, without a socket."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Literal

_LISTEN = "0A"  # TCP_LISTEN, Linux include/net/tcp_states.h
_SOCKET_LINK = re.compile(r"^socket:\[(\d+)\]$")

Host = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A socket that accepts connections; `pids` is empty where its owner cannot be seen."""

    host: Host
    port: int
    pids: frozenset[int] = frozenset()
    command: str = ""


def split_address(text: str) -> tuple[str, int]:
    """The host (without brackets) and the port of `HOST:PORT`.

    Raises ValueError, saying what would be right, where the host is no IP address or host name or
    the port is over 65535.
    """
    host, _, port_text = text.rpartition(":")
    port = int(port_text)
    if port > 65_535:
        raise ValueError(f"port {port} does not exist: write one from 1 to 65535")
    if host.startswith("["):
        try:
            return str(IPv6Address(host.strip("[]"))), port
        except ValueError:
            raise ValueError(f"{host} is no IPv6 address: write one such as [::1]") from None
    labels = host.split(".")
    if labels[-1].isdigit():
        try:
            return str(IPv4Address(host)), port
        except ValueError:
            raise ValueError(f"{host} is no IPv4 address: write one such as 127.0.0.1") from None
    if any(not label or label.startswith("-") or label.endswith("-") for label in labels):
        raise ValueError(f"{host} is no host name: its parts start and end with a letter or digit")
    return host, port


def numeric_host(host: str) -> Host | None:
    """The address that a host stands for, without asking the network; None for other names."""
    if host.lower() == "localhost":
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        return None


def clash(wanted: Host, used: Host) -> Literal["yes", "perhaps", "no"]:
    """Whether two listeners on one port meet.

    "perhaps": one is the IPv6 wildcard, which may or may not take IPv4 connections too.
    """
    if wanted == used:
        return "yes"
    if wanted.version == used.version:
        return "yes" if wanted.is_unspecified or used.is_unspecified else "no"
    six = wanted if wanted.version == 6 else used
    return "perhaps" if six.is_unspecified else "no"


def listening_sockets(proc: Path = Path("/proc")) -> list[ListeningSocket]:
    """All listening TCP sockets of this network namespace; empty where there is no /proc.

    The owners of other users' sockets can be seen by root only.
    """
    listening: dict[int, tuple[Host, int]] = {}
    for table in ("net/tcp", "net/tcp6"):
        listening.update(_listening_inodes(proc / table))
    owners = _owners(proc, listening.keys())
    return [
        ListeningSocket(host, port, frozenset(pids), _command(proc, pids))
        for inode, (host, port) in listening.items()
        for pids in (owners.get(inode, set()),)
    ]


def _listening_inodes(table: Path) -> Iterator[tuple[int, tuple[Host, int]]]:
    # Columns: Linux, Documentation/networking/proc_net_tcp.
    try:
        rows = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    for row in rows:
        fields = row.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            host, _, port = fields[1].partition(":")
            yield int(fields[9]), (_host(host), int(port, 16))


def _host(digits: str) -> Host:
    """The kernel prints each 32-bit word of an address in the machine's byte order."""
    words = [bytes.fromhex(digits[at : at + 8]) for at in range(0, len(digits), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _owners(proc: Path, inodes: Iterable[int]) -> dict[int, set[int]]:
    wanted = set(inodes)
    owners: dict[int, set[int]] = {}
    for folder in proc.glob("[0-9]*/fd"):
        pid = int(folder.parent.name)
        for inode in _sockets_of(folder):
            if inode in wanted:
                owners.setdefault(inode, set()).add(pid)
    return owners


def _sockets_of(folder: Path) -> Iterator[int]:
    try:
        descriptors = list(folder.iterdir())
    except OSError:
        return  # Another user's, or gone since.
    for descriptor in descriptors:
        try:
            found = _SOCKET_LINK.match(str(descriptor.readlink()))
        except OSError:
            continue
        if found:
            yield int(found.group(1))


def _command(proc: Path, pids: Iterable[int]) -> str:
    for pid in sorted(pids):
        try:
            name = (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        return name.strip()
    return ""
