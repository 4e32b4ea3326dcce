"""Stand: the gateway and acquirers that a run starts for itself, in a folder that is its own."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from gateway.admin.client import AdminClient
from gateway.errors import OperatorError
from loadtest.addresses import HostPort, lasting_ports
from loadtest.fleet import terminal_names
from loadtest.processes import Child, ChildFailed, Children, python, run_once
from loadtest.run.keyed import LOCKOUT, PROFILE, UPSTREAM, Ceremony
from loadtest.run.line import TlsFolder
from loadtest.run.scenario import Scenario
from loadtest.stage import Stage

MERCHANT = "MERCHANT{number:07d}"
GRACE_S = 20.0
_CERTIFICATES_S = 600.0
_LINKS_S = 60.0
_POLL_S = 0.1
_ANSWER_S = 60.0  # after a restart, thousands of handshakes come first
# Kept between runs: thousands of keys take a minute to make.
CERTS = Path(__file__).resolve().parent.parent.parent / "var" / "loadtest" / "certs"


class Stand:
    """A gateway on its acquirers; without one (`direct`) the devices call an acquirer."""

    def __init__(
        self, scenario: Scenario, folder: Path, children: Children, *, direct: bool
    ) -> None:
        self._scenario = scenario
        self.folder = folder
        self._direct = direct
        self.stage = Stage(children, logs=folder / "logs")
        self.config = folder / "gateway.toml"
        self.tls: TlsFolder | None = None
        self.ceremony = Ceremony(folder) if scenario.devices.secure and not direct else None
        self.target = HostPort("127.0.0.1", 0)

    @property
    def store(self) -> Path:
        return self.folder / "gateway.db"

    @property
    def log(self) -> Path:
        return self.folder / "logs" / "gateway.log"

    @property
    def admin_socket(self) -> Path:
        return self.folder / "gateway.sock"

    @property
    def client(self) -> AdminClient:
        return AdminClient(self.admin_socket, config=self.config, timeout_s=_ANSWER_S)

    @property
    def gateway(self) -> Child | None:
        return self.stage.gateway

    @property
    def ledgers(self) -> dict[str, Path]:
        """The acquirers' ledgers."""
        return {seat.name: seat.ledger for seat in self.stage.acquirers.values()}

    # --- starting ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everybody runs and the gateway's links are up; raises ChildFailed."""
        scenario = self._scenario
        count = 1 if self._direct else scenario.acquirers.count
        ports = lasting_ports(count + 1)
        for number, port in enumerate(ports[:count], start=1):
            # It is killed, and the machine is not: an fsync of its own for each answer would only
            # take the disk from the gateway.
            await self.stage.start_acquirer(
                f"acquirer-{number}",
                folder=self.folder,
                address=HostPort("127.0.0.1", port),
                switches=scenario.acquirers.switches,
                seed=scenario.seed * 10 + number,
                options=["--no-outlives-power", *self._acquirer_keys(f"acquirer-{number}")],
            )
        if self._direct:
            self.target = next(iter(self.stage.acquirers.values())).address
            return
        self.target = HostPort("127.0.0.1", ports[count])
        if scenario.devices.security == "mutual-tls":
            self.tls = await trio.to_thread.run_sync(
                _certificates, scenario.devices.count, abandon_on_cancel=False
            )
        if scenario.gateway.blocked_bins:
            self._write_blocked_bins()
        self.config.write_text(self._configuration(), encoding="utf-8")
        await self.start_gateway()
        if self.ceremony is not None:
            ids = [name.terminal_id for name in terminal_names(scenario.devices.count)]
            await self.ceremony.enter(self.config, ids)
        await self._until_links_are_up()

    def _acquirer_keys(self, name: str) -> list[str]:
        if self.ceremony is None:
            return []
        return ["--keys", str(self.ceremony.acquirer_file(name))]

    async def start_gateway(self) -> None:
        """A gateway that answers; after a kill, another one. Raises ChildFailed."""
        await self.stage.start_gateway(self.config, admin_socket=self.admin_socket)

    async def _until_links_are_up(self) -> None:
        with trio.move_on_after(_LINKS_S):
            while True:
                try:
                    status = await trio.to_thread.run_sync(self.client.status)
                except OperatorError:
                    status = None
                if status and all(one["links_up"] == one["links"] for one in status["upstreams"]):
                    return
                await trio.sleep(_POLL_S)
        raise ChildFailed(f"the gateway's links did not come up within {_LINKS_S:g} s: {self.log}")

    async def reversals_open(self) -> int:
        """How many the gateway says it owes; -1: it does not say."""
        try:
            status = await trio.to_thread.run_sync(self.client.status)
        except OperatorError:
            return -1
        return int(status["reversals_owed"])

    def edited(self, number: int) -> None:
        """The configuration with another comment in it, so that there is something to take up."""
        text = self.config.read_text(encoding="utf-8").partition("# edit ")[0]
        fresh = self.config.with_suffix(".new")
        fresh.write_text(f"{text}# edit {number}\n", encoding="utf-8")
        fresh.replace(self.config)

    # --- configuration -------------------------------------------------------------------------

    def _configuration(self) -> str:
        scenario = self._scenario
        tls = self.tls
        last = terminal_names(scenario.devices.count)[-1].terminal_id
        parts = [
            _HEAD.format(
                connections=scenario.devices.count * 2 + 100,
                last=last,
                under_way=max(5_000, scenario.devices.count),
                listen=self.target,
                security=scenario.devices.security,
                profile_keys=PROFILE if self.ceremony is not None else "",
                macs="required" if self.ceremony is not None else "by_profile",
            )
        ]
        if tls is not None:
            parts.append(_TLS.format(folder=tls.ca.parent))
        if self.ceremony is not None:
            parts.append(LOCKOUT)
        names = list(self.stage.acquirers)
        members = ", ".join(f'{{ upstream = "{name}" }}' for name in names)
        parts += [
            _UPSTREAM.format(
                name=seat.name,
                address=seat.address,
                links=scenario.gateway.links,
                answer_s=scenario.gateway.answer_s,
                late_max_s=scenario.gateway.late_max_s,
            )
            + (UPSTREAM if self.ceremony is not None else "")
            for seat in self.stage.acquirers.values()
        ]
        parts.append(_ROUTES.format(members=members))
        return "".join(parts)

    def _write_blocked_bins(self) -> None:
        """First digits that no device's card has, so that every look-up is made and none hits."""
        folder = self.folder / "blocklists"
        folder.mkdir()
        with (folder / "bins").open("w", encoding="ascii") as file:
            for number in range(self._scenario.gateway.blocked_bins):
                file.write(f"888{number:07d}\n")


