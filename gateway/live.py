"""What a node swaps when its configuration is edited: made ready in a thread, swapped at once."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from gateway.clock import SystemClock
from gateway.errors import OperatorError
from gateway.policy.blockfiles import Parsed, assemble, parse
from gateway.policy.blocklists import Blocklists, ListName
from gateway.policy.decide import Policy
from gateway.policy.limits import Limits
from gateway.policy.permissions import Permissions, Place
from gateway.routes import router_of
from gateway.settings.findings import Finding, SettingsError
from gateway.settings.lines import KeyPath, Lines
from gateway.settings.loader import Configuration
from gateway.settings.reload import Prepared
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.settings.sources import download_files, list_files
from gateway.terminals.concentrators import Concentrators
from gateway.terminals.download_files import DownloadSet, read_downloads
from gateway.terminals.enrolment import Terms
from gateway.terminals.registry import terms_of
from gateway.transactions.version import Version
from gateway.upstreams.routing import Pending, Share
from gateway.upstreams.upstream import Means
from gateway.wire.editions import codec_of
from gateway.wire.revocation import CertificateUnusable
from gateway.wire.tls import calls_context, client_context

if TYPE_CHECKING:
    from gateway.node import Node  # `gateway check` needs none, and starts faster without


@dataclass(frozen=True, slots=True)
class ReadList:
    """One blocklist file, and of which content."""

    sha256: str
    parsed: Parsed


@dataclass(frozen=True, slots=True)
class Parts:
    """All of a configuration that can be swapped while a node runs."""

    permissions: Permissions
    blocklists: Blocklists
    terms: Terms
    concentrators: Concentrators
    lists: Mapping[ListName, ReadList]
    means: Sequence[Means]  # of the upstreams
    downloads: DownloadSet


def prepare(configuration: Configuration, before: Prepared[Parts] | None = None) -> Prepared[Parts]:
    """Everything that is swapped, from a configuration whose own file was found right.

    Reads the blocklists, but not those that `before` has in the same content: call it in a thread.
    Raises SettingsError with every finding.
    """
    settings = configuration.settings
    findings: list[Finding] = []
    zone_is_same = before is None or (
        before.configuration.settings.blocklists == settings.blocklists
    )
    known = before.parts.lists if before is not None and zone_is_same else {}
    lists = _lists(configuration, known, findings)
    try:
        terms = terms_of(
            ranges=settings.registry.ranges,
            default_profile=settings.registry.default_profile,
            profiles=[profile.name for profile in settings.profiles],
        )
    except OperatorError as error:
        findings.append(_finding(configuration.file, 1, str(error), "correct registry.ranges"))
    try:
        means = all_means(configuration)
    except CertificateUnusable as error:
        findings.append(_finding(configuration.file, 1, str(error), "correct [upstreams.tls]"))
    downloads = DownloadSet()
    if download_files(configuration):
        folder = configuration.resolve(settings.downloads.folder)
        room = settings.downloads.answer_bytes_max
        downloads, wrong = read_downloads(folder, answer_bytes_max=room)
        findings += wrong
    if findings:
        raise SettingsError(findings)
    parts = Parts(
        permissions=Permissions(
            settings.profiles,
            settings.merchants,
            zone_of=ZoneInfo,
            place=_place_in(configuration),
        ),
        blocklists=assemble([one.parsed for one in lists.values()]),
        terms=terms,
        concentrators=Concentrators(settings.concentrators),
        lists=lists,
        means=means,
        downloads=downloads,
    )
    sizes = {f"blocklist {name}": one.parsed.count for name, one in lists.items()}
    return Prepared(configuration, parts, sizes)


def all_means(configuration: Configuration) -> list[Means]:
    """What each upstream is spoken to with; reads their certificates.

    Raises CertificateUnusable.
    """
    return [
        Means(
            settings=settings,
            codec=codec_of(configuration.dialects[settings.dialect], SystemClock().wall_ms),
            dialects=configuration.dialects,
            tls=_client_tls(configuration, settings),
            terminals=configuration.terminals.get(settings.name, {}),
        )
        for settings in configuration.settings.upstreams
    ]


def _client_tls(configuration: Configuration, upstream: UpstreamSettings) -> ssl.SSLContext | None:
    tls = upstream.tls
    if tls is None:
        return None
    if upstream.listen is not None and tls.certificate and tls.key:
        return calls_context(
            configuration.resolve(tls.ca),
            certificate=configuration.resolve(tls.certificate),
            key=configuration.resolve(tls.key),
        )
    return client_context(
        configuration.resolve(tls.ca),
        certificate=configuration.resolve(tls.certificate) if tls.certificate else None,
        key=configuration.resolve(tls.key) if tls.key else None,
    )


def version_of(
    prepared: Prepared[Parts], *, limits: Limits, pending: Pending, share: Share | None = None
) -> Version:
    """What decides on requests, over the counters that all versions share; not in a thread."""
    configuration, parts = prepared.configuration, prepared.parts
    return Version(
        Policy(
            permissions=parts.permissions,
            blocklists=parts.blocklists,
            limits=limits,
            version=configuration.version,
        ),
        router_of(configuration, pending=pending, share=share),
    )


class Live:
    """Puts a prepared configuration in force in a running node."""

    def __init__(
        self,
        node: Node,
        *,
        version: Callable[[Prepared[Parts]], Version],
        swapped: Callable[[], None],
    ) -> None:
        """`swapped` is told after each: connections of who is blocked now are to be closed."""
        self._node = node
        self._version = version
        self._swapped = swapped

    def swap(self, prepared: Prepared[Parts]) -> None:
        """From now on new requests are decided by this one; from one line of this to the next
        nobody else runs, so that no request sees half of it."""
        node, parts = self._node, prepared.parts
        node.configuration = prepared.configuration
        # First: the routes name what is in the pool.
        node.pool.apply(parts.means, groups=prepared.configuration.settings.groups)
        node.flow.swap(self._version(prepared))
        node.rates.use(prepared.configuration.settings.rates)
        node.guard.use(
            prepared.configuration.settings.profiles, prepared.configuration.settings.lockout
        )
        node.registry.use(parts.terms)
        node.concentrators.use(parts.concentrators)
        node.downloads.use(prepared.configuration.settings.downloads, parts.downloads)
        node.log.set_level(prepared.configuration.settings.log.level)
        self._swapped()


def _lists(
    configuration: Configuration, known: Mapping[ListName, ReadList], findings: list[Finding]
) -> dict[ListName, ReadList]:
    settings = configuration.settings.blocklists
    found: dict[ListName, ReadList] = {}
    for text, file in list_files(configuration).items():
        name = ListName(text)
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            findings.append(
                _finding(
                    file,
                    1,
                    f"cannot be read: {error.strerror}",
                    "make it a file that the gateway's user may read, or remove it",
                )
            )
            continue
        sha256 = hashlib.sha256(content).hexdigest()
        before = known.get(name)
        if before is not None and before.sha256 == sha256:
            found[name] = before
            continue
        parsed = parse(
            name,
            content,
            file=str(file),
            zone=ZoneInfo(settings.time_zone),
            entries_max=settings.entries_max,
        )
        findings += (
            _finding(Path(one.file), one.line, one.problem, one.remedy) for one in parsed.problems
        )
        found[name] = ReadList(sha256, parsed)
    return found


def _place_in(configuration: Configuration) -> Place:
    lines = Lines(configuration.source)
    name = configuration.file.name

    def place(path: KeyPath, /) -> str:
        return f"{name}:{lines.of(path)}"

    return place


def _finding(file: Path, line: int, problem: str, remedy: str) -> Finding:
    return Finding(
        file=str(file), line=line, path="", problem=problem, remedy=remedy, severity="error"
    )
