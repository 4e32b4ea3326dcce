"""Revocation: who a peer's certificate says it is, and the parsed lists of those taken back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from gateway.errors import OperatorError

# OpenSSL compares with the clock during the handshake, we do before it: a list counts as fresh
# only if it will still be when the longest handshake ends.
_HANDSHAKE_MARGIN_MS = 60_000


class CertificateUnusable(OperatorError):
    """A certificate, key or revocation list cannot be used; the text names file and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """What the gateway needs of a certificate."""

    common_name: str  # "" where the subject has none, or several
    issuer: bytes  # DER of the issuer's name
    serial: int
    sha256: str  # hex of the DER's SHA-256
    not_before_ms: int
    not_after_ms: int


def peer_certificate(der: bytes) -> PeerCertificate:
    """Read a certificate; raises ValueError where it cannot be read."""
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = names[0].value if len(names) == 1 else ""
    return PeerCertificate(
        common_name=name if isinstance(name, str) else "",
        issuer=certificate.issuer.public_bytes(),
        serial=certificate.serial_number,
        sha256=hashlib.sha256(der).hexdigest(),
        not_before_ms=_ms(certificate.not_valid_before_utc),
        not_after_ms=_ms(certificate.not_valid_after_utc),
    )


class RevocationList:
    """The serial numbers that each issuer took back, as one file of PEM lists says."""

    def __init__(
        self,
        revoked: dict[bytes, frozenset[int]],
        *,
        last_update_ms: int,
        next_update_ms: int | None,
    ) -> None:
        self._revoked = revoked
        self.last_update_ms = last_update_ms  # of the youngest list in the file
        self.next_update_ms = next_update_ms  # of the one that ends first; None: none ends

    @classmethod
    def load(cls, path: Path, issuers: Sequence[x509.Certificate]) -> RevocationList:
        """Read the lists in a file, each signed by one of `issuers`.

        Raises CertificateUnusable where the file holds none, or one that is not signed so.
        """
        revoked: dict[bytes, frozenset[int]] = {}
        last_updates_ms: list[int] = []
        next_updates_ms: list[int] = []
        for crl in _read_lists(path):
            _check_signature(path, crl, issuers)
            issuer = crl.issuer.public_bytes()
            serials = frozenset(entry.serial_number for entry in crl)
            revoked[issuer] = revoked.get(issuer, frozenset()) | serials
            last_updates_ms.append(_ms(crl.last_update_utc))
            if crl.next_update_utc is not None:
                next_updates_ms.append(_ms(crl.next_update_utc))
        return cls(
            revoked,
            last_update_ms=max(last_updates_ms),
            next_update_ms=min(next_updates_ms, default=None),
        )

    def covers(self, issuer: bytes) -> bool:
        """Whether there is a list of this issuer (DER of its name)."""
        return issuer in self._revoked

    def is_revoked(self, serial: int, *, issuer: bytes) -> bool:
        """Whether the issuer took this certificate back."""
        return serial in self._revoked.get(issuer, ())

    def stale(self, now_ms: int) -> bool:
        """Whether a list should have been replaced by now; it goes on being used."""
        return self.next_update_ms is not None and now_ms >= self.next_update_ms

    def usable_in_handshake(self, now_ms: int) -> bool:
        """Whether OpenSSL would take the lists; with others it refuses every certificate."""
        return self.last_update_ms <= now_ms and not self.stale(now_ms + _HANDSHAKE_MARGIN_MS)

    def __len__(self) -> int:
        return sum(len(serials) for serials in self._revoked.values())


_CRL_BEGIN = b"-----BEGIN X509 CRL-----"


def _read_lists(path: Path) -> list[x509.CertificateRevocationList]:
    blocks = read(path).split(_CRL_BEGIN)[1:]
    if not blocks:
        raise CertificateUnusable(f"{path}: no PEM revocation list in it")
    try:
        return [x509.load_pem_x509_crl(_CRL_BEGIN + block) for block in blocks]
    except ValueError as error:
        raise CertificateUnusable(f"{path}: not readable as a revocation list") from error


def _check_signature(
    path: Path, crl: x509.CertificateRevocationList, issuers: Sequence[x509.Certificate]
) -> None:
    for issuer in issuers:
        if issuer.subject != crl.issuer:
            continue
        try:
            # Two authorities may bear one name (a renewed key): any of them will do.
            if crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
                return
        except (TypeError, UnsupportedAlgorithm):
            continue
    raise CertificateUnusable(
        f"{path}: the list of {crl.issuer.rfc4514_string()} is not signed by an authority that "
        "this listener trusts; `gateway certs crl` signs one"
    )


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates in a PEM file; raises CertificateUnusable where there is none."""
    try:
        return x509.load_pem_x509_certificates(read(path))
    except ValueError as error:
        raise CertificateUnusable(f"{path}: no readable PEM certificate in it") from error


def read(path: Path) -> bytes:
    """A file's content; raises CertificateUnusable where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnusable(f"{path}: {error.strerror}") from error


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