def _certificates(count: int) -> TlsFolder:
    """Certificates of so many devices, as far as they are not there from runs before."""
    ids = [name.terminal_id for name in terminal_names(count)]
    terminals = CERTS / "terminals"
    with _alone(CERTS):
        missing = [one for one in ids if not (terminals / f"{one}.key").exists()]
        trio.run(_make_certificates, terminals, missing)
    return TlsFolder(terminals, CERTS / "ca.crt")


async def _make_certificates(terminals: Path, missing: Sequence[str]) -> None:
    await run_once(*python("gateway", "certs", "init", "--out", str(CERTS)))
    if missing:
        await run_once(
            *python("gateway", "certs", "issue", "--ca", str(CERTS), "--out", str(terminals)),
            *(f"--range={first}-{last}" for first, last in _ranges(missing)),
            timeout_s=_CERTIFICATES_S,
        )


def _ranges(ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is missing is a tail, mostly."""
    first = before = ids[0]
    for one in ids[1:]:
        if int(one[1:]) != int(before[1:]) + 1:
            yield first, before
            first = one
        before = one
    yield first, before


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While nobody else issues certificates there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / ".lock").open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_HEAD = """\
# Written by `python -m loadtest run`.
[node]
name = "loadtest"
admin_socket = "gateway.sock"
connections_max = {connections}
drain_s = 5.0

[store]
path = "gateway.db"
queue_max = 50000

[keys]
keyring = "keyring.json"
create = true

[log]
level = "info"
format = "json"

[limits]
under_way_max = {under_way}

[[profiles]]
name = "retail"
kinds = ["purchase", "void", "refund", "preauthorisation", "completion", "balance"]
{profile_keys}
[registry]
default_profile = "retail"

[[registry.ranges]]
terminals = "T0000001-{last}"
merchant = "*"
profile = "retail"

[[listeners]]
name = "shops"
listen = "{listen}"
security = "{security}"
dialect = "iso87_ascii"
macs = "{macs}"

[listeners.limits]
connections_max = {connections}
connections_per_address_max = {connections}
backlog = 4096
"""
_TLS = """
[listeners.tls]
certificate = "{folder}/server.crt"
key = "{folder}/server.key"
client_ca = "{folder}/ca.crt"
crl = "{folder}/ca.crl"
"""
_UPSTREAM = """
[[upstreams]]
name = "{name}"
addresses = ["{address}"]
links = {links}
dialect = "iso87_ascii"
plain = true
answer_s = {answer_s}
late_max_s = {late_max_s}
connect_s = 1.0
pending_per_link_max = 10000
reversals_under_way_max = 64
reversal_attempts_max = 1000
reversal_backoff = {{ first_s = 0.1, max_s = 1.0 }}
"""
_ROUTES = """
[[groups]]
name = "acquirers"
strategy = "weighted"
members = [{members}]

[[routes]]
name = "default"
group = "acquirers"
"""
