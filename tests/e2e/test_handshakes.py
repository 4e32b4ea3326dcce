"""Handshakes over loopback: who gets in, who does not, and what a resumed session may still do."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from gateway.keys.authority import Authority, Reason
from gateway.keys.credentials import Credential, write_credentials
from gateway.wire.revocation import PeerCertificate
from gateway.wire.tls import (
    PeerRefused,
    Refusal,
    ServerTls,
    ServerTlsFiles,
    client_context,
    handshake_reason,
    send_alert,
)

OPENSSL = shutil.which("openssl")
NEEDS_OPENSSL = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not installed")
VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
GREETING = b"you are in\n"


@dataclass
class Site:
    """An authority, a stranger's one, and a listener's files, in a folder of the test's own."""

    folder: Path
    authority: Authority
    stranger: Authority
    now: datetime
    files: ServerTlsFiles

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def client(self, name: str = "T0000001") -> Path:
        """The stem of a good client's files."""
        return self.put(name, self.authority.issue_client(name, days=30, now=self.now))

    def put(self, name: str, credential: Credential) -> Path:
        write_credentials(self.folder / "clients", [(name, credential)])
        return self.folder / "clients" / name

    def revoke(self, name: str) -> None:
        serials = [item.serial for item in self.authority.issued() if item.name == name]
        self.authority.revoke(serials, reason=Reason.KEY_COMPROMISE, now=self.now)

    def make_crl_stale(self) -> None:
        self.authority.write_crl(now=self.now - timedelta(days=3), days=1)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    now = datetime.now(UTC)
    founded = now - timedelta(days=100)  # long enough ago for certificates that have ended since
    authority = Authority.create(tmp_path / "ca", name="Test CA", days=300, now=founded)
    stranger = Authority.create(tmp_path / "stranger", name="Test CA", days=300, now=founded)
    authority.write_crl(now=now)
    own = authority.issue_server("gateway", hosts=["localhost", "127.0.0.1"], days=30, now=now)
    write_credentials(tmp_path / "ca", [("server", own)])
    files = ServerTlsFiles(
        certificate=tmp_path / "ca" / "server.crt",
        key=tmp_path / "ca" / "server.key",
        client_ca=tmp_path / "ca" / "ca.crt",
        crl=tmp_path / "ca" / "ca.crl",
    )
    return Site(tmp_path / "ca", authority, stranger, now, files)


Outcome = PeerCertificate | PeerRefused | str


@dataclass
class Listener:
    """A server that notes what came of each handshake: a certificate, a refusal, an error."""

    tls: ServerTls
    port: int = 0
    silent: bool = False  # sends no greeting
    resumed: list[bool] = field(default_factory=list)
    send: trio.MemorySendChannel[Outcome] | None = None
    receive: trio.MemoryReceiveChannel[Outcome] | None = None

    async def outcome(self) -> Outcome:
        assert self.receive is not None
        with trio.fail_after(10):
            return await self.receive.receive()

    async def serve(self, tcp: trio.SocketStream) -> None:
        assert self.send is not None
        stream = trio.SSLStream(tcp, self.tls.context(wall_ms()), server_side=True)
        try:
            await stream.do_handshake()
            outcome: Outcome = self.tls.check_peer(stream.getpeercert(binary_form=True), wall_ms())
            self.resumed.append(bool(stream.session_reused))
        except trio.BrokenResourceError as error:
            outcome = handshake_reason(error)
            await send_alert(stream)
        await self.send.send(outcome)
        if not isinstance(outcome, PeerCertificate):
            await trio.aclose_forcefully(stream)
            return
        # The greeting goes out behind the tickets of TLS 1.3: who has read it has them.
        with suppress(trio.BrokenResourceError):
            if self.silent:
                await stream.receive_some(100)
            else:
                await stream.send_all(GREETING)
            await stream.aclose()


@asynccontextmanager
async def listening(tls: ServerTls) -> AsyncIterator[Listener]:
    listener = Listener(tls)
    listener.send, listener.receive = trio.open_memory_channel[Outcome](100)
    async with trio.open_nursery() as nursery:
        (bound,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener.port = bound.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, listener.serve, [bound])
        yield listener
        nursery.cancel_scope.cancel()


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def context_of(site: Site, version: ssl.TLSVersion, stem: Path | None) -> ssl.SSLContext:
    certificate = None if stem is None else stem.with_name(stem.name + ".crt")
    key = None if stem is None else stem.with_name(stem.name + ".key")
    context = client_context(site.ca, certificate=certificate, key=key)
    context.minimum_version = context.maximum_version = version
    return context


