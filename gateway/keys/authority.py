"""Authority: a small certificate authority of one's own, kept as plain files in a folder."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import OperatorError
from gateway.keys.credentials import (
    BACKDATED,
    Credential,
    NewFile,
    PublicKey,
    authority_key_id,
    certificate_pem,
    key_pem,
    make_authority,
    make_certificate,
    make_leaf,
    read_credential,
    read_pair,
    whole_second,
    write_files,
)

CA_CERTIFICATE = "ca.crt"
CA_KEY = "ca.key"
CA_CRL = "ca.crl"
INDEX = "index.jsonl"
CRL_DAYS = 30


class Use(StrEnum):
    """What a certificate proves: a listener, or a terminal."""

    SERVER = "server"
    CLIENT = "client"


_PURPOSES = {
    Use.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    Use.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
}


class CertificateState(StrEnum):
    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Reason(StrEnum):
    """Why a certificate was revoked (RFC 5280, 5.3.1; those that are final and fit a leaf)."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key_compromise"
    AFFILIATION_CHANGED = "affiliation_changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation_of_operation"
    PRIVILEGE_WITHDRAWN = "privilege_withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that the authority issued, as its index knows it."""

    serial: int
    name: str
    use: Use
    sha256: str  # hex of the DER's SHA-256
    not_before: datetime
    not_after: datetime
    revoked: datetime | None = None
    reason: Reason = Reason.UNSPECIFIED

    def state(self, now: datetime) -> CertificateState:
        """Where the certificate stands; revoked outweighs expired."""
        if self.revoked is not None:
            return CertificateState.REVOKED
        return CertificateState.EXPIRED if now > self.not_after else CertificateState.VALID


