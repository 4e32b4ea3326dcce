"""A real gateway process with one simulated acquirer, and plain sockets to talk to it."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import Frame, FrameReader, FramingSpec, encode_frame
from gateway.wire.message import Message
from tests.support import canaries
from tests.support.ports import own_ports

ROOT = Path(__file__).resolve().parents[2]
CODEC = Codec(shipped_dialects()["iso87_ascii"])
SPEC = FramingSpec()
TPDU_SPEC = FramingSpec(tpdu=True)
READY_S = 90.0  # patience: nothing waits so long but on a machine that does much else
LINKS = 2
# An acquirer that says nothing for a while is waited for, and never suspected.
PATIENT = (
    "health = { suspect_min_s = 60.0, suspect_unknown_s = 60.0, suspect_max_s = 60.0,"
    " timeouts_max = 1000 }"
)

_CONFIGURATION = """
[node]
name = "under-test"
admin_socket = "gateway.sock"
drain_s = {drain_s}
watch_s = 0.2
connections_max = 500

[store]
path = "gateway.db"

[keys]
keyring = "keyring.json"
create = true

[log]
level = "debug"
format = "json"
file = "gateway.log"

[metrics]
listen = "127.0.0.1:{metrics}"

[[profiles]]
name = "retail"
kinds = ["purchase", "refund", "balance", "offline"]

[registry]
default_profile = "retail"

[[registry.ranges]]
terminals = "T0000001-T0000999"
merchant = "MERCHANT0000001"
profile = "retail"

[[listeners]]
name = "plain"
listen = "127.0.0.1:{plain}"
security = "plain"
macs = "by_profile"
dialect = "iso87_ascii"
deadlines = {deadlines}
{plain_limits}

[[listeners]]
name = "shops"
listen = "127.0.0.1:{tls}"
security = "mutual-tls"
dialect = "iso87_ascii"
deadlines = {deadlines}

[listeners.tls]
certificate = "certs/server.crt"
key = "certs/server.key"
client_ca = "certs/ca.crt"
crl = "certs/ca.crl"

[[listeners]]
name = "malls"
listen = "127.0.0.1:{mall}"
security = "plain"
macs = "by_profile"
carries = "concentrator"
dialect = "iso87_ascii"
framing = {{ tpdu = true }}
deadlines = {deadlines}

[[concentrators]]
name = "mall"
networks = ["127.0.0.0/8"]
terminals = ["T0000001-T0000099"]

[[upstreams]]
name = "acquirer"
addresses = ["127.0.0.1:{acquirer}"]
links = 2
dialect = "iso87_ascii"
plain = true
answer_s = {answer_s}
late_max_s = 30.0
backoff = {{ first_s = 0.05, max_s = 0.5 }}
reversal_backoff = {{ first_s = 0.2, max_s = 1.0 }}
keys = {{ pin = "pass_through" }}
{upstream_more}

[[groups]]
name = "acquirers"
members = [{{ upstream = "acquirer" }}]

