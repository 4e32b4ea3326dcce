"""Listening sockets and their owners, as the kernel shows them."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from gateway.settings.addresses import (
    ListeningSocket,
    clash,
    listening_sockets,
    numeric_host,
    split_address,
)

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0
   1: 0100007F:20FB 0100007F:9000 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0 0 0 0 0 104
   1: 0000000000000000FFFF00000100007F:1F91 00000000000000000000000000000000:0000 0A 0 0 0 0 0 105
   2: B80D0120000000000000000001000000:1F92 00000000000000000000000000000000:0000 0A 0 0 0 0 0 106
"""


def proc(folder: Path) -> Path:
    (folder / "net").mkdir()
    (folder / "net" / "tcp").write_text(TCP)
    (folder / "net" / "tcp6").write_text(TCP6)
    for pid, inodes in ((10, (101, 999)), (11, (101,)), (12, ())):
        (folder / str(pid) / "fd").mkdir(parents=True)
        (folder / str(pid) / "comm").write_text("nginx\n")
        (folder / str(pid) / "fd" / "0").symlink_to("/dev/null")
        for inode in inodes:
            (folder / str(pid) / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")
    return folder


def test_the_tables_of_the_kernel(tmp_path: Path) -> None:
    assert listening_sockets(proc(tmp_path)) == [
        ListeningSocket(ip_address("127.0.0.1"), 8443, frozenset((10, 11)), "nginx"),
        ListeningSocket(ip_address("0.0.0.0"), 80),
        ListeningSocket(ip_address("::1"), 8080),
        ListeningSocket(ip_address("127.0.0.1"), 8081),
        ListeningSocket(ip_address("2001:db8::1"), 8082),
    ]


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert listening_sockets(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="this system has no /proc/net/tcp")
def test_a_real_socket_and_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        [found] = [listening for listening in listening_sockets() if listening.port == port]
    assert found.host == ip_address("127.0.0.1")
    assert os.getpid() in found.pids
    assert found.command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8443", ("127.0.0.1", 8443)),
        ("[::1]:0", ("::1", 0)),
        ("bank.example:65535", ("bank.example", 65535)),
        ("my_host:1", ("my_host", 1)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize(
    "text", ["127.0.0.1:65536", "1.2.3:1", "300.1.1.1:1", "[::1::]:1", "a..b:1", "-a:1", "a-.b:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|its parts"):
        split_address(text)


@pytest.mark.parametrize(
    ("wanted", "used", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", "yes"),
        ("127.0.0.1", "0.0.0.0", "yes"),
        ("0.0.0.0", "10.0.0.1", "yes"),
        ("127.0.0.1", "127.0.0.2", "no"),
        ("::1", "::", "yes"),
        ("127.0.0.1", "::", "perhaps"),
        ("::", "127.0.0.1", "perhaps"),
        ("::1", "0.0.0.0", "no"),
        ("::1", "127.0.0.1", "no"),
    ],
)
def test_which_listeners_meet(wanted: str, used: str, expected: str) -> None:
    assert clash(ip_address(wanted), ip_address(used)) == expected


def test_hosts_that_need_no_lookup() -> None:
    assert numeric_host("localhost") == ip_address("127.0.0.1")
    assert numeric_host("::1") == ip_address("::1")
    assert numeric_host("bank.example") is None
