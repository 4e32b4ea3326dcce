"""`gateway certs`: the operator's own certificate authority, its certificates and their end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from gateway.cli.certificate_files import (
    ROSTER,
    fingerprint,
    read_names,
    refuse_present,
    valid_present,
    write_roster,
)
from gateway.cli.certificate_output import (
    FAILED,
    confirm,
    described,
    file_row,
    iso,
    print_json,
    print_rows,
    row_of,
    say,
    told,
)
from gateway.clock import SystemClock, utc
from gateway.errors import OperatorError
from gateway.keys.authority import (
    CA_CERTIFICATE,
    CA_CRL,
    CRL_DAYS,
    Authority,
    CertificateState,
    Issued,
    Reason,
    Use,
)
from gateway.keys.credentials import (
    NewFile,
    certificate_pem,
    file_stem,
    read_certificate,
    read_crl,
    read_request,
    write_credentials,
    write_files,
)
from gateway.wire.id_patterns import TerminalRange

app = typer.Typer(
    name="certs",
    help="The operator's own certificate authority, its certificates and their end.",
    no_args_is_help=True,
)

LEAF_DAYS = 825
CA_DAYS = 3650
CHUNK = 250  # certificates to one write of the index and one synchronisation of the disk
NAMES_MAX = 1_000_000
_RENEW_CRL_BEFORE = timedelta(days=7)
_LOCAL = ["localhost", "127.0.0.1"]

CaFolder = Annotated[Path, typer.Option("--ca", help="The folder of the authority.")]
Days = Annotated[int, typer.Option("--days", min=1, max=36_500, help="Valid for so many days.")]
Out = Annotated[Path | None, typer.Option("--out", help="Default: terminals/ in the CA's folder.")]
CrlDays = Annotated[
    int, typer.Option("--crl-days", min=1, max=3_650, help="The revocation list's validity.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the keys that are there.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--san", help="Host name or IP address it answers to; may be repeated."),
]


@app.command()
@told
def init(
    *,
    out: Annotated[Path, typer.Option("--out", help="Where to make it.")] = Path("certs"),
    name: Annotated[str, typer.Option("--name", help="The authority's name.")] = "Gateway CA",
    days: Days = CA_DAYS,
    san: Names = None,
    ca_certificate: Annotated[
        Path | None,
        typer.Option("--ca-certificate", help="Go on with an authority that exists: its PEM file."),
    ] = None,
    ca_key: Annotated[Path | None, typer.Option("--ca-key", help="Its private key.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Put the authority that is there aside.")
    ] = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Make an authority, an empty revocation list and a server certificate for this machine.

    With --ca-certificate and --ca-key an existing authority is copied there instead. What is there
    already stays as it is, so it may be run at each start; a revocation list that ends within a
    week is signed again.
    """
    if (ca_certificate is None) != (ca_key is None):
        raise typer.BadParameter("--ca-certificate and --ca-key belong together")
    now = _now()
    there = (out / CA_CERTIFICATE).exists()
    made: list[Path] = []
    if there and force:
        confirm(f"Put the authority in {out} aside? Its certificates will be refused.", yes=yes)
    if there and not force:
        authority = Authority.load(out)
        if ca_certificate and read_certificate(ca_certificate) != authority.certificate:
            raise OperatorError(f"{out}: another authority is there; --force puts it aside")
        if _crl_is_due(out / CA_CRL, now):
            authority.write_crl(now=now)
            made.append(out / CA_CRL)
    else:
        if ca_certificate is not None and ca_key is not None:
            authority = Authority.adopt(out, ca_certificate, ca_key, now=now, overwrite=force)
        else:
            authority = Authority.create(out, name=name, days=days, now=now, overwrite=force)
        made += [out / CA_CERTIFICATE, out / CA_CRL]
    if force or not (out / "server.key").exists():
        credential = authority.issue_server(
            "localhost", hosts=san or _LOCAL, days=LEAF_DAYS, now=now
        )
        write_credentials(out, [("server", credential)], overwrite=force)
        made.append(out / "server.crt")
    server = read_certificate(out / "server.crt")
    if server.not_valid_after_utc < now:
        say(f"{out / 'server.crt'} has ended; `gateway certs server --force` makes another")
    answer = [
        file_row(out / CA_CERTIFICATE, authority.certificate.not_valid_after_utc, made),
        file_row(out / CA_CRL, read_crl(out / CA_CRL).next_update_utc, made),
        file_row(out / "server.crt", server.not_valid_after_utc, made),
    ]
    if json:
        print_json(answer)
        return
    for item in answer:
        typer.echo(f"{item['state']:<5}  {item['path']}  valid until {item['valid_until']}")


