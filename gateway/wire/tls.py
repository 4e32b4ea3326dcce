"""TLS: the contexts of listeners and links, and what is checked of a peer after each handshake."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gateway.wire.revocation import (
    CertificateUnusable,
    PeerCertificate,
    RevocationList,
    peer_certificate,
    read,
    read_certificates,
)
from gateway.wire.stream import TcpStream
from gateway.wire.turns import InTurn

StreamT = TypeVar("StreamT", bound=trio.abc.Stream)

# Of TLS 1.2: forward secrecy and authenticated encryption only. Those of 1.3 are all of this kind.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTlsFiles:
    """The PEM files of a listener."""

    certificate: Path  # its own, followed by intermediates where there are any
    key: Path
    client_ca: Path  # the authorities whose clients are let in
    crl: Path | None = None  # a list of each of them; None: nothing is ever revoked


class Refusal(StrEnum):
    """Why a peer is turned away after a handshake that OpenSSL was content with."""

    MISSING = "no certificate"
    UNREADABLE = "certificate not readable"
    NOT_YET_VALID = "certificate not yet valid"
    EXPIRED = "certificate has expired"
    REVOKED = "certificate revoked"
    NOT_COVERED = "no revocation list of its issuer"


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The peer must be cut off; `certificate` is None where none could be read."""

    reason: Refusal
    certificate: PeerCertificate | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What one reading of the files came to; replaced whole."""

    context: ssl.SSLContext
    revocations: RevocationList | None
    certificate: PeerCertificate
    authorities: tuple[PeerCertificate, ...]
    fingerprint: bytes


class ServerTls:
    """The TLS of one listener: its context, its revocation list, and how both are replaced.

    Where revocation is checked, and why twice:

    - In the handshake, while the list is fresh. The peer is then told `certificate revoked` by
      an alert (`send_alert`). (Under TLS 1.3 a client ends its handshake before the server has
      seen its certificate, and may believe itself connected until it reads the alert; only the
      server's own outcome counts.)
    - After every handshake, by `check_peer`, which the listener must call. OpenSSL skips all
      checks of the certificate when a session is resumed, and a ticket holds the certificate as
      it was when the ticket was made: its end and its revocation have to be looked at again.
      So is a handshake that began just before the list was replaced.

    OpenSSL refuses every client once a list is past its `nextUpdate`, or not yet valid. Here a
    stale list raises an alarm (`crl_stale`) and goes on being used: from shortly before that
    moment `context` checks it no longer in the handshake and `check_peer` alone keeps the
    revoked out. A client of an authority that the file has no list of is refused in both ways.

    `reload` builds a new context. Its ticket keys are new, so that no session of the former one
    resumes: each terminal's next handshake is a full one against the new list. Files that did
    not change keep the context, and with it the sessions.
    """

    def __init__(self, files: ServerTlsFiles, *, session_tickets: int) -> None:
        """Read the files; raises CertificateUnusable."""
        self._files = files
        self._session_tickets = session_tickets
        self._loaded = _load(files, session_tickets=session_tickets)
        # Told of each peer that has proved itself.
        self.seen: Callable[[PeerCertificate], None] = lambda _: None

    @property
    def certificate(self) -> PeerCertificate:
        """The listener's own certificate, for the alarm before it ends."""
        return self._loaded.certificate

    @property
    def authorities(self) -> tuple[PeerCertificate, ...]:
        """The certificates of the authorities whose clients are let in."""
        return self._loaded.authorities

    @property
    def revocations(self) -> RevocationList | None:
        """The list in force; None where the listener has none."""
        return self._loaded.revocations

    def context(self, now_ms: int) -> ssl.SSLContext:
        """The context for a handshake that begins now."""
        loaded = self._loaded
        if loaded.revocations is not None:
            context = loaded.context
            usable = loaded.revocations.usable_in_handshake(now_ms)
            if usable != bool(context.verify_flags & ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF):
                context.verify_flags ^= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        return loaded.context

    def reload(self) -> bool:
        """Read the files again and, if they changed, use them from the next handshake on.

        Returns whether they had changed. Raises CertificateUnusable where they cannot be used;
        the former ones stay in force then. Reads files: call it in a worker thread if they may
        be slow to come.
        """
        if _fingerprint(self._files) == self._loaded.fingerprint:
            return False
        self._loaded = _load(self._files, session_tickets=self._session_tickets)
        return True

    def crl_stale(self, now_ms: int) -> bool:
        """Whether there is a revocation list and it should have been replaced by now."""
        revocations = self._loaded.revocations
        return revocations is not None and revocations.stale(now_ms)

    def check_peer(self, der: bytes | None, now_ms: int) -> PeerCertificate | PeerRefused:
        """Judge the certificate of a peer after its handshake, resumed or not.

        `der` is what `getpeercert(binary_form=True)` returned.
        """
        if not der:
            return PeerRefused(Refusal.MISSING)
        try:
            certificate = peer_certificate(der)
        except ValueError:
            return PeerRefused(Refusal.UNREADABLE)
        reason = self.refusal(certificate, now_ms)
        if reason is not None:
            return PeerRefused(reason, certificate)
        self.seen(certificate)
        return certificate

    def refusal(self, certificate: PeerCertificate, now_ms: int) -> Refusal | None:
        """Why a certificate read before is not good, or no longer; None where it is.

        After a reload, open connections are judged by this.
        """
        if now_ms < certificate.not_before_ms:
            return Refusal.NOT_YET_VALID
        if now_ms > certificate.not_after_ms:
            return Refusal.EXPIRED
        revocations = self._loaded.revocations
        if revocations is None:
            return None
        if revocations.is_revoked(certificate.serial, issuer=certificate.issuer):
            return Refusal.REVOKED
        return None if revocations.covers(certificate.issuer) else Refusal.NOT_COVERED


def server_context(files: ServerTlsFiles, *, session_tickets: int) -> ssl.SSLContext:
    """A context for mutual TLS 1.2 and newer; a revocation list in `files` is loaded, not checked.

    Sessions resume by tickets under both versions; `session_tickets` are handed out for each
    handshake of TLS 1.3, 0 switching them off there. Raises CertificateUnusable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = session_tickets
    context.verify_mode = ssl.CERT_REQUIRED
    _load_own(context, files.certificate, files.key)
    _load_trusted(context, files.client_ca)
    if files.crl is not None:
        _load_trusted(context, files.crl)
    return context


def client_context(
    ca: Path, *, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """A context for links to an upstream, whose certificate must be of `ca` and bear its name.

    The name is given with each connection (`server_hostname`). Raises CertificateUnusable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    _harden(context)
    _load_trusted(context, ca)
    if certificate is not None:
        _load_own(context, certificate, key or certificate)
    return context


def calls_context(ca: Path, *, certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for calls from an upstream, which must show a certificate of `ca`.

    Whose it is, is for the caller to see, by `names_of`. Raises CertificateUnusable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.verify_mode = ssl.CERT_REQUIRED
    _load_trusted(context, ca)
    _load_own(context, certificate, key)
    return context


def names_of(certificate: bytes) -> frozenset[str]:
    """The DNS names in a certificate (DER) and, where there are none, its subject common name."""
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return frozenset(str(one.value) for one in common)
    return frozenset(names.get_values_for_type(x509.DNSName))


def handshake_reason(error: BaseException) -> str:
    """A handshake's failure in a few stable words, without anything the peer wrote.

    Takes what ssl raised, or what trio raised because of it.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__
    if cause is None:
        return "connection lost"
    if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_message:
        return cause.verify_message
    if isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "closed by the peer"
    # Absent where the error does not come from OpenSSL's own list.
    reason: str = getattr(cause, "reason", None) or "handshake failed"
    return reason.lower().replace("_", " ")


async def shake_hands(stream: trio.SSLStream[TcpStream]) -> None:
    """Do a stream's handshake, each step in its turn where the connection has turns.

    Raises what `do_handshake` raises.
    """
    tcp = stream.transport_stream
    if tcp.turns is None:
        await stream.do_handshake()
        return
    in_turn = InTurn(tcp, tcp.turns)
    stream.transport_stream = in_turn  # type: ignore[assignment] # all that it asks for is there
    try:
        await stream.do_handshake()
    finally:
        # Messages are cheap, and wait for nobody.
        in_turn.end()
        stream.transport_stream = tcp


def let_go(stream: trio.abc.Stream) -> None:
    """Have a stream that is closed give back its memory: OpenSSL's 35 KiB of it, under TLS.

    trio's stream refers to itself, and whatever does that waits for Python's collector, which
    looks at what is as old as a terminal's connection next to never. Without this, each time that
    thousands of lines are lost, as much memory as they had would be lost with them.
    """
    if isinstance(stream, trio.SSLStream):
        vars(stream).clear()


async def send_alert(stream: trio.SSLStream[StreamT]) -> None:
    """After a failed handshake, tell the peer why; trio keeps OpenSSL's alert and never sends it.

    A terminal's vendor sees `certificate revoked` or `certificate expired` then, instead of a
    connection that ends. Raises what the transport's `send_all` raises.
    """
    # Not in trio's public interface; where it is gone, the peer is told nothing, as without us.
    waiting: ssl.MemoryBIO | None = getattr(stream, "_outgoing", None)
    if waiting is not None and waiting.pending:
        await stream.transport_stream.send_all(waiting.read())


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _require_unencrypted(key)
    read_certificates(certificate)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateUnusable(f"{key}: does not belong to {certificate}") from error
        raise CertificateUnusable(
            f"{certificate}, {key}: not usable together: {error.reason or error}"
        ) from error


def _require_unencrypted(key: Path) -> None:
    """OpenSSL would ask for a passphrase at the terminal, and wait."""
    try:
        serialization.load_pem_private_key(read(key), password=None)
    except TypeError as error:
        raise CertificateUnusable(
            f"{key}: is encrypted; the gateway needs it without a passphrase"
        ) from error
    except ValueError as error:
        raise CertificateUnusable(f"{key}: no readable PEM private key in it") from error


def _load_trusted(context: ssl.SSLContext, path: Path) -> None:
    read(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise CertificateUnusable(
            f"{path}: not readable as PEM: {error.reason or error}"
        ) from error


def _load(files: ServerTlsFiles, *, session_tickets: int) -> _Loaded:
    # Taken first: what changes while the files are read makes the next reload read again.
    fingerprint = _fingerprint(files)
    context = server_context(files, session_tickets=session_tickets)
    issuers = read_certificates(files.client_ca)
    own = read_certificates(files.certificate)[0]
    revocations = None if files.crl is None else RevocationList.load(files.crl, issuers)
    return _Loaded(
        context,
        revocations,
        peer_certificate(own.public_bytes(serialization.Encoding.DER)),
        tuple(peer_certificate(one.public_bytes(serialization.Encoding.DER)) for one in issuers),
        fingerprint,
    )


def _fingerprint(files: ServerTlsFiles) -> bytes:
    digest = hashlib.sha256()
    for path in (files.certificate, files.key, files.client_ca, files.crl):
        if path is not None:
            digest.update(hashlib.sha256(read(path)).digest())
    return digest.digest()