def connect(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None = None
) -> tuple[bytes, ssl.SSLSession | None]:
    """Connect, read the greeting; what was read (b"" if refused) and the session."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as tcp,
            context.wrap_socket(tcp, server_hostname="localhost", session=session) as tls,
        ):
            return tls.recv(100), tls.session
    except (ssl.SSLError, ConnectionError):
        return b"", None


async def attempt(
    listener: Listener, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[Outcome, bytes, ssl.SSLSession | None]:
    greeting, new_session = await trio.to_thread.run_sync(connect, context, listener.port, session)
    return await listener.outcome(), greeting, new_session


# --- who gets in ---------------------------------------------------------------------------------


@VERSIONS
async def test_a_good_certificate_gets_in(site: Site, version: ssl.TLSVersion) -> None:
    stem = site.client()
    async with listening(ServerTls(site.files, session_tickets=2)) as listener:
        outcome, greeting, _ = await attempt(listener, context_of(site, version, stem))
    assert isinstance(outcome, PeerCertificate)
    assert outcome.common_name == "T0000001"
    assert outcome.sha256 == site.authority.issued()[-1].sha256
    assert greeting == GREETING


def no_certificate(site: Site) -> None:
    return None


def of_a_stranger(site: Site) -> Path:
    # The stranger's authority bears the same name: only its key tells them apart.
    return site.put("T0000001", site.stranger.issue_client("T0000001", days=30, now=site.now))


def expired(site: Site) -> Path:
    then = site.now - timedelta(days=20)
    return site.put("T0000001", site.authority.issue_client("T0000001", days=10, now=then))


def not_yet_valid(site: Site) -> Path:
    then = site.now + timedelta(days=2)
    return site.put("T0000001", site.authority.issue_client("T0000001", days=10, now=then))


def revoked(site: Site) -> Path:
    stem = site.client()
    site.revoke("T0000001")
    return stem


def for_servers(site: Site) -> Path:
    return site.put(
        "T0000001", site.authority.issue_server("T0000001", hosts=["x"], days=9, now=site.now)
    )


BAD = pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_certificate, "peer did not return a certificate"),
        (of_a_stranger, "unable to get local issuer certificate"),
        (expired, "certificate has expired"),
        (not_yet_valid, "certificate is not yet valid"),
        (revoked, "certificate revoked"),
        (for_servers, "unsuitable certificate purpose"),
    ],
)
MakeBad = Callable[[Site], Path | None]


@VERSIONS
@BAD
async def test_no_other_certificate_gets_further_than_the_handshake(
    site: Site, version: ssl.TLSVersion, make: MakeBad, reason: str
) -> None:
    stem = make(site)
    async with listening(ServerTls(site.files, session_tickets=2)) as listener:
        outcome, greeting, _ = await attempt(listener, context_of(site, version, stem))
    assert outcome == reason
    assert greeting == b""


async def test_older_versions_of_tls_are_refused(site: Site) -> None:
    context = context_of(site, ssl.TLSVersion.TLSv1_2, site.client())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with listening(ServerTls(site.files, session_tickets=2)) as listener:
        outcome, _, _ = await attempt(listener, context)
    assert outcome == "unsupported protocol"


# --- revocation lists that change, or fail to --------------------------------------------------


@VERSIONS
async def test_a_reload_takes_up_a_revocation(site: Site, version: ssl.TLSVersion) -> None:
    context = context_of(site, version, site.client())
    tls = ServerTls(site.files, session_tickets=2)
    async with listening(tls) as listener:
        before, _, _ = await attempt(listener, context)
        site.revoke("T0000001")
        assert tls.reload()
        after, _, _ = await attempt(listener, context)
    assert isinstance(before, PeerCertificate)
    assert after == "certificate revoked"
    assert tls.refusal(before, wall_ms()) is Refusal.REVOKED  # its open connection is cut by this


@VERSIONS
async def test_a_stale_list_shuts_out_the_revoked_alone(
    site: Site, version: ssl.TLSVersion
) -> None:
    good, bad = site.client("T0000001"), site.client("T0000002")
    site.revoke("T0000002")
    site.make_crl_stale()
    tls = ServerTls(site.files, session_tickets=2)
    assert tls.crl_stale(wall_ms())
    async with listening(tls) as listener:
        let_in, greeting, _ = await attempt(listener, context_of(site, version, good))
        cut_off, nothing, _ = await attempt(listener, context_of(site, version, bad))
    assert isinstance(let_in, PeerCertificate)
    assert greeting == GREETING
    assert isinstance(cut_off, PeerRefused)
    assert cut_off.reason is Refusal.REVOKED
    assert nothing == b""


# --- resumption --------------------------------------------------------------------------------


@VERSIONS
async def test_a_session_resumes_and_still_shows_its_certificate(
    site: Site, version: ssl.TLSVersion
) -> None:
    context = context_of(site, version, site.client())
    async with listening(ServerTls(site.files, session_tickets=2)) as listener:
        first, _, session = await attempt(listener, context)
        second, greeting, _ = await attempt(listener, context, session)
    assert listener.resumed == [False, True]
    assert isinstance(second, PeerCertificate)
    assert second == first
    assert greeting == GREETING


@VERSIONS
async def test_a_session_does_not_resume_over_a_reload_that_revoked_it(
    site: Site, version: ssl.TLSVersion
) -> None:
    context = context_of(site, version, site.client())
    tls = ServerTls(site.files, session_tickets=2)
    async with listening(tls) as listener:
        _, _, session = await attempt(listener, context)
        site.revoke("T0000001")
        tls.reload()
        outcome, greeting, _ = await attempt(listener, context, session)
    assert outcome == "certificate revoked"  # a full handshake: the new context knows no ticket
    assert greeting == b""
    assert listener.resumed == [False]


@VERSIONS
async def test_a_reload_of_changed_files_ends_sessions_and_of_unchanged_files_keeps_them(
    site: Site, version: ssl.TLSVersion
) -> None:
    context = context_of(site, version, site.client())
    tls = ServerTls(site.files, session_tickets=2)
    async with listening(tls) as listener:
        _, _, session = await attempt(listener, context)
        assert not tls.reload()
        await attempt(listener, context, session)
        site.authority.write_crl(now=site.now)
        assert tls.reload()
        last, _, _ = await attempt(listener, context, session)
    assert listener.resumed == [False, True, False]
    assert isinstance(last, PeerCertificate)


@VERSIONS
async def test_a_resumed_session_is_judged_again(site: Site, version: ssl.TLSVersion) -> None:
    """The same context, as when a list was replaced in place: OpenSSL itself lets it resume."""
    context = context_of(site, version, site.client())
    tls = ServerTls(site.files, session_tickets=2)
    async with listening(tls) as listener:
        _, _, session = await attempt(listener, context)
        site.revoke("T0000001")
        renewed = ServerTls(site.files, session_tickets=2)
        tls.check_peer = renewed.check_peer  # type: ignore[method-assign]
        outcome, greeting, _ = await attempt(listener, context, session)
    assert listener.resumed == [False, True]
    assert isinstance(outcome, PeerRefused)
    assert outcome.reason is Refusal.REVOKED
    assert greeting == b""


async def test_no_tickets_means_no_resumption_under_tls_1_3(site: Site) -> None:
    context = context_of(site, ssl.TLSVersion.TLSv1_3, site.client())
    async with listening(ServerTls(site.files, session_tickets=0)) as listener:
        _, _, session = await attempt(listener, context)
        await attempt(listener, context, session)
    assert listener.resumed == [False, False]


# --- the same with openssl s_client ------------------------------------------------------------

OPENSSL_VERSIONS = pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])


async def s_client(
    site: Site, listener: Listener, stem: Path | None, *options: str, stdin: bytes | int = b""
) -> tuple[Outcome, subprocess.CompletedProcess[bytes]]:
    own = [] if stem is None else ["-cert", f"{stem}.crt", "-key", f"{stem}.key"]
    with trio.fail_after(20):
        done = await trio.run_process(
            [
                *("openssl", "s_client", "-connect", f"127.0.0.1:{listener.port}"),
                *("-CAfile", str(site.ca), *own, *options),
            ],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return await listener.outcome(), done


@NEEDS_OPENSSL
@OPENSSL_VERSIONS
@BAD
async def test_openssl_with_another_certificate_is_refused(
    site: Site, version: str, make: MakeBad, reason: str
) -> None:
    stem = make(site)
    async with listening(ServerTls(site.files, session_tickets=2)) as listener:
        outcome, done = await s_client(site, listener, stem, version, "-ign_eof")
    assert outcome == reason  # the exit code says nothing: under TLS 1.3 it may be 0
    assert GREETING not in done.stdout
    assert b"SSL alert number" in done.stderr


@NEEDS_OPENSSL
@OPENSSL_VERSIONS
async def test_openssl_resumes_until_its_certificate_is_revoked(site: Site, version: str) -> None:
    stem = site.client()
    kept = str(site.folder / "session.pem")
    tls = ServerTls(site.files, session_tickets=2)
    async with listening(tls) as listener:
        options = (version, "-ign_eof")
        await s_client(site, listener, stem, *options, "-sess_out", kept)
        second, done = await s_client(site, listener, stem, *options, "-sess_in", kept)
        site.revoke("T0000001")
        tls.reload()
        third, refused = await s_client(site, listener, stem, *options, "-sess_in", kept)
    assert listener.resumed == [False, True]
    assert isinstance(second, PeerCertificate)
    assert GREETING in done.stdout
    assert third == "certificate revoked"
    assert GREETING not in refused.stdout


@NEEDS_OPENSSL
async def test_renegotiation_is_refused(site: Site) -> None:
    stem = site.client()
    async with listening(ServerTls(site.files, session_tickets=2)) as listener:
        listener.silent = True
        reader, writer = os.pipe()
        try:
            os.write(writer, b"R\n")
            # Open until it has its answer: at the end of its input it would wait for none.
            outcome, done = await s_client(site, listener, stem, "-tls1_2", stdin=reader)
        finally:
            os.close(reader)
            os.close(writer)
    assert isinstance(outcome, PeerCertificate)
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stderr