@app.command()
@told
def server(
    *,
    name: Annotated[str, typer.Option("--name", help="Common name, and the files'.")] = "server",
    san: Names = None,
    ca: CaFolder = Path("certs"),
    out: Annotated[Path | None, typer.Option("--out", help="Default: the CA's folder.")] = None,
    days: Days = LEAF_DAYS,
    force: Force = False,
) -> None:
    """Issue a certificate for a listener (or a server of one's own): NAME.crt and NAME.key."""
    authority = Authority.load(ca)
    folder = out or ca
    file_stem(name)  # before the certificate is in the index
    if not force:
        refuse_present(folder, name)
    credential = authority.issue_server(name, hosts=san or _LOCAL, days=days, now=_now())
    write_credentials(folder, [(name, credential)], overwrite=force)
    typer.echo(str(folder / f"{name}.crt"))


@app.command()
@told
def issue(
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Common names: terminal ids.")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="A-B", help="All ids from A to B; may be repeated."),
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option("--roster", help="A CSV whose column terminal_id names the devices."),
    ] = None,
    out: Out = None,
    ca: CaFolder = Path("certs"),
    days: Days = LEAF_DAYS,
    merchant: Annotated[
        str, typer.Option("--merchant", help="merchant_id to write into devices.csv.")
    ] = "",
    force: Force = False,
) -> None:
    """Issue client certificates: NAME.crt and NAME.key for each, and devices.csv for the registry.

    Those that are there, whole and valid, are kept: an interrupted run may be repeated.
    """
    named = [*(names or []), *(read_names(roster) if roster is not None else [])]
    wanted = _wanted(named, range_ or [])
    authority = Authority.load(ca)
    folder = out or ca / "terminals"
    now = _now()
    fingerprints = {} if force else valid_present(authority, folder, wanted, now)
    kept = len(fingerprints)
    missing = [name for name in wanted if name not in fingerprints]
    fingerprints |= _issued_in_chunks(authority, folder, missing, days=days, overwrite=force)
    write_roster(folder / ROSTER, fingerprints, merchant_id=merchant)
    say(f"{len(missing)} issued, {kept} there already, in {folder}")
    say("`gateway terminals import` takes:")
    typer.echo(str(folder / ROSTER))


