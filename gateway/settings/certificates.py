"""Certificates, keys and revocation lists that a configuration names: are they there, and right?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from gateway.settings.findings import Findings
from gateway.settings.lines import KeyPath

_OTHERS = 0o077
_SIGNING_KEYS = (
    rsa.RSAPublicKey,
    ec.EllipticCurvePublicKey,
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    dsa.DSAPublicKey,
)


@dataclass(frozen=True, slots=True)
class Named:
    """A file that the configuration names: under which key, and where it lies."""

    path: KeyPath
    file: Path


class CertificateChecks:
    """Looks at files of one configuration and reports into its findings."""

    def __init__(
        self, findings: Findings, *, now: datetime, expiring_days: int, production: bool
    ) -> None:
        self._findings = findings
        self._now = now
        self._expiring = timedelta(days=expiring_days)
        self._production = production

    def pair(self, certificate: Named, key: Named) -> None:
        """A certificate (its chain may follow it) and the private key that belongs to it."""
        chain = self._certificates(certificate)
        for link in chain:
            self._validity(certificate, link)
        private = self._private_key(key)
        if (
            chain
            and private is not None
            and _spki(private.public_key()) != _spki(chain[0].public_key())
        ):
            self._findings.error(
                key.path,
                f"{key.file} does not belong to the certificate {certificate.file}",
                "name the key that the certificate was issued for",
            )

    def authorities(self, ca: Named) -> list[x509.Certificate]:
        """The certificates of a CA file, after looking at each."""
        authorities = self._certificates(ca)
        for authority in authorities:
            self._validity(ca, authority)
            if not _is_authority(authority):
                self._findings.warning(
                    ca.path,
                    f"{ca.file}: {_subject(authority)} is not a CA's certificate",
                    "name the certificate of the CA that issues the others",
                )
        return authorities

    def revocations(self, crl: Named, authorities: Sequence[x509.Certificate]) -> None:
        """A CRL file: it must be one of these authorities' and should not be past its end."""
        content = self._content(crl)
        if content is None:
            return
        try:
            revocations = x509.load_pem_x509_crl(content)
            is_signed = not authorities or any(
                _signed_by(revocations, authority) for authority in authorities
            )
            next_update = revocations.next_update_utc
        except (ValueError, UnsupportedAlgorithm):
            self._findings.error(
                crl.path, f"{crl.file} is no PEM CRL", "export the CRL as PEM (BEGIN X509 CRL)"
            )
            return
        if not is_signed:
            self._findings.error(
                crl.path,
                f"{crl.file} is not signed by a CA of client_ca",
                "name the CRL of the CA that issues the clients' certificates",
            )
        if next_update is not None and next_update < self._now:
            self._findings.warning(
                crl.path,
                f"{crl.file} is stale: its next was due on {_day(next_update)}",
                "fetch the CA's current CRL",
            )

    def private_file(self, named: Named, what: str) -> None:
        """A file that nobody but its owner may read."""
        try:
            mode = named.file.stat().st_mode
        except OSError:
            return
        if mode & _OTHERS:
            report = self._findings.error if self._production else self._findings.warning
            report(
                named.path,
                f"{what} {named.file} is open to others than its owner (mode {mode & 0o777:04o})",
                f"chmod 600 {named.file}",
            )

    # --- one file -------------------------------------------------------------------------------

    def _certificates(self, named: Named) -> list[x509.Certificate]:
        content = self._content(named)
        if content is None:
            return []
        try:
            return x509.load_pem_x509_certificates(content)
        except (ValueError, UnsupportedAlgorithm):
            self._findings.error(
                named.path,
                f"{named.file} is no PEM certificate",
                "export it as PEM (BEGIN CERTIFICATE)",
            )
            return []

    def _private_key(self, named: Named) -> PrivateKeyTypes | None:
        content = self._content(named)
        if content is None:
            return None
        self.private_file(named, "the private key")
        try:
            return load_pem_private_key(content, password=None)
        except TypeError:
            problem = f"{named.file} is locked with a passphrase, which nobody would be asked for"
            remedy = "store the key without one, readable by the gateway's user alone"
        except (ValueError, UnsupportedAlgorithm):
            problem = f"{named.file} is no PEM private key"
            remedy = "export it as PEM (BEGIN PRIVATE KEY)"
        self._findings.error(named.path, problem, remedy)
        return None

    def _content(self, named: Named) -> bytes | None:
        try:
            return named.file.read_bytes()
        except FileNotFoundError:
            problem = f"{named.file} does not exist"
            remedy = (
                "correct the path, or make the file (`gateway certs` makes some for development)"
            )
        except OSError as error:
            problem = f"{named.file} cannot be read: {error.strerror}"
            remedy = "make it readable for the gateway's user"
        self._findings.error(named.path, problem, remedy)
        return None

    def _validity(self, named: Named, certificate: x509.Certificate) -> None:
        starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        subject = _subject(certificate)
        if ends < self._now:
            self._findings.error(
                named.path, f"{named.file}: {subject} expired on {_day(ends)}", "renew it"
            )
        elif starts > self._now:
            self._findings.error(
                named.path,
                f"{named.file}: {subject} is not valid before {_day(starts)}",
                "wait until then, or correct this machine's clock",
            )
        elif ends - self._now < self._expiring:
            self._findings.warning(
                named.path,
                f"{named.file}: {subject} expires on {_day(ends)},"
                f" in {(ends - self._now).days} days",
                "renew it in time",
            )


def _spki(key: PublicKeyTypes) -> bytes:
    """A public key as bytes, by which two are compared."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _signed_by(revocations: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if revocations.issuer != authority.subject:
        return False
    key = authority.public_key()
    if not isinstance(key, _SIGNING_KEYS):
        return False
    try:
        return revocations.is_signature_valid(key)
    except (InvalidSignature, TypeError, ValueError):
        return False


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _subject(certificate: x509.Certificate) -> str:
    return ascii(certificate.subject.rfc4514_string())[1:-1] or "the certificate"


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
