from __future__ import annotations

import json
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.errors import OperatorError
from gateway.keys.authority import INDEX, Authority, CertificateState, Reason, Use
from gateway.keys.credentials import (
    NewFile,
    file_stem,
    read_certificate,
    read_credential,
    read_crl,
    signed_by,
    write_credentials,
    write_files,
)

NOW = datetime(2026, 11, 21, 20, 33, 54, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", name="Test CA", days=3650, now=NOW)


def test_a_new_authority_is_complete_and_its_key_private(authority: Authority) -> None:
    folder = authority.folder
    assert {path.name for path in folder.iterdir()} == {"ca.crt", "ca.key", "ca.crl", INDEX}
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert len(read_crl(folder / "ca.crl")) == 0


def test_an_authority_is_not_made_over_another(authority: Authority) -> None:
    key = (authority.folder / "ca.key").read_bytes()
    with pytest.raises(OperatorError, match=r"ca\.key: an authority is there already; --force"):
        Authority.create(authority.folder, name="Other", days=10, now=NOW)
    assert (authority.folder / "ca.key").read_bytes() == key


def test_an_authority_that_is_replaced_is_kept_aside(authority: Authority) -> None:
    key = (authority.folder / "ca.key").read_bytes()
    authority.issue_client("T0000001", days=1, now=NOW)
    other = Authority.create(authority.folder, name="Other", days=10, now=NOW, overwrite=True)
    assert (authority.folder / "replaced-20261121T203354Z" / "ca.key").read_bytes() == key
    assert other.issued() == []


def test_a_client_certificate_says_what_it_is_for(authority: Authority) -> None:
    made = authority.issue_client("T0000001", days=825, now=NOW).certificate
    extensions = made.extensions
    assert signed_by(made, authority.certificate)
    assert made.subject.rfc4514_string() == "CN=T0000001"
    assert made.not_valid_after_utc == NOW + 825 * DAY
    assert made.not_valid_before_utc < NOW
    assert made.serial_number.bit_length() > 100
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    own = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert issuer.value.key_identifier == own.value.digest


def test_a_server_certificate_bears_its_names(authority: Authority) -> None:
    made = authority.issue_server("gw", hosts=["localhost", "127.0.0.1"], days=825, now=NOW)
    extensions = made.certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["localhost", "127.0.0.1"]
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_no_certificate_outlives_the_authority(tmp_path: Path) -> None:
    short = Authority.create(tmp_path, name="Short", days=5, now=NOW)
    made = short.issue_client("T0000001", days=825, now=NOW).certificate
    assert made.not_valid_after_utc == short.certificate.not_valid_after_utc
    with pytest.raises(OperatorError, match="the authority itself ended on 2026-11-26"):
        short.issue_client("T0000001", days=1, now=NOW + 6 * DAY)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_that_fits_no_certificate_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(OperatorError, match="not a common name"):
        authority.issue_client(name, days=1, now=NOW)


def test_the_index_survives_loading(authority: Authority) -> None:
    authority.issue_clients(["T0000001", "T0000002", "T0000003"], days=10, now=NOW)
    authority.revoke([authority.issued()[1].serial], reason=Reason.SUPERSEDED, now=NOW)
    loaded = Authority.load(authority.folder)
    assert loaded.issued() == authority.issued()
    states = [item.state(NOW) for item in loaded.issued()]
    assert states == [CertificateState.VALID, CertificateState.REVOKED, CertificateState.VALID]
    assert loaded.issued()[0].state(NOW + 11 * DAY) is CertificateState.EXPIRED
    assert loaded.issued()[1].reason is Reason.SUPERSEDED
    assert {item.use for item in loaded.issued()} == {Use.CLIENT}


def test_a_line_that_a_crash_cut_short_is_dropped(authority: Authority) -> None:
    authority.issue_client("T0000001", days=10, now=NOW)
    with (authority.folder / INDEX).open("a") as index:
        index.write('{"event": "issued", "serial": "7')
    loaded = Authority.load(authority.folder)
    loaded.issue_client("T0000002", days=10, now=NOW)
    again = Authority.load(authority.folder)
    assert [item.name for item in again.issued()] == ["T0000001", "T0000002"]


@pytest.mark.parametrize("line", ["nonsense", '{"event": "other"}', '{"event": "revoked"}', "[]"])
def test_a_damaged_index_is_named_with_its_line(authority: Authority, line: str) -> None:
    with (authority.folder / INDEX).open("a") as index:
        index.write(line + "\n")
    with pytest.raises(OperatorError, match=r"index\.jsonl:2: not a line of an index"):
        Authority.load(authority.folder)


def test_a_lost_index_is_not_started_anew(authority: Authority) -> None:
    (authority.folder / INDEX).unlink()
    with pytest.raises(OperatorError, match="missing; restore it from a backup"):
        Authority.load(authority.folder)


def test_two_commands_at_once_lose_nothing(authority: Authority) -> None:
    other = Authority.load(authority.folder)
    first = authority.issue_client("T0000001", days=10, now=NOW).certificate.serial_number
    second = other.issue_client("T0000002", days=10, now=NOW).certificate.serial_number
    authority.revoke([first], reason=Reason.UNSPECIFIED, now=NOW)
    other.revoke([second], reason=Reason.UNSPECIFIED, now=NOW)
    crl = read_crl(authority.folder / "ca.crl")
    assert {entry.serial_number for entry in crl} == {first, second}


def test_the_number_of_the_list_goes_up(authority: Authority) -> None:
    Authority.load(authority.folder).write_crl(now=NOW)
    crl = authority.write_crl(now=NOW, days=7)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    assert crl.next_update_utc == NOW + 7 * DAY
    assert crl == read_crl(authority.folder / "ca.crl")


def test_a_revocation_stands_and_bears_its_reason(authority: Authority) -> None:
    serial = authority.issue_client("T0000001", days=10, now=NOW).certificate.serial_number
    first = authority.revoke([serial], reason=Reason.KEY_COMPROMISE, now=NOW)
    second = authority.revoke([serial], reason=Reason.SUPERSEDED, now=NOW + DAY)
    assert [item.serial for item in first] == [serial]
    assert second == []
    entry = read_crl(authority.folder / "ca.crl").get_revoked_certificate_by_serial_number(serial)
    assert entry is not None
    assert entry.revocation_date_utc == NOW
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.key_compromise


def test_revoking_a_stranger_revokes_nobody(authority: Authority) -> None:
    serial = authority.issue_client("T0000001", days=10, now=NOW).certificate.serial_number
    with pytest.raises(OperatorError, match="serial 7b: not issued by the authority"):
        authority.revoke([serial, 123], reason=Reason.UNSPECIFIED, now=NOW)
    assert authority.issued()[0].revoked is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is missing")
def test_openssl_agrees(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.create(tmp_path, name="Test CA", days=10, now=now)
    for name in ("good", "bad"):
        write_credentials(tmp_path, [(name, authority.issue_client(name, days=5, now=now))])
    authority.revoke([authority.issued()[1].serial], reason=Reason.UNSPECIFIED, now=now)

    def verify(name: str) -> subprocess.CompletedProcess[str]:
        command = ["openssl", "verify", "-x509_strict", "-crl_check", "-purpose", "sslclient"]
        files = ["-CAfile", "ca.crt", "-CRLfile", "ca.crl", f"{name}.crt"]
        return subprocess.run([*command, *files], cwd=tmp_path, capture_output=True, text=True)

    assert verify("good").returncode == 0, verify("good").stderr
    assert "certificate revoked" in verify("bad").stderr


# --- files -------------------------------------------------------------------------------------


def test_a_key_is_never_replaced_unasked(authority: Authority, tmp_path: Path) -> None:
    first, second = authority.issue_clients(["T0000001", "T0000001"], days=10, now=NOW)
    write_credentials(tmp_path, [("T0000001", first)])
    with pytest.raises(OperatorError, match=r"T0000001\.key: a key is there already; --force"):
        write_credentials(tmp_path, [("new", second), ("T0000001", second)])
    assert not (tmp_path / "new.crt").exists()
    assert read_credential(tmp_path, "T0000001").certificate == first.certificate
    write_credentials(tmp_path, [("T0000001", second)], overwrite=True)
    assert read_credential(tmp_path, "T0000001").certificate == second.certificate
    assert stat.S_IMODE((tmp_path / "T0000001.key").stat().st_mode) == 0o600


def test_many_files_at_once_leave_no_temporary_ones(authority: Authority, tmp_path: Path) -> None:
    names = [f"T{number:07d}" for number in range(20)]
    made = authority.issue_clients(names, days=10, now=NOW)
    write_credentials(tmp_path / "many", zip(names, made, strict=True))
    assert len(list((tmp_path / "many").iterdir())) == 40


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="below: cannot be written: "):
        write_files([NewFile(tmp_path / "file" / "below", b"")])


def test_files_that_do_not_fit_are_named(authority: Authority, tmp_path: Path) -> None:
    first, second = authority.issue_clients(["a", "b"], days=10, now=NOW)
    write_credentials(tmp_path, [("a", first), ("b", second)])
    (tmp_path / "b.key").replace(tmp_path / "a.key")
    with pytest.raises(OperatorError, match=r"a\.key: does not belong to .*a\.crt"):
        read_credential(tmp_path, "a")
    with pytest.raises(OperatorError, match=r"b\.key: No such file"):
        read_credential(tmp_path, "b")
    (tmp_path / "a.crt").write_text("nothing")
    with pytest.raises(OperatorError, match=r"a\.crt: not a PEM certificate"):
        read_certificate(tmp_path / "a.crt")
    with pytest.raises(OperatorError, match=r"a\.crt: not a PEM revocation list"):
        read_crl(tmp_path / "a.crt")


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "a\n", "ä", "x" * 65])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(OperatorError, match="not a name for certificate files"):
        file_stem(name)


def test_no_key_shows_in_a_repr_or_the_index(authority: Authority) -> None:
    made = authority.issue_client("T0000001", days=10, now=NOW)
    assert repr(made) == f"<Credential serial={made.certificate.serial_number:x}>"
    fields = json.loads((authority.folder / INDEX).read_text().splitlines()[-1])
    assert set(fields) == {
        *("event", "serial", "name", "use", "sha256", "not_before", "not_after"),
    }
