from __future__ import annotations

import shutil
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.keys.authority import Authority, Reason
from gateway.keys.credentials import read_credential, write_credentials
from gateway.wire.revocation import (
    CertificateUnusable,
    PeerCertificate,
    RevocationList,
    peer_certificate,
)
from gateway.wire.tls import (
    PeerRefused,
    Refusal,
    ServerTls,
    ServerTlsFiles,
    client_context,
    handshake_reason,
    send_alert,
    server_context,
)

NOW = datetime(2026, 11, 21, 20, 33, 54, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
DAY = timedelta(days=1)
DAY_MS = 86_400_000
CHECKED = ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority.create(tmp_path / "ca", name="Test CA", days=400, now=NOW)
    own = authority.issue_server("gateway", hosts=["localhost"], days=90, now=NOW)
    write_credentials(tmp_path / "ca", [("server", own)])
    return authority


@pytest.fixture
def files(authority: Authority) -> ServerTlsFiles:
    folder = authority.folder
    return ServerTlsFiles(
        certificate=folder / "server.crt",
        key=folder / "server.key",
        client_ca=folder / "ca.crt",
        crl=folder / "ca.crl",
    )


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def client_der(authority: Authority, name: str = "T0000001") -> bytes:
    return der_of(authority.issue_client(name, days=30, now=NOW).certificate)


def server_tls(files: ServerTlsFiles) -> ServerTls:
    return ServerTls(files, session_tickets=2)


# --- contexts ----------------------------------------------------------------------------------


def test_a_listener_takes_only_what_is_safe(files: ServerTlsFiles) -> None:
    context = server_context(files, session_tickets=3)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.num_tickets == 3
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert all(name.startswith(("TLS_", "ECDHE-")) for name in names)
    assert not any("CBC" in name or name.endswith("SHA") for name in names)


def test_a_link_checks_certificate_and_name(files: ServerTlsFiles) -> None:
    context = client_context(files.client_ca, certificate=files.certificate, key=files.key)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def put_nothing(path: Path) -> None:
    path.unlink()


def put_rubbish(path: Path) -> None:
    path.write_text("rubbish")


@pytest.mark.parametrize("damage", [put_nothing, put_rubbish])
@pytest.mark.parametrize("name", ["certificate", "key", "client_ca", "crl"])
def test_a_file_that_cannot_be_used_is_named(
    files: ServerTlsFiles, name: str, damage: object
) -> None:
    path: Path = getattr(files, name)
    assert callable(damage)
    damage(path)
    with pytest.raises(CertificateUnusable, match=f"^{path}: "):
        server_tls(files)


def test_a_key_of_another_certificate_is_named(authority: Authority, files: ServerTlsFiles) -> None:
    with pytest.raises(CertificateUnusable, match=r"ca\.key: does not belong to .*server\.crt"):
        server_tls(replace(files, key=authority.folder / "ca.key"))


def test_an_encrypted_key_is_refused_without_asking(
    authority: Authority, files: ServerTlsFiles
) -> None:
    key = read_credential(authority.folder, "server").key
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateUnusable, match=r"server\.key: is encrypted"):
        server_tls(files)


# --- peers -------------------------------------------------------------------------------------


def test_a_certificate_is_read(authority: Authority) -> None:
    der = client_der(authority)
    peer = peer_certificate(der)
    assert peer.common_name == "T0000001"
    assert peer.serial == authority.issued()[-1].serial
    assert peer.sha256 == authority.issued()[-1].sha256
    assert peer.issuer == authority.certificate.subject.public_bytes()
    assert peer.not_after_ms == NOW_MS + 30 * DAY_MS


@pytest.mark.parametrize("names", [[], ["T0000001", "T0000002"]])
def test_a_certificate_without_one_name_has_none(names: list[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, hashes.SHA256())
    )
    assert peer_certificate(der_of(made)).common_name == ""


def test_a_peer_is_judged_by_time_and_list(authority: Authority, files: ServerTlsFiles) -> None:
    der = client_der(authority)
    tls = server_tls(files)

    def reason(now_ms: int) -> Refusal | None:
        judged = tls.check_peer(der, now_ms)
        return judged.reason if isinstance(judged, PeerRefused) else None

    assert reason(NOW_MS) is None
    assert reason(NOW_MS - DAY_MS) is Refusal.NOT_YET_VALID
    assert reason(NOW_MS + 31 * DAY_MS) is Refusal.EXPIRED
    authority.revoke([authority.issued()[-1].serial], reason=Reason.UNSPECIFIED, now=NOW)
    assert reason(NOW_MS) is None
    assert tls.reload()
    assert reason(NOW_MS) is Refusal.REVOKED


@pytest.mark.parametrize(
    ("der", "reason"),
    [(None, Refusal.MISSING), (b"", Refusal.MISSING), (b"0\x03abc", Refusal.UNREADABLE)],
)
def test_a_peer_without_a_certificate_is_refused(
    files: ServerTlsFiles, der: bytes | None, reason: Refusal
) -> None:
    assert server_tls(files).check_peer(der, NOW_MS) == PeerRefused(reason)


