"""What a configuration names is looked at: certificates, keys, lists, folders, addresses."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.settings.addresses import ListeningSocket
from gateway.settings.check import Report, check

NOW = datetime(2026, 11, 21, tzinfo=UTC)
DAY = timedelta(days=1)
ROOT = Path(__file__).parents[3]

CONFIGURATION = """\
[node]
admin_socket = "../var/a.sock"
#node

[store]
path = "../var/gateway.db"

[keys]
keyring = "../var/keyring.json"
create = true

[alarms]
certificate_days = 30
#alarms

[registry]
default_profile = "retail"

[[profiles]]
name = "retail"
kinds = ["purchase"]

[[listeners]]
name = "shops"
listen = "127.0.0.1:8443"
security = "mutual-tls"
dialect = "iso87_ascii"
#listener

[listeners.tls]
certificate = "../certs/server.crt"
key = "../certs/server.key"
client_ca = "../certs/ca.crt"
crl = "../certs/ca.crl"

[[upstreams]]
name = "bank"
addresses = ["bank.example:8101"]
dialect = "iso87_ascii"

[upstreams.tls]
ca = "../certs/ca.crt"
server_name = "bank.example"
certificate = "../certs/client.crt"
key = "../certs/client.key"

[[groups]]
name = "main"
members = [{ upstream = "bank" }]

[[routes]]
name = "all"
group = "main"
"""


class Site:
    """A configuration and all it names, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.certs, self.var = folder / "certs", folder / "var"
        for place in (folder / "config", self.certs, self.var):
            place.mkdir()
        self.file = folder / "config" / "gateway.toml"
        self.file.write_text(CONFIGURATION)
        self.ca = trustme.CA()
        self.put("ca.crt", self.ca.cert_pem.bytes())
        self.put("ca.crl", crl(self.ca))
        self.issue("server")
        self.issue("client")

    def put(self, name: str, content: bytes) -> None:
        path = self.certs / name
        path.write_bytes(content)
        path.chmod(0o600)

    def issue(
        self, name: str, *, not_before: datetime = NOW - DAY, not_after: datetime = NOW + 90 * DAY
    ) -> None:
        leaf = self.ca.issue_cert(
            "localhost", common_name=name, not_before=not_before, not_after=not_after
        )
        self.put(f"{name}.crt", leaf.cert_chain_pems[0].bytes())
        self.put(f"{name}.key", leaf.private_key_pem.bytes())

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert text.count(old) == 1, old
        self.file.write_text(text.replace(old, new))

    def check(self, *in_use: ListeningSocket) -> Report:
        return check(self.file, now=NOW, addresses_in_use=in_use)

    def findings(self, *in_use: ListeningSocket) -> list[str]:
        """Each finding's path, severity and text, without the folder's name."""
        folder = str(self.file.parent.parent)
        return [
            f"{found.path} {found.severity}: {found.problem}; {found.remedy}".replace(folder, "")
            for found in self.check(*in_use).findings
        ]


def crl(ca: trustme.CA, *, next_update: datetime = NOW + DAY) -> bytes:
    key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject
    builder = x509.CertificateRevocationListBuilder(issuer, NOW - 40 * DAY, next_update)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_all_is_well(site: Site) -> None:
    assert site.findings() == []
    report = site.check()
    assert report.ok
    assert re.fullmatch("[0-9a-f]{12}", report.version)
    assert list(site.var.iterdir()) == []  # nothing was made


def locked_key(site: Site) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    site.put(
        "server.key",
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        ),
    )


def folder_for_a_file(site: Site) -> None:
    (site.certs / "ca.crl").unlink()
    (site.certs / "ca.crl").mkdir()


def no_create(site: Site) -> None:
    site.edit("create = true", "")


def keyring(site: Site, mode: int = 0o600) -> None:
    (site.var / "keyring.json").write_text("{}")
    (site.var / "keyring.json").chmod(mode)


