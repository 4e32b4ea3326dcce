"""What a running gateway cannot take up: told by key, and with it the rest is left alone."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from gateway.settings.findings import Finding, Findings
from gateway.settings.lines import KeyPath
from gateway.settings.loader import Configuration

# Tables that are taken up while the gateway runs; all others need a restart, new ones too until
# somebody says here that they do not.
RELOADABLE = frozenset(
    (
        "profiles",
        "merchants",
        "routes",
        "groups",
        "upstreams",
        "terminal_groups",
        "registry",
        "concentrators",
        "operators",
        "approvals",
        "reload",
        "blocklists",
        "downloads",
        "lockout",
        "backup",
        "sealing",
        "keys.kek_next",
        "keys.overlap_s",
        "keys.lifetime_days",
        "keys.warn_days",
        "keys.step_rows",
        "keys.pause_ms",
        "keys.component_wait_s",
        "keys.different_operators",
        "log.level",
    )
)
_REMEDY = "restart the gateway to have it, or take the change back: nothing else was taken up"


def needs_restart(old: Configuration, new: Configuration) -> list[Finding]:
    """Every change that only a restart takes up; empty where the whole can be taken up now."""
    findings = Findings(new.file)
    findings.locate_in(new.source)
    for path in _changed(old.settings, new.settings, (), RELOADABLE):
        findings.error(path, "is changed, and is taken up at a start only", _REMEDY)
    for path in _calls_changed(old, new):
        findings.error(path, "is changed, and is listened on from a start only", _REMEDY)
    used = _dialects_in_use(new)
    for name in sorted(used & old.dialects.keys() & new.dialects.keys()):
        if old.dialects[name].sha256 != new.dialects[name].sha256:
            findings.error(
                ("dialects",), f"the dialect {name} is changed, and links are open in it", _REMEDY
            )
    return findings.in_order()


def _changed(
    old: BaseModel, new: BaseModel, path: KeyPath, reloadable: frozenset[str]
) -> Iterator[KeyPath]:
    for key in type(new).model_fields:
        here = (*path, key)
        name = ".".join(map(str, here))
        before, after = getattr(old, key), getattr(new, key)
        if name in reloadable or before == after:
            continue
        if any(one.startswith(f"{name}.") for one in reloadable) and isinstance(after, BaseModel):
            yield from _changed(before, after, here, reloadable)
        elif isinstance(after, BaseModel):
            yield from _changed(before, after, here, frozenset())
        else:
            yield here


def _calls_changed(old: Configuration, new: Configuration) -> Iterator[KeyPath]:
    """Upstreams that would be called by now where they were not, elsewhere, or no more.

    One that is removed is no such: it stops listening once nothing is owed to it.
    """
    before = {one.name: one.listen for one in old.settings.upstreams}
    for index, upstream in enumerate(new.settings.upstreams):
        if upstream.listen != before.get(upstream.name):
            yield ("upstreams", index, "listen")


def _dialects_in_use(configuration: Configuration) -> set[str]:
    settings = configuration.settings
    return {one.dialect for one in settings.listeners} | {one.dialect for one in settings.upstreams}