[[routes]]
name = "default"
group = "acquirers"
"""


_DEADLINES = (
    "{{ handshake_s = 1.0, first_byte_s = 1.0, frame_s = 1.0, idle_s = {idle_s}, send_s = 1.0 }}"
)


def purchase(stan: int, terminal: str = "T0000001", **changes: str) -> Message:
    """A purchase with all the canaries of a card; changes are `f4="..."`."""
    now = time.gmtime()
    fields = canaries.CARD_FIELDS | {
        3: "000000",
        4: "000000001250",
        7: time.strftime("%m%d%H%M%S", now),
        11: f"{stan:06d}",
        12: time.strftime("%H%M%S", now),
        13: time.strftime("%m%d", now),
        22: "051",
        25: "00",
        37: f"{stan:012d}",
        41: terminal,
        42: "MERCHANT0000001",
        49: "978",
    }
    fields |= {int(name[1:]): value for name, value in changes.items()}
    return Message("0200", fields)


class Peer:
    """One connection to the gateway, with blocking calls and a time limit on each."""

    def __init__(self, sock: socket.socket, spec: FramingSpec = SPEC) -> None:
        self.sock = sock
        self._spec = spec
        self._reader = FrameReader(spec)
        self._frames: list[Frame] = []

    def send(self, message: Message, tpdu: bytes = b"") -> None:
        self.sock.sendall(encode_frame(self._spec, CODEC.encode(message), tpdu))

    def receive(self) -> Message:
        return CODEC.decode(self.receive_frame().body)

    def receive_frame(self) -> Frame:
        while not self._frames:
            data = self.sock.recv(65_536)
            if not data:
                raise EOFError
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def ask(self, message: Message) -> Message:
        self.send(message)
        return self.receive()

    def ended(self, within_s: float) -> bool:
        """Whether the gateway closes this connection within so long, saying nothing more."""
        self.sock.settimeout(within_s)
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.sock.close()


class RunningNode:
    """The processes of one node under test; `folder` is all the gateway writes to."""

    def __init__(
        self,
        folder: Path,
        *,
        answer_s: float = 5.0,
        drain_s: float = 5.0,
        idle_s: float = 20.0,
        plain_limits: str = "",
        upstream_more: str = "",
    ) -> None:
        self.folder = folder
        self.answer_s = answer_s
        self.drain_s = drain_s
        self.idle_s = idle_s
        self.plain_limits = plain_limits
        self.upstream_more = upstream_more
        self.plain, self.tls, self.mall, self.acquirer_port, self.metrics = own_ports(5)
        self.config = folder / "gateway.toml"
        self.log = folder / "gateway.log"
        self.acquirer_folder = folder.parent / f"{folder.name}-acquirer"
        self.gateway: subprocess.Popen[bytes] | None = None
        self.acquirer: subprocess.Popen[bytes] | None = None
        self._peers: list[Peer] = []
        self._events: list[dict[str, Any]] = []
        self._read_bytes = 0
        self._earlier_events = 0

    # --- processes ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Certificates of T0000001 and T0000002, and the configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.acquirer_folder.mkdir(exist_ok=True)
        shutil.copytree(_certificates(), self.folder / "certs")
        self.config.write_text(
            _CONFIGURATION.format(
                plain=self.plain,
                tls=self.tls,
                mall=self.mall,
                acquirer=self.acquirer_port,
                metrics=self.metrics,
                answer_s=self.answer_s,
                drain_s=self.drain_s,
                deadlines=_DEADLINES.format(idle_s=self.idle_s),
                plain_limits=self.plain_limits,
                upstream_more=self.upstream_more,
            )
        )

    def run(self, *arguments: str, expect: int = 0) -> str:
        """The standard output of a `gateway` command."""
        return _command(*arguments, expect=expect)

    def start_acquirer(self, *options: str) -> None:
        folder = self.acquirer_folder
        with (folder / "output").open("ab") as output:
            self.acquirer = subprocess.Popen(
                [
                    *(sys.executable, "-m", "loadtest", "acquirer"),
                    *("--listen", f"127.0.0.1:{self.acquirer_port}"),
                    *("--ledger", str(folder / "ledger.db"), "--control", str(folder / "sock")),
                    *options,
                ],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        wait_for(lambda: _connects(self.acquirer_port), "the acquirer to listen")

    def switch(self, *switches: str) -> dict[str, Any]:
        """Change how the acquirer behaves; returns what it says of itself."""
        asked = dict(switch.split("=", 1) for switch in switches)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(10)
            control.connect(str(self.acquirer_folder / "sock"))
            with control.makefile("rw") as lines:
                lines.write(json.dumps(asked) + "\n")
                lines.flush()
                answer: dict[str, Any] = json.loads(lines.readline())
        assert answer["ok"], answer
        return answer

    def received(self) -> int:
        """How many requests the acquirer has had."""
        return int(self.switch()["counts"].get("received", 0))

    def wait_until_received(self, count: int) -> None:
        wait_for(lambda: self.received() >= count, f"{count} requests to reach the acquirer")

    def start(self, *, links: int = LINKS) -> None:
        """Start the gateway, and return once so many of its links are up."""
        self._earlier_events = len(self.events())
        with (self.folder / "stderr").open("ab") as errors:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", "--config", str(self.config)],
                cwd=ROOT,
                stdout=errors,
                stderr=errors,
                stdin=subprocess.DEVNULL,
            )
        wait_for(lambda: self._is_ready(links), "the gateway to be ready")

    def _is_ready(self, links: int) -> bool:
        assert self.gateway is not None
        assert self.gateway.poll() is None, (self.folder / "stderr").read_text()
        names = [event["event"] for event in self.events_of_this_run()]
        return "node_ready" in names and names.count("link_up") == links

    def stop(self) -> int:
        """End the gateway by SIGTERM; its exit status."""
        assert self.gateway is not None
        if self.gateway.poll() is None:
            self.gateway.send_signal(signal.SIGTERM)
        return self.gateway.wait(20)

    def kill(self) -> None:
        assert self.gateway is not None
        self.gateway.kill()
        self.gateway.wait(10)

    def waits(self) -> dict[Path, int]:
        """How many nanoseconds each thread that has part in a transaction has waited, ready to run,
        for a processor: this one, and those of the gateway and of the acquirer."""
        threads = [Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}")]
        for process in (self.gateway, self.acquirer):
            if process is not None:
                threads += Path(f"/proc/{process.pid}/task").glob("*")
        found = {}
        for thread in threads:
            with suppress(OSError):  # It has ended, or there is no /proc.
                found[thread] = int((thread / "schedstat").read_text().split()[1])
        return found

    def waited_s(self, since: dict[Path, int]) -> float:
        """How long they have waited, together, since then.

        What a busy machine makes all wait is nobody's slowness, and is to be taken off a time that
        is held to a bound. A gateway that keeps itself busy runs, and does not wait: that stays its
        own. 0 where the system does not say.
        """
        return sum(ns - since.get(thread, 0) for thread, ns in self.waits().items()) / 1e9

    @contextmanager
    def own_time(self) -> Iterator[list[float]]:
        """Yields a list to which the seconds are added that the block took, less `waited_s`."""
        took_s: list[float] = []
        since, began_s = self.waits(), time.monotonic()
        yield took_s
        took_s.append(time.monotonic() - began_s - self.waited_s(since))

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        for process in (self.gateway, self.acquirer):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(10)

    # --- what it says ---------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        """All events of the log, each of its lines being one JSON object."""
        if self.log.exists():
            with self.log.open("rb") as log:
                log.seek(self._read_bytes)
                whole = log.read().rpartition(b"\n")[0]
            if whole:
                self._events += [json.loads(line) for line in whole.splitlines()]
                self._read_bytes += len(whole) + 1
        return self._events

    def events_of_this_run(self) -> list[dict[str, Any]]:
        return self.events()[self._earlier_events :]

    def wait_for_event(self, name: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """The newest event of this name and these fields, once there are so many."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [
                event
                for event in self.events_of_this_run()
                if event["event"] == name and fields.items() <= event.items()
            ]
            return len(found) >= count

        wait_for(there, f"{count} events {name} {fields}")
        return found[-1]

    # --- connections ----------------------------------------------------------------------------

    def connect(self, port: int | None = None) -> Peer:
        sock = socket.create_connection(("127.0.0.1", port or self.plain), timeout=10)
        return self._noted(Peer(sock, TPDU_SPEC if port == self.mall else SPEC))

    def _noted(self, peer: Peer) -> Peer:
        """Closed at the end, whatever its test does."""
        self._peers.append(peer)
        return peer

    def connect_tls(
        self,
        terminal: str = "T0000001",
        *,
        certs: Path | None = None,
        version: ssl.TLSVersion | None = None,
        session: ssl.SSLSession | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Peer:
        context = context or self.context(terminal, certs=certs, version=version)
        sock = socket.create_connection(("127.0.0.1", self.tls), timeout=10)
        try:
            secured = context.wrap_socket(sock, server_hostname="localhost", session=session)
        except BaseException:
            sock.close()
            raise
        return self._noted(Peer(secured))

    def context(
        self,
        terminal: str,
        *,
        certs: Path | None = None,
        version: ssl.TLSVersion | None = None,
    ) -> ssl.SSLContext:
        own = self.folder / "certs"
        context = ssl.create_default_context(cafile=str(own / "ca.crt"))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if terminal:
            stem = (certs or own / "terminals") / terminal
            context.load_cert_chain(f"{stem}.crt", f"{stem}.key")
        return context


@contextmanager
def running_node(folder: Path, **settings: Any) -> Iterator[RunningNode]:
    """A node that is up with its links, and its acquirer; both are ended at the end."""
    node = RunningNode(folder, **settings)
    try:
        node.prepare()
        node.start_acquirer()
        node.start()
        yield node
    finally:
        node.close()


def _command(*arguments: str, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == expect, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def _certificates() -> Path:
    """A CA with a listener's certificate and two terminals', made once for all nodes of a process.

    Each node gets a copy: what it issues and revokes is its own.
    """
    folder = tempfile.mkdtemp(prefix="gw-certs")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    certs = f"{folder}/certs"
    _command("certs", "init", "--out", certs)
    _command("certs", "issue", "T0000001", "T0000002", "--ca", certs, "--out", f"{certs}/terminals")
    return Path(certs)


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Any, what: str) -> None:
    """Poll for what another process does; there is nothing to wait on in this one."""
    end_s = time.monotonic() + READY_S
    while not condition():
        assert time.monotonic() < end_s, f"waited {READY_S:g} s for {what}"
        time.sleep(0.02)


def resident_kib(pid: int) -> int:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
