"""Which certificates stand in a folder already, and the roster of devices written beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from gateway.errors import OperatorError
from gateway.keys.authority import Authority, CertificateState, Use
from gateway.keys.credentials import NewFile, read_credential, write_files

ROSTER = "devices.csv"
_COLUMNS = ("terminal_id", "merchant_id", "certificate_sha256")


def valid_present(
    authority: Authority, folder: Path, wanted: Iterable[str], now: datetime
) -> dict[str, str]:
    """Name and SHA-256 of the wanted certificates that are there, whole and valid.

    Raises OperatorError where something else is in their place: it may be a device's only key,
    or the certificate of a key that was moved to its device.
    """
    valid = {
        (item.name, item.sha256)
        for item in authority.issued()
        if item.use is Use.CLIENT and item.state(now) is CertificateState.VALID
    }
    present: dict[str, str] = {}
    others: list[str] = []
    for name in wanted:
        if not _is_there(folder, name):
            continue
        try:
            sha256 = fingerprint(read_credential(folder, name).certificate)
        except OperatorError as error:
            others.append(str(error))
            continue
        if (name, sha256) in valid:
            present[name] = sha256
        else:
            others.append(f"{folder / name}.crt: not a valid certificate of this authority")
    if others:
        raise OperatorError(
            f"{others[0]} ({len(others)} such in all); --force issues new ones in their place"
        )
    return present


def read_names(path: Path) -> list[str]:
    """The terminal ids in the column terminal_id of a CSV file, each once, in its order.

    Raises OperatorError where there is no such column or a line has none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "terminal_id" not in (reader.fieldnames or ()):
                raise OperatorError(f"{path}:1: no column terminal_id; the first line names them")
            names: dict[str, None] = {}
            for row in reader:
                name = (row["terminal_id"] or "").strip()
                if not name:
                    raise OperatorError(f"{path}:{reader.line_num}: terminal_id is empty")
                names[name] = None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OperatorError(f"{path}: cannot be read as CSV: {error}") from None
    return list(names)


def refuse_present(folder: Path, name: str) -> None:
    """Raise OperatorError where a certificate or key of this name is there."""
    if _is_there(folder, name):
        raise OperatorError(f"{folder / name}.crt, .key: there already; --force replaces them")


def _is_there(folder: Path, name: str) -> bool:
    return (folder / f"{name}.crt").exists() or (folder / f"{name}.key").exists()


def write_roster(path: Path, fingerprints: Mapping[str, str], *, merchant_id: str) -> None:
    """Enter the certificates into the roster that the registry imports; other lines stay."""
    rows: dict[str, dict[str, str]] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = {
                row["terminal_id"]: {column: row.get(column) or "" for column in _COLUMNS}
                for row in csv.DictReader(file)
                if row.get("terminal_id")
            }
    for name, sha256 in fingerprints.items():
        row = rows.setdefault(name, dict.fromkeys(_COLUMNS, ""))
        row["terminal_id"], row["certificate_sha256"] = name, sha256
        row["merchant_id"] = merchant_id or row["merchant_id"]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    write_files([NewFile(path, text.getvalue().encode())])


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 of the certificate's DER, in hex, as the registry knows devices by it."""
    return certificate.fingerprint(hashes.SHA256()).hex()
