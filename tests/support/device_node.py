"""A real node whose devices are enrolled, each with a certificate that is bound to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.admin.client import AdminClient
from gateway.cli.certificate_files import fingerprint
from gateway.keys.credentials import read_certificate
from gateway.wire.message import Message
from loadtest.ledger import Entry, read_entries
from tests.support.node import LINKS, ROOT, RunningNode, purchase, wait_for

MERCHANT = "MERCHANT0000001"
KINDS = '["purchase", "refund", "balance", "offline"]'
MORE_KINDS = '["purchase", "void", "refund", "preauthorisation", "completion"]'


class DeviceNode(RunningNode):
    """Terminals T0000001 and so on are a rule's; those that are enrolled begin with S."""

    def prepare(self) -> None:
        super().prepare()
        text = self.config.read_text()
        assert KINDS in text
        self.config.write_text(text.replace(KINDS, MORE_KINDS))

    def command(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """What a command prints as JSON."""
        told = self.run(*arguments, "--json", "--config", str(self.config), expect=expect)
        return dict(json.loads(told)) if told else {}

    def refused(self, *arguments: str) -> str:
        """What a command that is refused says."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments, "--config", str(self.config)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr

    def admin(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """An operation on terminals, asked of the daemon without a command's start-up."""
        client = AdminClient(self.folder / "gateway.sock", config=self.config)
        return client.run("terminals", operation, arguments)

    def start_patiently(self) -> None:
        """As `start`, on a machine that has much else to do."""
        try:
            self.start()
        except AssertionError:
            wait_for(lambda: self._is_ready(LINKS), "the gateway to be ready after all")

    def enrol(self, *terminals: str, activate: bool = True, profile: str = "") -> None:
        """Enrol devices with certificates of their own."""
        certs = str(self.folder / "certs")
        self.run("certs", "issue", *terminals, "--ca", certs, "--out", certs + "/terminals")
        for terminal in terminals:
            certificate = read_certificate(Path(certs) / "terminals" / f"{terminal}.crt")
            self.admin(
                "enrol",
                terminal_id=terminal,
                merchant_id=MERCHANT,
                profile=profile,
                serial=f"SN-{terminal}",
                model="P400",
                place="Dom",
                certificate_sha256=fingerprint(certificate),
            )
            if activate:
                self.admin("activate", terminal_id=terminal)

    def entries(self) -> list[Entry]:
        """What the acquirer has booked, in order."""
        return list(read_entries(self.acquirer_folder / "ledger.db"))

    def booked(self, terminal: str, kind: str) -> list[Entry]:
        """What the acquirer has booked of a terminal."""
        return [one for one in self.entries() if (one.terminal_id, one.kind) == (terminal, kind)]


def void_of(sale: Message, stan: int, terminal: str | None = None) -> Message:
    """A void that names the sale by DE90."""
    kept = {n: sale.fields[n] for n in (2, 4, 14, 22, 25, 42, 49) if n in sale.fields}
    changes: Mapping[str, str] = {
        "f3": "020000",
        "f41": terminal or sale.fields[41],
        "f90": f"0200{sale.stan}{sale.fields[7]}".ljust(42, "0"),
    }
    message = purchase(stan, **changes)
    own = {n: message.fields[n] for n in (3, 7, 11, 12, 13, 41, 90)}
    return Message("0200", kept | own)


def settlement(stan: int, terminal: str) -> Message:
    sale = purchase(stan, terminal)
    return Message("0500", {n: sale.fields[n] for n in (7, 11, 12, 13, 41, 42)})


@contextmanager
def device_node(folder: Path, **settings: Any) -> Iterator[DeviceNode]:
    """A node that is up with its links, and its acquirer; both are ended at the end."""
    node = DeviceNode(folder, **settings)
    try:
        node.prepare()
        node.start_acquirer()
        node.start()
        yield node
    finally:
        node.close()