FILES: list[tuple[Callable[[Site], object], str]] = [
    (
        lambda site: (site.certs / "server.crt").unlink(),
        "listeners[0].tls.certificate error: /certs/server.crt does not exist; correct the path",
    ),
    (
        lambda site: (site.certs / "client.key").unlink(),
        "upstreams[0].tls.key error: /certs/client.key does not exist",
    ),
    (folder_for_a_file, "listeners[0].tls.crl error: /certs/ca.crl cannot be read: Is a directory"),
    (
        lambda site: site.put("server.crt", b"not PEM"),
        "listeners[0].tls.certificate error: /certs/server.crt is no PEM certificate",
    ),
    (
        lambda site: site.put("ca.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n"),
        "listeners[0].tls.client_ca error: /certs/ca.crt is no PEM certificate",
    ),
    (
        lambda site: site.put("server.key", b"not PEM"),
        "listeners[0].tls.key error: /certs/server.key is no PEM private key",
    ),
    (
        lambda site: site.put("ca.crl", b"not PEM"),
        "listeners[0].tls.crl error: /certs/ca.crl is no PEM CRL",
    ),
    (locked_key, "listeners[0].tls.key error: /certs/server.key is locked with a passphrase"),
    (
        lambda site: site.issue("server", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "listeners[0].tls.certificate error: /certs/server.crt: CN=server,OU=Testing cert",
    ),
    (
        lambda site: site.issue("server", not_before=NOW + DAY),
        "is not valid before 2026-11-22; wait until then, or correct this machine's clock",
    ),
    (
        lambda site: site.issue("client", not_after=NOW + 29 * DAY),
        "expires on 2026-12-20, in 29 days; renew it in time",
    ),
    (
        lambda site: shutil.copy(site.certs / "client.key", site.certs / "server.key"),
        "listeners[0].tls.key error: /certs/server.key does not belong to the certificate",
    ),
    (
        lambda site: shutil.copy(site.certs / "server.crt", site.certs / "ca.crt"),
        "is not a CA's certificate; name the certificate of the CA that issues the others",
    ),
    (
        lambda site: (site.certs / "server.key").chmod(0o644),
        "listeners[0].tls.key warning: the private key /certs/server.key is open to others than",
    ),
    (
        lambda site: site.put("ca.crl", crl(trustme.CA())),
        "listeners[0].tls.crl error: /certs/ca.crl is not signed by a CA of client_ca",
    ),
    (
        lambda site: site.put("ca.crl", crl(site.ca, next_update=NOW - DAY)),
        "listeners[0].tls.crl warning: /certs/ca.crl is stale: its next was due on 2026-11-20",
    ),
    (no_create, "keys.keyring error: /var/keyring.json does not exist; correct the path, or"),
    (
        lambda site: keyring(site, 0o640),
        "keys.keyring warning: the keyring /var/keyring.json is open to others",
    ),
    (
        lambda site: (site.var / "keyring.json").mkdir(),
        "keys.keyring error: /var/keyring.json is no",
    ),
    (
        lambda site: (site.var / "gateway.db").mkdir(),
        "store.path error: /var/gateway.db is a folder; name a file in it",
    ),
    (
        lambda site: site.edit('"../var/gateway.db"', '"../config/gateway.toml/x.db"'),
        "store.path error: /config/gateway.toml is no folder; name a file in a folder that can",
    ),
    (
        lambda site: site.edit('"../var/a.sock"', f'"../var/{"a" * 110}"'),
        "a socket's path has 107 at most: name a shorter one",
    ),
    (
        lambda site: site.edit("#alarms", 'command = ["./absent-program", "x"]'),
        'alarms.command[0] error: "./absent-program" is no program that can be run',
    ),
    (
        lambda site: site.edit("#node", '[log]\nfile = ".."'),
        "log.file error:  is a folder",
    ),
]


@pytest.mark.parametrize(("spoil", "expected"), FILES, ids=[words for _, words in FILES])
def test_what_is_wrong_with_a_file(
    spoil: Callable[[Site], object], expected: str, site: Site
) -> None:
    spoil(site)
    found = site.findings()
    assert any(expected in text for text in found), found


def test_files_are_looked_at_beside_other_errors(site: Site) -> None:
    site.edit("#node", "drian_s = 1")
    (site.certs / "server.crt").unlink()
    paths = [finding.path for finding in site.check().findings]
    assert paths == ["node.drian_s", "listeners[0].tls.certificate"]


def test_a_production_key_must_be_private(site: Site) -> None:
    site.edit("#node", "production = true")
    site.edit("create = true", 'kek = { source = "components" }')
    keyring(site)
    assert site.check().ok
    (site.certs / "server.key").chmod(0o640)
    assert any("tls.key error" in text and "0640" in text for text in site.findings())


def test_plain_listeners_and_upstreams_are_pointed_out(site: Site) -> None:
    text = site.file.read_text().replace('"mutual-tls"', '"plain"\nmacs = "by_profile"')
    text = re.sub(r"\[listeners.tls\].*?\n\n", "", text, flags=re.DOTALL)
    text = re.sub(r"\[upstreams.tls\].*?\n\n", "plain = true\n", text, flags=re.DOTALL)
    site.file.write_text(text)
    assert site.check().ok
    listener, upstream = site.findings()
    assert listener.startswith(
        "listeners[0].security warning: identity on this listener rests on address range and"
        " terminal id only; "
    )
    assert upstream.startswith("upstreams[0].plain warning: requests to this upstream travel un")


def test_folders_that_may_not_be_written_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = site.findings()
    assert [text.split()[0] for text in found] == [
        "node.admin_socket",
        "store.path",
        "keys.keyring",
    ]
    assert all("the folder /var cannot be written to" in text for text in found)


def test_an_absent_folder_can_be_made(site: Site) -> None:
    site.var.rmdir()
    assert site.findings() == []


# --- addresses -----------------------------------------------------------------------------------


def used(host: str, *pids: int, port: int = 8443) -> ListeningSocket:
    return ListeningSocket(ip_address(host), port, frozenset(pids), "nginx" if pids else "")


@pytest.mark.parametrize(
    ("socket", "expected"),
    [
        (used("127.0.0.1", 77), ['error: "127.0.0.1:8443" is in use by nginx (pid 77)']),
        (used("0.0.0.0", 77), ['error: "127.0.0.1:8443" is in use by nginx (pid 77)']),
        (used("::", 77), ['warning: "127.0.0.1:8443" may be in use by nginx (pid 77)']),
        (used("127.0.0.1"), ["is in use by a process that this user may not see"]),
        (used("127.0.0.2", 77), []),
        (used("::1", 77), []),
        (used("127.0.0.1", 77, port=8444), []),
        (used("127.0.0.1", os.getpid()), []),  # the daemon of the lock file
    ],
)
def test_addresses_in_use(socket: ListeningSocket, expected: list[str], site: Site) -> None:
    (site.var / "gateway.db.lock").write_text(f"{os.getpid()}\n")
    found = site.findings(socket)
    assert len(found) == len(expected)
    for text, words in zip(found, expected, strict=True):
        assert words in text
        assert text.startswith("listeners[0].listen ")


def test_whose_socket_it_is_may_be_hidden(site: Site) -> None:
    [without_lock] = site.findings(used("127.0.0.1"))
    assert " error: " in without_lock
    (site.var / "gateway.db.lock").write_text(str(os.getpid()))
    [with_lock] = site.findings(used("127.0.0.1"))
    assert " warning: " in with_lock


def test_the_lock_of_a_dead_daemon_says_nothing(site: Site) -> None:
    (site.var / "gateway.db.lock").write_text("999999999")
    assert not site.check(used("127.0.0.1", 999999999)).ok
    (site.var / "gateway.db.lock").write_text("not a number")
    assert not site.check(used("127.0.0.1", 77)).ok


def test_a_port_that_is_shared_openly_may_be_in_use(site: Site) -> None:
    site.edit("#listener", "reuse_port = true")
    assert site.findings(used("127.0.0.1", 77)) == []


# --- the files that the project ships ------------------------------------------------------------


@pytest.mark.parametrize("name", [file.name for file in sorted((ROOT / "config").glob("*.toml"))])
@pytest.mark.parametrize("with_options", [False, True])
def test_shipped_configurations(name: str, with_options: bool, site: Site) -> None:
    text = (ROOT / "config" / name).read_text(encoding="utf-8")
    if with_options:
        # What is shown commented out is right too; a production node makes no keyring.
        text = re.sub(r'^#(?=[a-z\["])(?!production)', "", text, flags=re.MULTILINE)
        text = re.sub(r"^command = .*", 'command = ["sh"]', text, flags=re.MULTILINE)
    site.file.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "config" / "wallets.csv", site.file.parent)
    report = site.check()
    assert report.ok, [str(finding) for finding in report.findings]
    unexpected = [
        str(finding)
        for finding in report.findings
        if not finding.path.endswith((".security", ".plain"))
        and not (with_options and "is in no group" in finding.problem)
    ]
    assert unexpected == []
