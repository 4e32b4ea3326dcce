"""Stand: a gateway on config/bench.toml, a bare echo, and the acquirers that both need.

Everything listens on ports that were free and writes into a folder of its own, so that a benchmark
disturbs nobody who has config/bench.toml running.
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gateway.admin.client import AdminClient
from gateway.errors import OperatorError
from gateway.faults import VARIABLE, Fault
from loadtest.addresses import HostPort, lasting_ports
from loadtest.bench import blocked
from loadtest.bench.load import Load, Said, read
from loadtest.fleet import terminal_names
from loadtest.processes import Child, ChildFailed, Children, python, run_once
from loadtest.run.line import TlsFolder
from loadtest.run.samples import Sample, sample

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = ROOT / "config" / "bench.toml"
CERTS = ROOT / "certs"
TERMINALS = ROOT / "var" / "bench-terminals"
BLOCKLISTS = ROOT / "var" / "bench-blocklists"
_CERTIFICATES_S = 600.0
_READY_S = 60.0
_POLL_S = 0.1
_GRACE_S = 20.0
_SCRAPE_S = 10.0
# What config/bench.toml says, and what stands for it here.
_PORTS = ("9000", "9443", "9101", "9102", "9465")


class NotAsExpected(ChildFailed):
    """config/bench.toml lacks what the benchmark replaces in it."""


@dataclass(frozen=True, slots=True)
class Server:
    """What is measured: a gateway, or the echo in its place."""

    name: str
    child: Child
    plain: HostPort
    tls: HostPort
    metrics: HostPort | None = None

    @property
    def pid(self) -> int:
        return self.child.pid

    def sample(self) -> Sample:
        """Its processor time and memory; raises ChildFailed where it is gone."""
        found = sample(self.pid, at_s=trio.current_time())
        if found is None:
            raise self.child.failure()
        return found

    async def transactions(self) -> int:
        """How many it has finished, by its metrics. Raises ChildFailed."""
        if self.metrics is None:
            raise ChildFailed(f"{self.name} has no metrics")
        url = f"http://{self.metrics}/metrics"
        try:
            text = await trio.to_thread.run_sync(_fetched, url)
        except OSError as error:
            raise ChildFailed(f"{url}: {error}") from None
        return transactions_of(text)


def transactions_of(exposition: str) -> int:
    """The sum of `gateway_transactions_total` over its labels."""
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in exposition.splitlines()
        if line.startswith("gateway_transactions_total{")
    )


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_SCRAPE_S) as answer:  # noqa: S310 # http, our own
        return bytes(answer.read()).decode()


async def set_up(*, terminals: int) -> TlsFolder:
    """Certificates of the gateway's own authority, for itself and for so many terminals, and the
    blocklists, as far as they are not there. Raises ChildFailed."""
    await run_once(*python("gateway", "certs", "init", "--out", str(CERTS)))
    names = terminal_names(terminals)
    last = names[-1].terminal_id
    if not all((TERMINALS / f"{one.terminal_id}.key").exists() for one in names):
        await run_once(
            *python("gateway", "certs", "issue", "--range", f"{names[0].terminal_id}-{last}"),
            *("--ca", str(CERTS), "--out", str(TERMINALS)),
            timeout_s=_CERTIFICATES_S,
        )
    await trio.to_thread.run_sync(blocked.write, BLOCKLISTS)
    return TlsFolder(TERMINALS, CERTS / "ca.crt")


def configuration_hash() -> str:
    """Of the configuration and the blocklists that are measured with."""
    digest = hashlib.sha256()
    for file in (CONFIG, *sorted(BLOCKLISTS.glob("*"))):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def variant(text: str, *, folder: Path, admin_socket: Path, ports: Mapping[str, int]) -> str:
    """A configuration's text on other ports, writing into `folder`; raises NotAsExpected."""
    changes = {f"127.0.0.1:{old}": f"127.0.0.1:{new}" for old, new in ports.items()}
    changes["../var/bench.sock"] = str(admin_socket)
    changes["../var/bench-blocklists"] = str(BLOCKLISTS)
    changes["../var/"] = f"{folder}/"
    changes["../certs/"] = f"{CERTS}/"
    for old, new in changes.items():
        if old not in text:
            raise NotAsExpected(f"{CONFIG}: nothing in it reads {old}, which was to be replaced")
        text = text.replace(old, new)
    return text