def test_a_peer_of_an_authority_without_a_list_is_refused(
    files: ServerTlsFiles, tmp_path: Path
) -> None:
    other = Authority.create(tmp_path / "other", name="Other CA", days=400, now=NOW)
    both = tmp_path / "both.crt"
    both.write_bytes(files.client_ca.read_bytes() + (tmp_path / "other" / "ca.crt").read_bytes())
    uncovered = server_tls(replace(files, client_ca=both)).check_peer(client_der(other), NOW_MS)
    assert isinstance(uncovered, PeerRefused)
    assert uncovered.reason is Refusal.NOT_COVERED
    assert uncovered.certificate is not None
    assert uncovered.certificate.common_name == "T0000001"
    unlisted = server_tls(replace(files, client_ca=both, crl=None))
    assert isinstance(unlisted.check_peer(client_der(other), NOW_MS), PeerCertificate)


# --- revocation lists --------------------------------------------------------------------------


def test_a_file_may_hold_the_lists_of_several_authorities(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority.create(tmp_path / "other", name="Other CA", days=400, now=NOW)
    for each in (authority, other):
        client_der(each)
        each.revoke([each.issued()[-1].serial], reason=Reason.UNSPECIFIED, now=NOW)
    other.write_crl(now=NOW, days=3)
    both = tmp_path / "both.crl"
    both.write_bytes(b"".join((each.folder / "ca.crl").read_bytes() for each in (authority, other)))
    revoked = RevocationList.load(both, [authority.certificate, other.certificate])
    assert len(revoked) == 2
    for each in (authority, other):
        issuer = each.certificate.subject.public_bytes()
        assert revoked.is_revoked(each.issued()[-1].serial, issuer=issuer)
    # A serial number means something only together with its issuer.
    assert not revoked.is_revoked(
        authority.issued()[-1].serial, issuer=other.certificate.subject.public_bytes()
    )
    assert revoked.next_update_ms == NOW_MS + 3 * DAY_MS


def test_a_list_signed_by_another_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    forger = Authority.create(tmp_path / "forger", name="Test CA", days=400, now=NOW)
    with pytest.raises(CertificateUnusable, match=r"the list of CN=Test CA is not signed by"):
        RevocationList.load(forger.folder / "ca.crl", [authority.certificate])


def test_a_list_leaves_the_handshake_before_it_ends(
    authority: Authority, files: ServerTlsFiles
) -> None:
    authority.write_crl(now=NOW, days=1)
    tls = server_tls(files)
    end_ms = NOW_MS + DAY_MS
    moments_ms = [NOW_MS - 1, NOW_MS, end_ms - 61_000, end_ms - 59_000, end_ms, NOW_MS]
    checked = [bool(tls.context(now_ms).verify_flags & CHECKED) for now_ms in moments_ms]
    assert checked == [False, True, True, False, False, True]
    assert [tls.crl_stale(now_ms) for now_ms in (end_ms - 1, end_ms)] == [False, True]


def test_without_a_list_nothing_is_stale(files: ServerTlsFiles) -> None:
    tls = server_tls(replace(files, crl=None))
    assert not tls.crl_stale(NOW_MS + 10_000 * DAY_MS)
    assert not tls.context(NOW_MS).verify_flags & CHECKED
    assert tls.revocations is None


# --- reload ------------------------------------------------------------------------------------


def test_a_reload_changes_the_context_only_with_the_files(
    authority: Authority, files: ServerTlsFiles
) -> None:
    tls = server_tls(files)
    before = tls.context(NOW_MS)
    assert not tls.reload()
    assert tls.context(NOW_MS) is before
    renewed = authority.issue_server("renewed", hosts=["localhost"], days=200, now=NOW)
    write_credentials(authority.folder, [("server", renewed)], overwrite=True)
    assert tls.reload()
    assert tls.context(NOW_MS) is not before
    assert tls.certificate.common_name == "renewed"


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca", "crl"])
def test_a_reload_that_fails_changes_nothing(
    files: ServerTlsFiles, tmp_path: Path, name: str
) -> None:
    tls = server_tls(files)
    before = (tls.context(NOW_MS), tls.revocations, tls.certificate)
    path: Path = getattr(files, name)
    kept = tmp_path / "kept"
    shutil.copy(path, kept)
    path.write_text("half a fi")
    with pytest.raises(CertificateUnusable):
        tls.reload()
    assert (tls.context(NOW_MS), tls.revocations, tls.certificate) == before
    shutil.copy(kept, path)
    assert not tls.reload()


# --- what is said of a failure -----------------------------------------------------------------


async def test_a_failed_handshake_is_explained_to_both_sides(files: ServerTlsFiles) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server = trio.SSLStream(ours, server_tls(files).context(NOW_MS), server_side=True)
    await theirs.send_all(b"\x16\x03\x01\x00\x05hello")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await server.do_handshake()
    reason = handshake_reason(caught.value)
    assert reason
    assert "hello" not in reason
    await send_alert(server)
    alert = await theirs.receive_some(100)
    assert alert[0] == 21  # RFC 8446, 5.1: the record type of alerts


def chained(cause: Exception) -> Exception:
    error = trio.BrokenResourceError()
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (trio.BrokenResourceError(), "connection lost"),
        (chained(ConnectionResetError()), "connection lost"),
        (chained(ssl.SSLEOFError()), "closed by the peer"),
        (chained(ssl.SSLError()), "handshake failed"),
    ],
)
def test_a_lost_connection_is_not_called_a_bad_certificate(error: Exception, reason: str) -> None:
    assert handshake_reason(error) == reason