@app.command()
@told
def renew(
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Common names: terminal ids.")
    ] = None,
    expiring: Annotated[
        int | None,
        typer.Option("--expiring", min=1, metavar="DAYS", help="All that end within so many."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Default: renewed/ in the CA's folder.")
    ] = None,
    ca: CaFolder = Path("certs"),
    days: Days = LEAF_DAYS,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Issue client certificates with new keys beside those that end, which go on working.

    `gateway terminals renew ID --certificate FILE` then has the gateway take both for a time. One
    whose device made a new key itself: `gateway certs sign`.
    """
    now = _now()
    authority = Authority.load(ca)
    ends = _ends(authority, now)
    wanted = dict.fromkeys(names or [])
    unknown = [name for name in wanted if name not in ends]
    if unknown:
        raise OperatorError(
            f"{unknown[0]}: has no certificate that could be renewed; `gateway certs issue`"
        )
    if expiring is not None:
        until = now + timedelta(days=expiring)
        wanted |= dict.fromkeys(name for name, end in ends.items() if end < until)
    elif not wanted:
        raise typer.BadParameter("give names or --expiring DAYS")
    folder = out or ca / "renewed"
    if not force:
        for name in wanted:
            refuse_present(folder, name)
    fresh = _issued_in_chunks(authority, folder, list(wanted), days=days, overwrite=force)
    write_roster(folder / ROSTER, fresh, merchant_id="")
    if json:
        print_json([{"name": name, "sha256": sha256} for name, sha256 in fresh.items()])
        return
    say(f"{len(fresh)} renewed, in {folder}; for each: gateway terminals renew")
    typer.echo(str(folder / ROSTER))


@app.command()
@told
def sign(
    *,
    request: Annotated[
        Path, typer.Argument(metavar="CSR", exists=True, dir_okay=False, help="A PEM request.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="The terminal id it must ask for, and be the device's."),
    ] = None,
    out: Out = None,
    ca: CaFolder = Path("certs"),
    days: Days = LEAF_DAYS,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Sign a request (CSR) of a device that made its key itself, and keeps it: NAME.crt.

    The request must be signed with its own key, of P-256, P-384, P-521 or RSA from 2,048 bits. Its
    common name is taken and nothing else: no extension, no other name.
    """
    asked, key = read_request(request)
    if name is not None and asked != name:
        raise OperatorError(f"{request}: asks for {asked!r}, and not for {name!r}")
    authority = Authority.load(ca)
    folder = out or ca / "terminals"
    target = folder / f"{file_stem(asked)}.crt"
    if target.exists() and not force:
        raise OperatorError(f"{target}: there already; --force replaces it")
    certificate = authority.sign_client(asked, key, days=days, now=_now())
    write_files([NewFile(target, certificate_pem(certificate))])
    write_roster(folder / ROSTER, {asked: fingerprint(certificate)}, merchant_id="")
    if json:
        print_json(
            {
                "name": asked,
                "path": str(target),
                "sha256": fingerprint(certificate),
                "serial": f"{certificate.serial_number:x}",
                "not_after": iso(certificate.not_valid_after_utc),
            }
        )
    else:
        typer.echo(str(target))


def _issued_in_chunks(
    authority: Authority, folder: Path, missing: Sequence[str], *, days: int, overwrite: bool
) -> dict[str, str]:
    """Name and SHA-256 of new certificates, whose files are written chunk by chunk."""
    now = _now()
    fingerprints: dict[str, str] = {}
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("certificates", total=len(missing))
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            credentials = authority.issue_clients(chunk, days=days, now=now)
            write_credentials(folder, zip(chunk, credentials, strict=True), overwrite=overwrite)
            for name, credential in zip(chunk, credentials, strict=True):
                fingerprints[name] = fingerprint(credential.certificate)
            progress.advance(task, len(chunk))
    return fingerprints


def _ends(authority: Authority, now: datetime) -> dict[str, datetime]:
    """Of each terminal with a valid certificate, when the last of them ends."""
    ends: dict[str, datetime] = {}
    for item in authority.issued():
        if item.use is Use.CLIENT and item.state(now) is CertificateState.VALID:
            ends[item.name] = max(item.not_after, ends.get(item.name, item.not_after))
    return ends


@app.command()
@told
def revoke(
    *,
    name: Annotated[str | None, typer.Argument(help="Common name: all its certificates.")] = None,
    serial: Annotated[
        str | None, typer.Option("--serial", metavar="HEX", help="One certificate.")
    ] = None,
    reason: Annotated[Reason, typer.Option("--reason", help="Why.")] = Reason.UNSPECIFIED,
    ca: CaFolder = Path("certs"),
    crl_days: CrlDays = CRL_DAYS,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Take certificates back for good, and sign the revocation list at once."""
    if (name is None) == (serial is None):
        raise typer.BadParameter("give either a name or --serial")
    now = _now()
    authority = Authority.load(ca)
    number = _hex(serial)
    found = [
        item for item in authority.issued() if item.name == name or f"{item.serial:x}" == number
    ]
    if not found:
        raise OperatorError(
            f"{name or serial}: no such certificate was issued; `gateway certs list` shows all"
        )
    open_ = [item for item in found if item.state(now) is CertificateState.VALID]
    if open_:
        confirm(f"Revoke {', '.join(described(item) for item in open_)} for good?", yes=yes)
    revoked = authority.revoke(
        [item.serial for item in open_], reason=reason, now=now, crl_days=crl_days
    )
    if json:
        print_json([row_of(item, now) for item in revoked])
    else:
        for item in revoked:
            typer.echo(f"revoked  {described(item)}")
    if not revoked:
        say(f"{name or serial}: revoked or ended already; nothing to do")
    say(f"{ca / CA_CRL} is signed; a gateway that runs takes it up when it next reads its files")


@app.command("list")
@told
def list_(
    *,
    ca: CaFolder = Path("certs"),
    state: Annotated[
        CertificateState | None, typer.Option("--state", help="Only those in this state.")
    ] = None,
    expiring: Annotated[
        int | None,
        typer.Option("--expiring", min=0, metavar="DAYS", help="Only what ends within so many."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit status 1 where something in use has ended, or will."),
    ] = False,
    json: AsJson = False,
) -> None:
    """List what the authority issued, the oldest first, and its own certificate and list.

    --check looks at the last certificate of each name, the authority's own and its revocation list:
    they must not end within the days of --expiring (30 where it is not given).
    """
    now = _now()
    authority = Authority.load(ca)
    issued = authority.issued()
    ending = _ending(authority, issued, ca, now, 30 if expiring is None else expiring)
    if expiring is not None:
        until = now + timedelta(days=expiring)
        issued = [one for one in issued if one.revoked is None and one.not_after < until]
    rows = [row_of(item, now) for item in issued if state is None or item.state(now) is state]
    if json:
        print_json({"certificates": rows, "ending": ending} if check else rows)
    else:
        print_rows(rows)
    for one in ending if check else []:
        say(f"{one['what']} {'ended' if one['ended'] else 'ends'} on {one['not_after']}")
    if check and ending:
        raise typer.Exit(FAILED)


def _ending(
    authority: Authority, issued: Sequence[Issued], ca: Path, now: datetime, days: int
) -> list[dict[str, str | bool]]:
    """What is in use and ends within so many days, or has ended, the first to end first."""
    ends = [(f"authority {ca / CA_CERTIFICATE}", authority.certificate.not_valid_after_utc)]
    crl_end = read_crl(ca / CA_CRL).next_update_utc
    if crl_end is not None:
        ends.append((f"revocation list {ca / CA_CRL}", crl_end))
    newest: dict[tuple[str, str], datetime] = {}
    for item in issued:
        if item.revoked is None:
            key = (item.use.value, item.name)
            newest[key] = max(item.not_after, newest.get(key, item.not_after))
    ends += [(f"{use} {name}", end) for (use, name), end in newest.items()]
    until = now + timedelta(days=days)
    return [
        {"what": what, "not_after": iso(end), "ended": end < now}
        for what, end in sorted(ends, key=lambda one: one[1])
        if end < until
    ]


@app.command()
@told
def crl(*, ca: CaFolder = Path("certs"), days: Days = CRL_DAYS, json: AsJson = False) -> None:
    """Sign the revocation list again, before it ends."""
    signed = Authority.load(ca).write_crl(now=_now(), days=days)
    answer = file_row(ca / CA_CRL, signed.next_update_utc, [ca / CA_CRL])
    if json:
        print_json(answer | {"revoked": len(signed)})
    else:
        typer.echo(f"{answer['path']}  {len(signed)} revoked  valid until {answer['valid_until']}")


# --- which certificates ------------------------------------------------------------------------


def _wanted(names: Sequence[str], ranges: Sequence[str]) -> list[str]:
    """Every name once, in the order given; a range written like those of the settings."""
    wanted = dict.fromkeys(names)
    for text in ranges:
        try:
            span = TerminalRange.parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--range") from error
        if len(span) > NAMES_MAX:
            raise typer.BadParameter(f"more than {NAMES_MAX} ids", param_hint="--range")
        for number in range(span.first, span.last + 1):
            wanted[f"{span.prefix}{number:0{span.digits}d}"] = None
    if not wanted:
        raise typer.BadParameter("give names or --range")
    return [file_stem(name) for name in wanted]


def _crl_is_due(path: Path, now: datetime) -> bool:
    if not path.exists():
        return True
    end = read_crl(path).next_update_utc
    return end is not None and end - now < _RENEW_CRL_BEFORE


def _hex(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return f"{int(text.replace(':', ''), 16):x}"
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: not a hexadecimal number") from error


def _now() -> datetime:
    return utc(SystemClock().wall_ms())