class Authority:
    """The authority in one folder: its certificate and key, its index, its revocation list.

    The index is a file of JSON lines that is only appended to, and synchronised before a
    certificate leaves the authority: what is out can always be revoked. It is also the lock
    between commands that run at the same time.
    """

    def __init__(self, folder: Path, credential: Credential) -> None:
        self.folder = folder
        self._credential = credential
        self._issued: dict[int, Issued] = {}
        self._crl_number = 0
        self._read_bytes = 0
        self._read_lines = 0

    @classmethod
    def create(
        cls, folder: Path, *, name: str, days: int, now: datetime, overwrite: bool = False
    ) -> Authority:
        """Make a new authority with an empty revocation list, and return it.

        With `overwrite`, an earlier one in the folder is kept in a folder `replaced-<time>`.
        Raises OperatorError where there is one already, or the folder cannot be written.
        """
        folder = Path(folder)
        cls._make_room(folder, now=now, overwrite=overwrite)
        return cls._begin(folder, make_authority(name, days=days, now=now), now=now)

    @classmethod
    def adopt(
        cls, folder: Path, certificate: Path, key: Path, *, now: datetime, overwrite: bool = False
    ) -> Authority:
        """Begin with an authority that exists: its certificate and key are copied into the folder.

        What it issued before is not in the index, and cannot be revoked from here; its revocation
        list begins anew. Raises OperatorError where it may not sign certificates and lists, is
        over, or as `create` does.
        """
        credential = read_pair(certificate, key)
        _check_authority(credential.certificate, certificate, now)
        cls._make_room(Path(folder), now=now, overwrite=overwrite)
        return cls._begin(Path(folder), credential, now=now)

    @staticmethod
    def _make_room(folder: Path, *, now: datetime, overwrite: bool) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            present = [path for path in _own_files(folder) if path.exists()]
            if present and not overwrite:
                raise OperatorError(
                    f"{present[0]}: an authority is there already; --force puts it aside"
                )
            if present:
                aside = folder / f"replaced-{now:%Y%m%dT%H%M%SZ}"
                aside.mkdir(mode=0o700)
                for path in present:
                    path.rename(aside / path.name)
        except OSError as error:
            raise _unwritable(folder, error) from error

    @classmethod
    def _begin(cls, folder: Path, credential: Credential, *, now: datetime) -> Authority:
        write_files([NewFile(folder / CA_KEY, key_pem(credential.key), 0o600)])
        authority = cls(folder, credential)
        authority.write_crl(now=now)
        # The certificate last: where it is, everything else is too.
        write_files([NewFile(folder / CA_CERTIFICATE, certificate_pem(credential.certificate))])
        return authority

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The authority kept in a folder.

        Raises OperatorError where a file is missing, unreadable, or does not fit the others.
        """
        folder = Path(folder)
        if not (folder / CA_CERTIFICATE).exists():
            raise OperatorError(
                f"{folder / CA_CERTIFICATE}: no authority here; "
                f"`gateway certs init --out {folder}` makes one"
            )
        if not (folder / INDEX).exists():
            # Started anew, it would sign a list that lacks what was revoked.
            raise OperatorError(f"{folder / INDEX}: missing; restore it from a backup")
        authority = cls(folder, read_credential(folder, "ca"))
        with authority._exclusively():
            pass  # reads the index
        return authority

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._credential.certificate

    # --- issuing -------------------------------------------------------------------------------

    def issue_server(
        self, common_name: str, *, hosts: Sequence[str], days: int, now: datetime
    ) -> Credential:
        """A certificate for a listener that answers to these host names and IP addresses.

        Raises OperatorError where a name cannot be in a certificate.
        """
        try:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        except ValueError as error:
            raise OperatorError(f"{', '.join(hosts)}: {error}") from error
        credential = self._sign(common_name, Use.SERVER, days=days, now=now, names=names)
        self._record([credential], Use.SERVER)
        return credential

    def issue_client(self, common_name: str, *, days: int, now: datetime) -> Credential:
        """A certificate for a terminal, its id being the common name."""
        return self.issue_clients([common_name], days=days, now=now)[0]

    def issue_clients(
        self, common_names: Iterable[str], *, days: int, now: datetime
    ) -> list[Credential]:
        """A certificate for each terminal, entered in the index with one write."""
        credentials = [self._sign(name, Use.CLIENT, days=days, now=now) for name in common_names]
        self._record(credentials, Use.CLIENT)
        return credentials

    def sign_client(
        self, common_name: str, public_key: PublicKey, *, days: int, now: datetime
    ) -> x509.Certificate:
        """A certificate for a terminal that made its key itself, and keeps it.

        Raises OperatorError where the name cannot be in a certificate.
        """
        start, end = self._validity(days=days, now=now)
        certificate = make_certificate(
            self._credential,
            public_key,
            common_name,
            purpose=_PURPOSES[Use.CLIENT],
            names=None,
            start=start,
            end=end,
        )
        with self._exclusively() as index:
            self._append(index, [_issued_line(certificate, Use.CLIENT)])
        return certificate

    def _sign(
        self,
        common_name: str,
        use: Use,
        *,
        days: int,
        now: datetime,
        names: x509.SubjectAlternativeName | None = None,
    ) -> Credential:
        start, end = self._validity(days=days, now=now)
        return make_leaf(
            self._credential,
            common_name,
            purpose=_PURPOSES[use],
            names=names,
            start=start,
            end=end,
        )

    def _validity(self, *, days: int, now: datetime) -> tuple[datetime, datetime]:
        """From when to when a new certificate is valid: nothing outlives the authority, or is older
        than it. Raises OperatorError where that itself is over."""
        own = self._credential.certificate
        if now > own.not_valid_after_utc:
            raise OperatorError(
                f"{self.folder / CA_CERTIFICATE}: the authority itself ended on "
                f"{own.not_valid_after_utc:%Y-%m-%d}; `gateway certs init --force` makes another"
            )
        return (
            max(now - BACKDATED, own.not_valid_before_utc),
            min(now + timedelta(days=days), own.not_valid_after_utc),
        )

    def _record(self, credentials: list[Credential], use: Use) -> None:
        with self._exclusively() as index:
            self._append(index, [_issued_line(item.certificate, use) for item in credentials])

    # --- what was issued, and taking it back ---------------------------------------------------

    def issued(self) -> list[Issued]:
        """All certificates ever issued, the oldest first."""
        return list(self._issued.values())

    def revoke(
        self, serials: Iterable[int], *, reason: Reason, now: datetime, crl_days: int = CRL_DAYS
    ) -> list[Issued]:
        """Revoke certificates and sign a new list at once; returns those newly revoked.

        One that is revoked already stays as it is. Raises OperatorError where a serial number
        is not of this authority; nothing is revoked then.
        """
        wanted = list(serials)
        with self._exclusively() as index:
            unknown = [serial for serial in wanted if serial not in self._issued]
            if unknown:
                raise OperatorError(
                    f"serial {unknown[0]:x}: not issued by the authority in {self.folder}; "
                    "`gateway certs list` shows what was"
                )
            fresh = [serial for serial in wanted if self._issued[serial].revoked is None]
            self._append(
                index,
                [
                    {
                        "event": "revoked",
                        "serial": f"{serial:x}",
                        "reason": reason.value,
                        "at": whole_second(now).isoformat(),
                    }
                    for serial in fresh
                ],
            )
            self._sign_crl(index, now=now, days=crl_days)
        return [self._issued[serial] for serial in fresh]

    def write_crl(self, *, now: datetime, days: int = CRL_DAYS) -> x509.CertificateRevocationList:
        """Sign the revocation list anew, write it to `ca.crl`, and return it."""
        with self._exclusively() as index:
            return self._sign_crl(index, now=now, days=days)

    def _sign_crl(
        self, index: BinaryIO, *, now: datetime, days: int
    ) -> x509.CertificateRevocationList:
        start = whole_second(now)
        # The entries go in at once: adding them one by one copies the list each time.
        entries = [
            _revoked_entry(item, item.revoked)
            for item in self._issued.values()
            if item.revoked is not None
        ]
        builder = (
            x509.CertificateRevocationListBuilder(revoked_certificates=entries)
            .issuer_name(self.certificate.subject)
            .last_update(start)
            .next_update(start + timedelta(days=days))
            .add_extension(authority_key_id(self._credential), critical=False)
            .add_extension(x509.CRLNumber(self._crl_number + 1), critical=False)
        )
        crl = builder.sign(self._credential.key, hashes.SHA256())
        # The number goes up before the list is out: no two lists ever bear the same one.
        self._append(index, [{"event": "crl", "number": self._crl_number + 1}])
        write_files([NewFile(self.folder / CA_CRL, crl.public_bytes(serialization.Encoding.PEM))])
        return crl

    # --- the index -----------------------------------------------------------------------------

    @contextmanager
    def _exclusively(self) -> Iterator[BinaryIO]:
        """The index, locked against other processes and read to its end."""
        path = self.folder / INDEX
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from error
        with os.fdopen(descriptor, "r+b") as index:
            fcntl.flock(index, fcntl.LOCK_EX)
            self._catch_up(index)
            yield index

    def _catch_up(self, index: BinaryIO) -> None:
        index.seek(self._read_bytes)
        for line in index:
            if not line.endswith(b"\n"):
                # A write that a crash cut short: its certificate never left, so it is dropped.
                index.truncate(self._read_bytes)
                break
            self._read_bytes += len(line)
            self._read_lines += 1
            try:
                number = _apply(self._issued, json.loads(line))
                self._crl_number = number or self._crl_number
            except (ValueError, KeyError, TypeError) as error:
                raise OperatorError(
                    f"{self.folder / INDEX}:{self._read_lines}: not a line of an index: {error}"
                ) from error
        index.seek(self._read_bytes)

    def _append(self, index: BinaryIO, records: Sequence[dict[str, str | int]]) -> None:
        if not records:
            return
        try:
            index.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
            index.flush()
            os.fsync(index.fileno())
        except OSError as error:
            raise _unwritable(self.folder / INDEX, error) from error
        self._catch_up(index)


def read_index(path: Path) -> list[Issued]:
    """What an index says was issued, without a lock and without the authority's key.

    A last line that is being written is left out. Raises OperatorError where it is no index.
    """
    issued: dict[int, Issued] = {}
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        try:
            _apply(issued, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise OperatorError(f"{path}:{number}: not a line of an index: {error}") from error
    return list(issued.values())


def _apply(issued: dict[int, Issued], record: dict[str, str]) -> int:
    """Take a line of the index; returns the number of a revocation list, or 0."""
    match record["event"]:
        case "issued":
            serial = int(record["serial"], 16)
            issued[serial] = Issued(
                serial=serial,
                name=record["name"],
                use=Use(record["use"]),
                sha256=record["sha256"],
                not_before=datetime.fromisoformat(record["not_before"]),
                not_after=datetime.fromisoformat(record["not_after"]),
            )
        case "revoked":
            serial = int(record["serial"], 16)
            issued[serial] = replace(
                issued[serial],
                revoked=datetime.fromisoformat(record["at"]),
                reason=Reason(record["reason"]),
            )
        case "crl":
            return int(record["number"])
        case other:
            raise ValueError(f"event {other!r}")
    return 0


def _check_authority(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    """Raise OperatorError where a certificate is none that may sign others (RFC 5280, 4.2.1)."""
    extensions = certificate.extensions
    try:
        is_authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        may_sign = usage.key_cert_sign and usage.crl_sign
    except x509.ExtensionNotFound:
        may_sign = True
    if not is_authority or not may_sign:
        raise OperatorError(
            f"{path}: not an authority's certificate: it may not sign certificates and lists"
        )
    if now > certificate.not_valid_after_utc:
        raise OperatorError(f"{path}: ended on {certificate.not_valid_after_utc:%Y-%m-%d}")


def _unwritable(path: Path, error: OSError) -> OperatorError:
    return OperatorError(f"{path}: cannot be written: {error.strerror}")


def _own_files(folder: Path) -> list[Path]:
    return [folder / name for name in (CA_KEY, CA_CERTIFICATE, CA_CRL, INDEX)]


def _revoked_entry(item: Issued, revoked: datetime) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(item.serial).revocation_date(revoked)
    if item.reason is not Reason.UNSPECIFIED:  # RFC 5280, 5.3.1: absent says "unspecified"
        builder = builder.add_extension(
            x509.CRLReason(x509.ReasonFlags[item.reason.value]), critical=False
        )
    return builder.build()


def _issued_line(certificate: x509.Certificate, use: Use) -> dict[str, str | int]:
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return {
        "event": "issued",
        "serial": f"{certificate.serial_number:x}",
        "name": str(name),
        "use": use.value,
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
