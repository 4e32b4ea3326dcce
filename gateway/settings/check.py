"""What `gateway check` looks at: a configuration, the files it names and the addresses it wants."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from gateway.settings.address_rules import listen_addresses
from gateway.settings.addresses import ListeningSocket, clash, numeric_host, split_address
from gateway.settings.certificates import CertificateChecks, Named
from gateway.settings.draft import Part
from gateway.settings.findings import Finding, Findings, shown_value
from gateway.settings.lines import KeyPath
from gateway.settings.loader import Reading, read, resolve

# struct sockaddr_un, sun_path: 108 bytes with the one that ends it (Linux, man 7 unix).
_SOCKET_PATH_BYTES_MAX = 107


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found; `ok` says that the daemon would start with it, as far as can be told."""

    findings: tuple[Finding, ...]
    version: str  # of the configuration; "" where a file could not be read

    @property
    def ok(self) -> bool:
        return all(finding.severity != "error" for finding in self.findings)


def check(path: Path, *, now: datetime, addresses_in_use: Sequence[ListeningSocket]) -> Report:
    """Everything that is wrong with a configuration and with what it names.

    Nothing is opened but files, and those only to read: no socket, no database. `now` is what
    certificates are held against (with its time zone); `addresses_in_use` comes from
    `addresses.listening_sockets`.
    """
    reading = read(path)
    if reading.top is not None:
        looker = _Checks(reading, reading.top, now=now)
        looker.listeners()
        looker.upstreams()
        looker.keyring()
        looker.places()
        looker.alarm_command()
        looker.operators()
        looker.addresses(addresses_in_use)
    return Report(tuple(reading.findings.in_order()), reading.version)


