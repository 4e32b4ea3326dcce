"""`gateway certs`: an authority that exists, requests of devices, rosters, renewal, checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner, Result

from gateway.cli.certs import app
from gateway.keys.authority import Authority, read_index
from gateway.keys.credentials import (
    make_authority,
    read_certificate,
    read_credential,
    signed_by,
    write_credentials,
)

NOW = datetime.now(UTC)


def run(*arguments: object, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == expect, result.output
    return result


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    run("init", "--out", tmp_path / "ca")
    return tmp_path / "ca"


def request(
    path: Path,
    *names: str,
    key: Any = None,
    change: Callable[[x509.CertificateSigningRequestBuilder], Any] = lambda builder: builder,
) -> Path:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = change(x509.CertificateSigningRequestBuilder().subject_name(subject))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    path.write_bytes(builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM))
    return path


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65_537, 2_048),
    ],
)
def test_a_device_keeps_the_key_it_made(ca: Path, tmp_path: Path, key: Any) -> None:
    csr = request(tmp_path / "csr", "T0000001", key=key)
    answer = json.loads(run("sign", csr, "--ca", ca, "--name", "T0000001", "--json").stdout)
    certificate = read_certificate(ca / "terminals/T0000001.crt")
    assert certificate.public_key() == key.public_key()
    assert signed_by(certificate, read_certificate(ca / "ca.crt"))
    assert not (ca / "terminals/T0000001.key").exists()
    assert answer["sha256"] in (ca / "terminals/devices.csv").read_text()
    assert answer["sha256"] in {one.sha256 for one in Authority.load(ca).issued()}
    run("revoke", "T0000001", "--ca", ca, "--yes")


def test_nothing_but_name_and_key_is_taken(ca: Path, tmp_path: Path) -> None:
    """No other names, no right to sign, no purpose of a server."""

    def greedy(builder: x509.CertificateSigningRequestBuilder) -> Any:
        names = x509.SubjectAlternativeName([x509.DNSName("gateway.example")])
        return builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).add_extension(names, critical=False)

    run("sign", request(tmp_path / "csr", "T0000001", change=greedy), "--ca", ca)
    extensions = read_certificate(ca / "terminals/T0000001.crt").extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_requests_that_are_refused(ca: Path, tmp_path: Path) -> None:
    tampered = request(tmp_path / "tampered", "T0000001")
    body = x509.load_pem_x509_csr(tampered.read_bytes()).public_bytes(serialization.Encoding.DER)
    other = body.replace(b"T0000001", b"T0000002")
    import base64

    text = base64.encodebytes(other).decode()
    tampered.write_text(
        f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"
    )
    (tmp_path / "none").write_text("no request")
    weak = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 (to be refused)
    for path, words in (
        (tampered, "is not signed with the key"),
        (tmp_path / "none", "not a PEM signing request"),
        (request(tmp_path / "weak", "T1", key=weak), "1024 bits"),
        (request(tmp_path / "k1", "T1", key=ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
        (request(tmp_path / "ed", "T1", key=ed25519.Ed25519PrivateKey.generate()), "neither an"),
        (request(tmp_path / "two", "T1", "T2"), "2 common names"),
        (request(tmp_path / "path", "../T1"), "not a name"),
    ):
        assert words in run("sign", path, "--ca", ca, expect=1).output, path
    asked = request(tmp_path / "other", "T0000002")
    assert "asks for 'T0000002'" in run("sign", asked, "--ca", ca, "--name", "T1", expect=1).output
    assert [one.name for one in Authority.load(ca).issued()] == ["localhost"]


# --- an authority that exists ---------------------------------------------------------------------


def test_an_authority_that_exists_is_gone_on_with(tmp_path: Path) -> None:
    own = make_authority("Corporate", days=100, now=NOW)
    write_credentials(tmp_path / "theirs", [("root", own)])
    files = (
        "--ca-certificate",
        tmp_path / "theirs/root.crt",
        "--ca-key",
        tmp_path / "theirs/root.key",
    )
    run("init", "--out", tmp_path / "ca", *files)
    run("init", "--out", tmp_path / "ca", *files)  # again, and nothing changes
    run("issue", "T0000001", "--ca", tmp_path / "ca")
    assert signed_by(read_certificate(tmp_path / "ca/terminals/T0000001.crt"), own.certificate)
    assert (tmp_path / "ca/ca.key").stat().st_mode & 0o777 == 0o600
    run("init", "--out", tmp_path / "ca", *files[:2], expect=2)
    another = make_authority("Another", days=100, now=NOW)
    write_credentials(tmp_path / "theirs", [("other", another)])
    files = (
        "--ca-certificate",
        tmp_path / "theirs/other.crt",
        "--ca-key",
        tmp_path / "theirs/other.key",
    )
    assert "another authority" in run("init", "--out", tmp_path / "ca", *files, expect=1).output


def test_what_may_sign_nothing_is_no_authority(ca: Path, tmp_path: Path) -> None:
    run("issue", "T0000001", "--ca", ca)
    leaf = ca / "terminals/T0000001"
    files = ("--ca-certificate", f"{leaf}.crt", "--ca-key", f"{leaf}.key")
    assert "may not sign" in run("init", "--out", tmp_path / "x", *files, expect=1).output
    files = ("--ca-certificate", ca / "ca.crt", "--ca-key", f"{leaf}.key")
    assert "does not belong to" in run("init", "--out", tmp_path / "x", *files, expect=1).output
    over = make_authority("Over", days=1, now=NOW - timedelta(days=9))
    write_credentials(tmp_path / "o", [("o", over)])
    files = ("--ca-certificate", tmp_path / "o/o.crt", "--ca-key", tmp_path / "o/o.key")
    assert "ended on" in run("init", "--out", tmp_path / "x", *files, expect=1).output
    assert not (tmp_path / "x/ca.crt").exists()


# --- rosters, renewal, what ends -----------------------------------------------------------------


def test_a_roster_names_who_gets_one(ca: Path, tmp_path: Path) -> None:
    roster = tmp_path / "shops.csv"
    roster.write_text("merchant_id,terminal_id\nM1,T0000001\nM2,T0000002\nM1,T0000001\n")
    run("issue", "--roster", roster, "--ca", ca)
    names = sorted(one.name for one in read_index(ca / "index.jsonl"))
    assert names == ["T0000001", "T0000002", "localhost"]
    for text, words in (
        ("merchant_id\nM1\n", "no column terminal_id"),
        ("terminal_id\n../T1\n", "not a name"),
        ("terminal_id,x\n,1\n", ":2: terminal_id is empty"),
    ):
        roster.write_text(text)
        assert words in run("issue", "--roster", roster, "--ca", ca, expect=1).output


def test_what_ends_soon_is_renewed_beside_the_old(ca: Path) -> None:
    run("issue", "T0000001", "--ca", ca, "--days", 10)
    run("issue", "T0000002", "--ca", ca, "--days", 400)
    old = read_credential(ca / "terminals", "T0000001")
    made = json.loads(run("renew", "--expiring", 30, "--ca", ca, "--json").stdout)
    assert [one["name"] for one in made] == ["T0000001"]
    new = read_credential(ca / "renewed", "T0000001")
    assert new.certificate.public_key() != old.certificate.public_key()
    assert read_credential(ca / "terminals", "T0000001").certificate == old.certificate
    states = [one.state(NOW + timedelta(minutes=1)).value for one in Authority.load(ca).issued()]
    assert states == ["valid"] * 4
    # Its newest certificate does not end soon: there is nothing more to do.
    assert json.loads(run("renew", "--expiring", 30, "--ca", ca, "--json").stdout) == []
    assert "there already" in run("renew", "T0000001", "--ca", ca, expect=1).output
    assert "could be renewed" in run("renew", "T0000009", "--ca", ca, expect=1).output
    run("renew", "--ca", ca, expect=2)


def test_a_check_fails_where_something_ends(ca: Path) -> None:
    run("list", "--check", "--expiring", 20, "--ca", ca)
    run("issue", "T0000001", "--ca", ca, "--days", 10)
    found = run("list", "--check", "--expiring", 20, "--json", "--ca", ca, expect=1)
    assert [one["what"] for one in json.loads(found.stdout)["ending"]] == ["client T0000001"]
    assert [
        row["name"]
        for row in json.loads(run("list", "--expiring", 20, "--json", "--ca", ca).stdout)
    ] == ["T0000001"]
    run("renew", "T0000001", "--ca", ca)
    run("list", "--check", "--expiring", 20, "--ca", ca)
    # The revocation list ends first of all.
    found = run("list", "--check", "--expiring", 31, "--json", "--ca", ca, expect=1)
    assert "revocation list" in json.loads(found.stdout)["ending"][0]["what"]
    run("revoke", "T0000001", "--ca", ca, "--yes")
    assert json.loads(run("list", "--expiring", 20, "--json", "--ca", ca).stdout) == []


def test_an_index_is_read_without_its_authority(ca: Path) -> None:
    run("issue", "T0000001", "--ca", ca)
    index = ca / "index.jsonl"
    whole = [one.name for one in read_index(index)]
    with index.open("ab") as file:
        file.write(b'{"event": "iss')
    assert [one.name for one in read_index(index)] == whole