class Stand:
    """Starts servers one after the other; `children` ends what is left."""

    def __init__(
        self, tool: Path, tls: TlsFolder, children: Children, *, folder: Path, sockets: Path
    ) -> None:
        """What is written goes to `folder`; a path in `sockets` must be short."""
        self._tool = tool
        self.clients_tls = tls
        self.folder = folder
        self._sockets = sockets
        self._children = children
        self._ports = dict(zip(_PORTS, lasting_ports(len(_PORTS)), strict=True))
        self._echo_ports = lasting_ports(2)
        self._started = 0

    async def start_acquirers(self) -> None:
        """isoload's, for as long as the stand stands."""
        for port in ("9101", "9102"):
            command = [str(self._tool), "acquirer", "-listen", f"127.0.0.1:{self._ports[port]}"]
            await self._children.start(f"acquirer-{port}", command, log=self._log("acquirer"))

    @asynccontextmanager
    async def gateway(self, fault: Fault = Fault.NONE) -> AsyncIterator[Server]:
        """A gateway on an empty store, its links up. Raises ChildFailed."""
        self._started += 1
        folder = self.folder / f"gateway-{self._started}"
        folder.mkdir()
        config = folder / "bench.toml"
        admin_socket = self._sockets / f"{self._started}.sock"
        text = CONFIG.read_text(encoding="utf-8")
        config.write_text(
            variant(text, folder=folder, admin_socket=admin_socket, ports=self._ports),
            encoding="utf-8",
        )
        command = python("gateway", "run", "--config", str(config))
        if fault is not Fault.NONE:
            command = ["env", f"{VARIABLE}={fault.value}", *command]
        child = await self._children.start("gateway", command, log=self._log("gateway"))
        try:
            client = AdminClient(admin_socket, config=config, timeout_s=_READY_S)
            await _until_ready(client, child)
            yield Server(
                "gateway",
                child,
                plain=HostPort("127.0.0.1", self._ports["9000"]),
                tls=HostPort("127.0.0.1", self._ports["9443"]),
                metrics=HostPort("127.0.0.1", self._ports["9465"]),
            )
        finally:
            await child.stop(grace_s=_GRACE_S)

    @asynccontextmanager
    async def echo(self, *, tls: bool) -> AsyncIterator[Server]:
        """The bare echo. Raises ChildFailed."""
        address = HostPort("127.0.0.1", self._echo_ports[tls])
        command = python("loadtest.echo", "--listen", str(address))
        if tls:
            command += ["--certificate", str(CERTS / "server.crt")]
            command += ["--key", str(CERTS / "server.key"), "--client-ca", str(CERTS / "ca.crt")]
        child = await self._children.start("echo", command, log=self._log("echo"), talks=True)
        try:
            await child.line(timeout_s=_READY_S)
            yield Server("echo", child, plain=address, tls=address)
        finally:
            await child.stop(grace_s=_GRACE_S)

    async def run(self, server: Server, load: Load) -> Said:
        """Put a load on a server. Raises ChildFailed."""
        text = await run_once(*self.command(server, load), timeout_s=load.timeout_s)
        return self.read(text)

    def command(self, server: Server, load: Load) -> list[str]:
        """The command line that puts a load on a server."""
        target = server.tls if load.tls else server.plain
        return load.command(self._tool, target, tls=self.clients_tls, pid=server.pid)

    @staticmethod
    def read(text: str) -> Said:
        """isoload's report; raises ChildFailed where it is none."""
        try:
            return read(text)
        except ValueError as error:
            raise ChildFailed(str(error)) from None

    async def start(self, name: str, command: list[str]) -> Child:
        """Another part, whose standard output is read. Raises ChildFailed."""
        return await self._children.start(name, command, log=self._log(name), talks=True)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


async def _until_ready(client: AdminClient, child: Child) -> None:
    with trio.move_on_after(_READY_S):
        while True:
            if child.process.poll() is not None:
                raise child.failure()
            try:
                status = await trio.to_thread.run_sync(client.status)
            except OperatorError:
                status = None
            if status and all(one["links_up"] == one["links"] for one in status["upstreams"]):
                return
            await trio.sleep(_POLL_S)
    raise ChildFailed(f"the gateway's links did not come up within {_READY_S:g} s: {child.log}")