class _Checks:
    """The checks of one configuration against the machine it is to run on."""

    def __init__(self, reading: Reading, top: Part, *, now: datetime) -> None:
        self._file = reading.file
        self._findings: Findings = reading.findings
        self._top = top
        self._certificates = CertificateChecks(
            reading.findings,
            now=now,
            expiring_days=int(top.part("alarms").number("certificate_days") or 0),
            production=top.part("node").flag("production"),
        )

    def listeners(self) -> None:
        for listener in self._top.parts("listeners"):
            if listener.text("security") == "plain" and listener.text("macs") == "by_profile":
                self._findings.warning(
                    listener.at("security"),
                    "identity on this listener rests on address range and terminal id only",
                    'write "mutual-tls" wherever the terminals can do it, or have macs required',
                )
            tls = listener.part("tls")
            certificate, key = self._named(tls, "certificate"), self._named(tls, "key")
            if certificate and key:
                self._certificates.pair(certificate, key)
            ca, crl = self._named(tls, "client_ca"), self._named(tls, "crl")
            authorities = self._certificates.authorities(ca) if ca else []
            if crl:
                self._certificates.revocations(crl, authorities)

    def upstreams(self) -> None:
        for upstream in self._top.parts("upstreams"):
            if upstream.flag("plain"):
                self._findings.warning(
                    upstream.at("plain"),
                    "requests to this upstream travel unencrypted",
                    "add a [upstreams.tls] table wherever the acquirer offers TLS",
                )
            tls = upstream.part("tls")
            ca, certificate = self._named(tls, "ca"), self._named(tls, "certificate")
            key = self._named(tls, "key")
            if ca:
                self._certificates.authorities(ca)
            if certificate and key:
                self._certificates.pair(certificate, key)

    def keyring(self) -> None:
        keys = self._top.part("keys")
        keyring = self._named(keys, "keyring")
        if keyring is None:
            return
        kind = _kind(keyring.file)
        if kind == "file":
            self._certificates.private_file(keyring, "the keyring")
            if not os.access(keyring.file, os.R_OK):
                self._findings.error(
                    keyring.path,
                    f"{keyring.file} cannot be read",
                    "make it readable for the gateway's user, and for nobody else",
                )
        elif kind != "absent":
            self._findings.error(keyring.path, f"{keyring.file} is no file", "name a file")
        elif keys.flag("create"):
            self._writable(keyring)
        else:
            self._findings.error(
                keyring.path,
                f"{keyring.file} does not exist",
                "correct the path, or have one made: `gateway keys init`, or create = true",
            )
        for name in ("kek", "kek_next"):
            if keys.has(name):
                self._key_encryption_key(keys.part(name), keyring)

    def _key_encryption_key(self, kek: Part, keyring: Named) -> None:
        """The files that a key-encryption key is made of, or reached by."""
        named = [self._named(kek, key) for key in ("passphrase_file", "pin_file")]
        named += [
            Named(path, resolve(self._file, text)) for path, text in kek.texts("component_files")
        ]
        for one in named:
            if one is None:
                continue
            if _kind(one.file) == "file":
                self._certificates.private_file(one, "what leads to every key")
            elif not self._top.part("keys").flag("create"):
                self._findings.error(
                    one.path, f"{one.file} is no file", "correct the path, or have it brought"
                )
            if one.file.parent == keyring.file.parent:
                self._findings.warning(
                    one.path,
                    f"{one.file} lies beside the keyring: one copy has both",
                    "keep it in another folder, on another disk where there is one",
                )
        module = self._named(kek, "pkcs11_module")
        if module is not None and _kind(module.file) != "file":
            self._findings.error(
                module.path, f"{module.file} is no file", "name the token's library"
            )

    def places(self) -> None:
        """Where the daemon writes: its store, its log, its admin socket."""
        store = self._named(self._top.part("store"), "path")
        log = self._named(self._top.part("log"), "file")
        admin = self._named(self._top.part("node"), "admin_socket")
        for named in (store, log):
            if named and _kind(named.file) == "folder":
                self._findings.error(named.path, f"{named.file} is a folder", "name a file in it")
            elif named:
                self._writable(named)
        if admin:
            self._writable(admin)
            length = len(os.fsencode(admin.file))
            if length > _SOCKET_PATH_BYTES_MAX:
                self._findings.error(
                    admin.path,
                    f"{admin.file} is {length} bytes long",
                    f"a socket's path has {_SOCKET_PATH_BYTES_MAX} at most: name a shorter one",
                )

    def alarm_command(self) -> None:
        command = next(self._top.part("alarms").texts("command"), None)
        if command is not None and shutil.which(command[1], path=self._search_path()) is None:
            self._findings.error(
                command[0],
                f"{shown_value(command[1])} is no program that can be run",
                "write the absolute path of an executable file",
            )

    def operators(self) -> None:
        """Users and groups that this machine does not know give nobody anything."""
        for operator in self._top.parts("operators"):
            for path, user in operator.texts("users"):
                if not user.isdigit() and not _known(pwd.getpwnam, user):
                    self._findings.warning(
                        path,
                        f"there is no user {shown_value(user)} on this machine",
                        "write a user's name or number; `getent passwd` lists those there are",
                    )
        node = self._top.part("node")
        group = node.text("admin_group")
        if group is not None and not _known(grp.getgrnam, group):
            self._findings.error(
                node.at("admin_group"),
                f"there is no group {shown_value(group)} on this machine",
                "`getent group` lists those there are",
            )

    def addresses(self, in_use: Sequence[ListeningSocket]) -> None:
        own_pid = self._daemon_pid()
        for path, text, shared in listen_addresses(self._top):
            try:
                host_text, port = split_address(text)
            except ValueError:
                continue
            host = numeric_host(host_text)
            for socket in in_use:
                # A port that is shared openly may be another node's; the kernel decides.
                if host is None or shared or port == 0 or socket.port != port:
                    continue
                meets = clash(host, socket.host)
                if meets != "no" and own_pid not in socket.pids:
                    self._in_use(path, text, socket, own_pid, certain=meets == "yes")

    # --- helpers --------------------------------------------------------------------------------

    def _in_use(
        self,
        path: KeyPath,
        text: str,
        socket: ListeningSocket,
        own_pid: int | None,
        *,
        certain: bool,
    ) -> None:
        if socket.pids:
            owner = f"{socket.command or 'process'} (pid {min(socket.pids)})"
            report = self._findings.error if certain else self._findings.warning
            remedy = "stop that program, or listen on another port"
        else:
            owner = "a process that this user may not see"
            # With our own daemon running it is most likely that one.
            is_likely_own = own_pid is not None
            report = (
                self._findings.error if certain and not is_likely_own else self._findings.warning
            )
            remedy = "run this check as the gateway's user or as root to see whose it is"
        verb = "is in use by" if certain else "may be in use by"
        report(path, f"{shown_value(text)} {verb} {owner}", remedy)

    def _daemon_pid(self) -> int | None:
        """The pid in the lock file beside the store, which a running daemon writes."""
        store = self._named(self._top.part("store"), "path")
        if store is None:
            return None
        try:
            pid = int(store.file.with_name(store.file.name + ".lock").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid if Path(f"/proc/{pid}").exists() else None

    def _named(self, part: Part, key: str) -> Named | None:
        text = part.text(key)
        return Named(part.at(key), resolve(self._file, text)) if text else None

    def _writable(self, named: Named) -> None:
        """The file's folder takes new files; where it is absent, the daemon can make it."""
        folder = named.file.parent
        nearest = next(place for place in (folder, *folder.parents) if _kind(place) != "absent")
        if _kind(nearest) != "folder":
            self._findings.error(
                named.path, f"{nearest} is no folder", "name a file in a folder that can be made"
            )
        elif not os.access(nearest, os.W_OK | os.X_OK):
            self._findings.error(
                named.path,
                f"the folder {nearest} cannot be written to",
                "give it to the gateway's user, or name another",
            )

    def _search_path(self) -> str:
        return os.environ.get("PATH", os.defpath)


def _known(look_up: Callable[[str], object], name: str) -> bool:
    try:
        look_up(name)
    except KeyError:
        return False
    return True


def _kind(file: Path) -> Literal["file", "folder", "other", "absent"]:
    """What lies at a path; what cannot be reached counts as absent."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return "absent"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"
