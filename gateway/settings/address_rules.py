"""The rules for addresses and networks of a configuration; nothing outside the file is read."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from gateway.settings.addresses import clash, numeric_host, split_address
from gateway.settings.draft import Part
from gateway.settings.findings import Findings, shown_value
from gateway.settings.lines import KeyPath


def check_listen(part: Part, key: str, findings: Findings) -> None:
    text = part.text(key)
    if text is not None:
        check_address(part.at(key), text, findings, is_listener=True)


def check_address(path: KeyPath, text: str, findings: Findings, *, is_listener: bool) -> None:
    try:
        _, port = split_address(text)
    except ValueError as error:
        problem, _, remedy = str(error).partition(": ")
        findings.error(path, problem, remedy)
        return
    if port == 0 and not is_listener:
        findings.error(path, "port 0 cannot be called", "write a port from 1 to 65535")
    elif port == 0:
        findings.warning(
            path, "port 0 is another port at each start", "write a port from 1 to 65535"
        )


def check_metrics(metrics: Part, findings: Findings) -> None:
    check_listen(metrics, "listen", findings)
    listen = metrics.text("listen")
    if listen is None:
        return
    try:
        host = numeric_host(split_address(listen)[0])
    except ValueError:
        return
    if host is None or not host.is_loopback:
        findings.warning(
            metrics.at("listen"),
            "metrics are served beyond this machine, to anybody and without TLS",
            "write a loopback address, such as 127.0.0.1, and let a collector here pass them on",
        )


def listen_addresses(top: Part) -> Iterator[tuple[KeyPath, str, bool]]:
    """Each address that the daemon will listen on: its path, its text, and whether it is shared."""
    for listener in top.parts("listeners"):
        text = listener.text("listen")
        if text is not None:
            yield listener.at("listen"), text, listener.flag("reuse_port")
    for upstream in top.parts("upstreams"):
        text = upstream.text("listen")
        if text is not None:
            yield upstream.at("listen"), text, False
    text = top.part("metrics").text("listen")
    if text is not None:
        yield top.part("metrics").at("listen"), text, False


def check_listen_twice(top: Part, findings: Findings) -> None:
    seen: list[tuple[KeyPath, str, int, bool]] = []
    for path, text, shared in listen_addresses(top):
        try:
            host, port = split_address(text)
        except ValueError:
            continue
        for other_path, other_host, other_port, other_shared in seen:
            if port == 0 or port != other_port or (shared and other_shared):
                continue
            if _same_place(host, other_host):
                findings.error(
                    path,
                    f"{shown_value(text)} is taken by the listener on line"
                    f" {findings.line_of(other_path)}",
                    "give it a port of its own, or set reuse_port = true on both listeners",
                )
        seen.append((path, host, port, shared))


def _same_place(host: str, other: str) -> bool:
    here, there = numeric_host(host), numeric_host(other)
    if here is None or there is None:
        return host.lower() == other.lower()
    return clash(here, there) == "yes"


def check_networks(part: Part, findings: Findings, *, key: str = "networks") -> None:
    for path, text in part.texts(key):
        try:
            ip_network(text)
        except ValueError:
            findings.error(path, f"{shown_value(text)} is no network", _network_remedy(text))


def _network_remedy(text: str) -> str:
    host, slash, _ = text.partition("/")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is not None:
        return f"did you mean {network}, or {host} alone?"
    try:
        address = ip_address(host)
    except ValueError:
        return "write a CIDR range, such as 10.1.0.0/16 or 2001:db8::/32"
    most = 32 if address.version == 4 else 128
    return f"write a prefix length from 0 to {most} after the slash" if slash else f"{host}/{most}"
