"""Stage: a real gateway, simulated acquirers and enrolled terminals, all in one folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from loadtest.addresses import HostPort, loopback
from loadtest.processes import Child, ChildFailed, Children, python, run_once
from loadtest.terminal import TerminalName

READY_S = 60.0
_POLL_S = 0.02


@dataclass(slots=True)
class AcquirerSeat:
    """A simulated acquirer: where it listens, and what stays when its process ends."""

    name: str
    address: HostPort
    ledger: Path
    control: Path
    options: tuple[str, ...] = ()  # more of its command line, whenever it is started
    child: Child | None = None


class Stage:
    """Starts the parts of a run; `children` ends them."""

    def __init__(self, children: Children, *, logs: Path) -> None:
        self._children = children
        self._logs = logs
        self.acquirers: dict[str, AcquirerSeat] = {}
        self.gateway: Child | None = None

    async def start_acquirer(
        self,
        name: str,
        *,
        folder: Path,
        address: HostPort | None = None,
        switches: Sequence[str] = (),
        seed: int = 1,
        options: Sequence[str] = (),
    ) -> AcquirerSeat:
        """A running acquirer; one of the same name before it left its ledger in `folder`."""
        seat = AcquirerSeat(
            name,
            address or HostPort("127.0.0.1", 0),
            folder / f"{name}.ledger.db",
            folder / f"{name}.sock",
            tuple(options),
        )
        self.acquirers[name] = seat
        await self.restart_acquirer(seat, switches=switches, seed=seed)
        return seat

    async def restart_acquirer(
        self, seat: AcquirerSeat, *, switches: Sequence[str] = (), seed: int = 1
    ) -> None:
        """Starts an acquirer in its seat, on its address and its ledger; raises ChildFailed."""
        command = python("loadtest", "acquirer", "--name", seat.name)
        command += ["--listen", str(seat.address), "--ledger", str(seat.ledger)]
        command += ["--control", str(seat.control), "--seed", str(seed), *seat.options]
        command += switches
        seat.child = await self._children.start(
            seat.name, command, log=self._logs / f"{seat.name}.log", talks=True
        )
        ready = json.loads(await seat.child.line(timeout_s=READY_S))
        seat.address = loopback(ready["listening"])

    async def start_gateway(self, config: Path, *, admin_socket: Path) -> Child:
        """A gateway that answers on its admin socket; raises ChildFailed."""
        gateway = await self.spawn_gateway(config)
        await gateway_ready(gateway, admin_socket=admin_socket)
        return gateway

    async def spawn_gateway(self, config: Path) -> Child:
        """A gateway that has yet to get ready."""
        self.gateway = await self._children.start(
            "gateway",
            python("gateway", "run", "--config", str(config)),
            log=self._logs / "gateway.log",
        )
        return self.gateway

    async def start_terminals(
        self, name: str, *, folder: Path, certs: Path, target: HostPort, options: Sequence[str]
    ) -> Child:
        """A process of terminals; one of the same name before it left its ledger in `folder`."""
        command = python("loadtest", "terminals", "--target", str(target), "--certs", str(certs))
        command += ["--ledger", str(folder / f"{name}.ledger.db"), *options]
        return await self._children.start(name, command, log=self._logs / f"{name}.log")


async def gateway_ready(gateway: Child, *, admin_socket: Path) -> None:
    """Returns once a gateway answers on its admin socket; raises ChildFailed."""
    with trio.move_on_after(READY_S):
        while gateway.process.poll() is None:
            if await _answers(admin_socket):
                return
            await trio.sleep(_POLL_S)
        raise gateway.failure()
    raise ChildFailed(f"the gateway was not ready within {READY_S:g} s: {gateway.log}")


async def make_certificates(folder: Path, names: Sequence[TerminalName]) -> Path:
    """An authority, a server's and the terminals' certificates, as far as they are not there.

    Returns the folder of the terminals' certificates, with `devices.csv` to be imported. Raises
    ChildFailed.
    """
    terminals = folder / "terminals"
    await run_once(*python("gateway", "certs", "init", "--out", str(folder)))
    await run_once(
        *python("gateway", "certs", "issue", "--ca", str(folder), "--out", str(terminals)),
        *(name.terminal_id for name in names),
    )
    _add_merchants(terminals / "devices.csv", names)
    return terminals


def _add_merchants(roster: Path, names: Sequence[TerminalName]) -> None:
    merchants = {name.terminal_id: name.merchant_id for name in names}
    with roster.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with roster.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            merchant_id = merchants.get(row["terminal_id"], row["merchant_id"])
            writer.writerow({**row, "merchant_id": merchant_id})


async def import_devices(roster: Path, *, config: Path) -> None:
    """Enrols the devices of a roster as active ones; those there already stay as they are.

    Raises ChildFailed.
    """
    command = python("gateway", "terminals", "import", str(roster), "--config", str(config))
    await run_once(*command, "--activate")


async def _answers(socket: Path) -> bool:
    try:
        stream = await trio.open_unix_socket(str(socket))
    except OSError:
        return False
    await stream.aclose()
    return True


_CONFIGURATION = """\
[node]
name = "{name}"
admin_socket = "gateway.sock"
drain_s = {drain_s}

[store]
path = "{store}"

[keys]
keyring = "keyring.json"
create = true

[log]
format = "json"

[[listeners]]
name = "shops"
listen = "{listen}"
dialect = "iso87_ascii"
{security}
[[profiles]]
name = "retail"
kinds = ["purchase", "void", "refund", "balance"]

[registry]
default_profile = "retail"
{ranges}
[[groups]]
name = "acquirers"
strategy = "weighted"
members = [{members}]

[[routes]]
name = "default"
group = "acquirers"
"""

_MUTUAL_TLS = """\
security = "mutual-tls"

[listeners.tls]
certificate = "certs/server.crt"
key = "certs/server.key"
client_ca = "certs/ca.crt"
crl = "certs/ca.crl"
"""
_PLAIN = """\
security = "plain"
macs = "by_profile"
"""
_RANGE = """
[[registry.ranges]]
terminals = "{ids}"
profile = "retail"
"""
_UPSTREAM = """
[[upstreams]]
name = "{name}"
addresses = ["{address}"]
links = 2
dialect = "iso87_ascii"
plain = true
answer_s = {answer_s}
late_max_s = {late_max_s}
{more}"""


def write_configuration(
    folder: Path,
    *,
    name: str,
    listen: HostPort,
    upstreams: Mapping[str, HostPort],
    answer_s: float,
    drain_s: float,
    late_max_s: float = 60.0,
    store: str = "gateway.db",
    upstream_settings: str = "",
    plain_terminals: str = "",
) -> Path:
    """A gateway.toml for a folder with certs/ in it; returns its path.

    `upstream_settings` are more lines of TOML for every upstream. `plain_terminals` is a range of
    ids: they call over plain TCP then, certs/ is not needed, and nobody has to be enrolled.
    """
    members = ", ".join(f'{{ upstream = "{upstream}" }}' for upstream in upstreams)
    text = _CONFIGURATION.format(
        name=name,
        drain_s=float(drain_s),
        listen=listen,
        members=members,
        store=store,
        security=_PLAIN if plain_terminals else _MUTUAL_TLS,
        ranges=_RANGE.format(ids=plain_terminals) if plain_terminals else "",
    ) + "".join(
        _UPSTREAM.format(
            name=upstream,
            address=address,
            answer_s=float(answer_s),
            late_max_s=float(late_max_s),
            more=upstream_settings,
        )
        for upstream, address in upstreams.items()
    )
    path = folder / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return path
