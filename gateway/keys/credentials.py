"""Credentials: certificates and their private keys, made, written and read."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from gateway.errors import OperatorError

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
# Clocks of terminals are not exact: what is issued now is valid a little earlier already.
BACKDATED = timedelta(hours=1)

_SYNC_ALL_FROM = 8  # so many files are cheaper to synchronise together than one by one


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_RSA_BITS_MIN, _RSA_BITS_MAX = 2_048, 8_192
_REQUEST_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its private key; its repr shows neither."""

    certificate: x509.Certificate
    key: PrivateKey

    def __repr__(self) -> str:
        return f"<Credential serial={self.certificate.serial_number:x}>"


@dataclass(frozen=True, slots=True)
class NewFile:
    """What a file is to hold, and its mode."""

    path: Path
    content: bytes
    mode: int = 0o644


# --- making them -------------------------------------------------------------------------------


def make_authority(common_name: str, *, days: int, now: datetime) -> Credential:
    """A self-signed certificate that may sign leaves and revocation lists (RFC 5280, 4.2.1).

    Raises OperatorError where the name cannot be in a certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name)
    builder = (
        _builder(subject, key.public_key(), start=now - BACKDATED, end=now + timedelta(days=days))
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    return Credential(builder.sign(key, hashes.SHA256()), key)


def make_leaf(
    issuer: Credential,
    common_name: str,
    *,
    purpose: x509.ObjectIdentifier,
    names: x509.SubjectAlternativeName | None,
    start: datetime,
    end: datetime,
) -> Credential:
    """A certificate for one purpose, signed by an authority, with a new key on P-256.

    Raises OperatorError where the name cannot be in a certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = make_certificate(
        issuer,
        key.public_key(),
        common_name,
        purpose=purpose,
        names=names,
        start=start,
        end=end,
    )
    return Credential(certificate, key)


def make_certificate(
    issuer: Credential,
    public_key: PublicKey,
    common_name: str,
    *,
    purpose: x509.ObjectIdentifier,
    names: x509.SubjectAlternativeName | None,
    start: datetime,
    end: datetime,
) -> x509.Certificate:
    """A certificate of a key for one purpose, signed by an authority.

    Raises OperatorError where the name cannot be in a certificate.
    """
    builder = (
        _builder(_name(common_name), public_key, start=start, end=end)
        .issuer_name(issuer.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(authority_key_id(issuer), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def read_request(path: Path) -> tuple[str, PublicKey]:
    """The common name and key that a PEM signing request (RFC 2986) asks a certificate for.

    Nothing else of it is taken, its extensions least of all. Raises OperatorError where it is
    none, is not signed with its own key, or the key is weak or of a kind not used here.
    """
    content = _read(path)[:_REQUEST_BYTES_MAX]
    try:
        request = x509.load_pem_x509_csr(content)
        is_signed = request.is_signature_valid
        key = request.public_key()
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, UnsupportedAlgorithm):
        raise OperatorError(f"{path}: not a PEM signing request (BEGIN CERTIFICATE REQUEST)") from (
            None
        )
    if not is_signed:
        raise OperatorError(
            f"{path}: is not signed with the key it holds: who sent it may not have that key"
        )
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise OperatorError(f"{path}: has {len(names)} common names, and it takes one")
    return names[0].value, _strong(key, path)


def _strong(key: object, path: Path) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name in _CURVES:
            return key
        raise OperatorError(f"{path}: the curve {key.curve.name} is not used; P-256 is")
    if isinstance(key, rsa.RSAPublicKey):
        if _RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX:
            return key
        raise OperatorError(
            f"{path}: an RSA key of {key.key_size} bits; from {_RSA_BITS_MIN} to {_RSA_BITS_MAX}"
            " are taken, and P-256 is better"
        )
    raise OperatorError(f"{path}: neither an elliptic-curve nor an RSA key")


def authority_key_id(issuer: Credential) -> x509.AuthorityKeyIdentifier:
    """How a certificate or list says which key signed it."""
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def whole_second(moment: datetime) -> datetime:
    """A time as X.509 can write it."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _builder(
    subject: x509.Name, public_key: PublicKey, *, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())  # 20 bytes, positive
        .not_valid_before(whole_second(start))
        .not_valid_after(whole_second(end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise OperatorError(f"{common_name!r}: not a common name: {error}") from error


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# --- writing and reading them ------------------------------------------------------------------


def write_credentials(
    folder: Path, credentials: Iterable[tuple[str, Credential]], *, overwrite: bool = False
) -> None:
    """Write `stem.crt` and, readable by the owner alone, `stem.key` for each.

    Raises OperatorError where a key is there already and `overwrite` is not set (nothing is
    written then), or where a file cannot be written.
    """
    certificates: list[NewFile] = []
    keys: list[NewFile] = []
    for stem, credential in credentials:
        key_path = folder / f"{file_stem(stem)}.key"
        if key_path.exists() and not overwrite:
            raise OperatorError(f"{key_path}: a key is there already; --force replaces it")
        certificates.append(
            NewFile(folder / f"{stem}.crt", certificate_pem(credential.certificate))
        )
        keys.append(NewFile(key_path, key_pem(credential.key), 0o600))
    # Certificates first: one that a crash left without its key is replaced by the next attempt,
    # while a key is never replaced unasked.
    write_files([*certificates, *keys])


def read_credential(folder: Path, stem: str) -> Credential:
    """The certificate and key written before.

    Raises OperatorError where one is missing or unreadable, or they do not belong together.
    """
    return read_pair(folder / f"{stem}.crt", folder / f"{stem}.key")


def read_pair(certificate_path: Path, path: Path) -> Credential:
    """The certificate and key in two PEM files; see `read_credential`."""
    certificate = read_certificate(certificate_path)
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OperatorError(f"{path}: not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise OperatorError(f"{path}: neither an elliptic-curve nor an RSA key")
    if key.public_key() != certificate.public_key():
        raise OperatorError(f"{path}: does not belong to {certificate_path}")
    return Credential(certificate, key)


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file; raises OperatorError where there is none."""
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise OperatorError(f"{path}: not a PEM certificate") from error


def read_crl(path: Path) -> x509.CertificateRevocationList:
    """The revocation list in a PEM file; raises OperatorError where there is none."""
    try:
        return x509.load_pem_x509_crl(_read(path))
    except ValueError as error:
        raise OperatorError(f"{path}: not a PEM revocation list") from error


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether one certificate was signed with the other's key."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def file_stem(name: str) -> str:
    """The name, as it may stand in a file's name.

    Raises OperatorError where it could leave its folder or be hidden there.
    """
    if not _STEM.fullmatch(name):
        raise OperatorError(
            f"{name!r}: not a name for certificate files; letters, digits and . _ @ - are, "
            "64 at most, a letter or digit first"
        )
    return name


def write_files(files: Sequence[NewFile]) -> None:
    """Replace files whole, in order: a reader sees the old content or the new, never a part.

    Raises OperatorError where one cannot be written.
    """
    waiting: list[tuple[Path, Path]] = []
    one_by_one = len(files) < _SYNC_ALL_FROM
    path = Path()
    try:
        for file in files:
            path = file.path
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting.append((temporary, path))
            _write_new(temporary, file, synchronise=one_by_one)
        if not one_by_one:
            os.sync()
        while waiting:
            temporary, path = waiting[0]
            temporary.replace(path)
            del waiting[0]
    except OSError as error:
        raise OperatorError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_new(path: Path, file: NewFile, *, synchronise: bool) -> None:
    # Created with its final mode: a key is at no moment readable by others.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file.content)
        stream.flush()
        if synchronise:
            os.fsync(stream.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
