"""The rules that tie values of a configuration to each other; nothing outside the file is read."""

from __future__ import annotations

import re
from collections.abc import Collection

from gateway.settings.address_rules import (
    check_address,
    check_listen,
    check_listen_twice,
    check_metrics,
    check_networks,
)
from gateway.settings.draft import Part
from gateway.settings.findings import Findings, shown_value
from gateway.settings.health_rules import check_health, check_network
from gateway.settings.key_rules import check_keys
from gateway.settings.keyring_rules import check_keyring
from gateway.settings.lines import KeyPath
from gateway.settings.policy_rules import check_policy
from gateway.settings.route_rules import check_routes
from gateway.settings.upstream_rules import check_boarding
from gateway.settings.wording import did_you_mean
from gateway.wire.framing import LENGTH_MAX, PREFIX_BYTES

_NAMED = (
    "listeners",
    "upstreams",
    "groups",
    "routes",
    "profiles",
    "concentrators",
    "operators",
    "terminal_groups",
)
_TPDU_BYTES = 5
_MESSAGE_BYTES_MIN = 10  # A BCD message type and one binary bitmap.
_TERMINAL_ID_CHARS = 8
_MERCHANT_ID_CHARS_MAX = 15
_RANGE_REMEDY = (
    "write two ids of 8 characters that differ only in digits at their end, such as"
    ' "T0000001-T0000999"'
)


def check_values(top: Part, findings: Findings) -> None:
    """Report everything that the types alone do not show, except names of dialects."""
    _unique_names(top, findings)
    _references(top, findings)
    _unused(top, findings)
    for listener in top.parts("listeners"):
        _listener(listener, findings)
    for upstream in top.parts("upstreams"):
        _upstream(upstream, findings)
        check_boarding(upstream, findings)
    check_routes(top, findings)
    for concentrator in top.parts("concentrators"):
        _concentrator(concentrator, findings)
    _registry_ranges(top.part("registry"), findings)
    _operators(top, findings)
    check_policy(top, findings)
    check_keys(top, findings)
    _retention(top, findings)
    check_metrics(top.part("metrics"), findings)
    check_listen_twice(top, findings)
    check_keyring(top, findings)


def check_dialect_names(top: Part, known: Collection[str], findings: Findings) -> None:
    """Report listeners and upstreams whose dialect is none of the known ones."""
    for key in ("listeners", "upstreams"):
        for part in top.parts(key):
            _refer(part, "dialect", known, "dialect", findings)


def _retention(top: Part, findings: Findings) -> None:
    """What a repeat, a void or a refund looks for is still there to be found."""
    retention, repeats = top.part("retention"), top.part("repeats")
    window_days = (repeats.number("window_h") or 0) / 24
    original_days = repeats.number("original_days") or 0
    needed = (
        ("transactions_days", max(window_days, original_days), "repeats.original_days"),
        ("tombstones_days", window_days, "repeats.window_h"),
    )
    for key, least_days, because in needed:
        days = retention.number(key)
        if days is not None and days < least_days:
            findings.error(
                retention.at(key),
                f"{days:g} days are fewer than {because} looks back",
                f"write {least_days:g} or more, or lower {because}",
            )


# --- names ---------------------------------------------------------------------------------------


def _unique_names(top: Part, findings: Findings) -> None:
    for key in _NAMED:
        seen: dict[str, KeyPath] = {}
        for part in top.parts(key):
            name = part.text("name")
            if name is None:
                continue
            first = seen.setdefault(name, part.at("name"))
            if first != part.at("name"):
                findings.error(
                    part.at("name"),
                    f"{shown_value(name)} is already used on line {findings.line_of(first)}",
                    f"give each of the {key} a name of its own",
                )


def _names(top: Part, key: str) -> set[str]:
    """Every name that was written, even if something else is wrong with its table."""
    names = (part.raw.get("name") for part in top.parts(key))
    return {name for name in names if isinstance(name, str)}


def _refer(part: Part, key: str, known: Collection[str], what: str, findings: Findings) -> None:
    name = part.text(key)
    if name is not None and name not in known:
        findings.error(
            part.at(key),
            f"no {what} is named {shown_value(name)}",
            did_you_mean(name, known, what=what),
        )


def _references(top: Part, findings: Findings) -> None:
    upstreams, groups = _names(top, "upstreams"), _names(top, "groups")
    profiles = _names(top, "profiles")
    for group in top.parts("groups"):
        seen: set[str] = set()
        for member in group.parts("members"):
            _refer(member, "upstream", upstreams, "upstream", findings)
            name = member.text("upstream")
            if name is not None and name in seen:
                findings.error(
                    member.at("upstream"),
                    f"{shown_value(name)} is in this group already",
                    "name each upstream once, and set its share with weight",
                )
            seen.update((name,) if name else ())
    for route in top.parts("routes"):
        _refer(route, "group", groups, "group", findings)
    registry = top.part("registry")
    _refer(registry, "default_profile", profiles, "profile", findings)
    for device_range in registry.parts("ranges"):
        _refer(device_range, "profile", profiles, "profile", findings)


def _unused(top: Part, findings: Findings) -> None:
    """What is configured and can never be reached was hardly meant so."""
    members = {m.text("upstream") for group in top.parts("groups") for m in group.parts("members")}
    routed = {route.text("group") for route in top.parts("routes")}
    for upstream in top.parts("upstreams"):
        if upstream.text("name") not in (members | {None}):
            findings.warning(
                upstream.at("name"), "is in no group, so nothing is sent to it", "add it to a group"
            )
    for group in top.parts("groups"):
        if group.text("name") not in (routed | {None}):
            findings.warning(
                group.at("name"), "no route names this group", "add a route, or remove the group"
            )
    grouped = {name for route in top.parts("routes") for _, name in route.texts("terminal_groups")}
    for terminals in top.parts("terminal_groups"):
        if terminals.text("name") not in (grouped | {None}):
            findings.warning(
                terminals.at("name"), "no route names this group", "add it to one, or remove it"
            )


# --- listeners and upstreams ---------------------------------------------------------------------


def _listener(listener: Part, findings: Findings) -> None:
    security = listener.text("security")
    if security == "mutual-tls" and not listener.has("tls"):
        findings.error(
            listener.at("tls"),
            "is missing on a mutual-tls listener",
            "add a [listeners.tls] table with certificate, key and client_ca",
        )
    if security == "plain" and listener.has("tls"):
        findings.error(
            listener.at("tls"),
            "stands on a plain listener, which would not use it",
            'write security = "mutual-tls", or remove the table',
        )
    check_listen(listener, "listen", findings)
    check_networks(listener, findings)
    framing = listener.part("framing")
    _framing(framing, findings)
    if listener.text("carriage") == "tcp":
        if framing.text("length") == "none":
            findings.error(
                framing.at("length"),
                "says that messages have no length, and a stream cannot be cut without",
                'write the length that the terminals use, or carriage = "http"',
            )
        if listener.has("http"):
            findings.error(
                listener.at("http"),
                "stands on a listener whose carriage is tcp, which would not use it",
                'write carriage = "http", or remove the table',
            )


def _upstream(upstream: Part, findings: Findings) -> None:
    if upstream.has("tls") and upstream.flag("plain"):
        findings.error(
            upstream.at("plain"),
            "the upstream has a tls table too",
            "keep one: the tls table, or plain = true",
        )
    if not upstream.has("tls") and not upstream.flag("plain"):
        findings.error(
            upstream.path,
            "says neither how TLS is done nor that there is none",
            "add a [upstreams.tls] table with ca and server_name, or plain = true",
        )
    if upstream.has("tls"):
        _client_tls(upstream.part("tls"), findings)
    for path, address in upstream.texts("addresses"):
        check_address(path, address, findings, is_listener=False)
    _calls(upstream, findings)
    _framing(upstream.part("framing"), findings)
    _heading(upstream, findings)
    answer_s, late_max_s = upstream.number("answer_s"), upstream.number("late_max_s")
    if answer_s is not None and late_max_s is not None and late_max_s < answer_s:
        findings.error(
            upstream.at("late_max_s" if upstream.has("late_max_s") else "answer_s"),
            f"late_max_s ({late_max_s:g}) is shorter than answer_s ({answer_s:g})",
            "a late answer comes after answer_s: set late_max_s to several times as long",
        )
    for key in ("backoff", "reversal_backoff"):
        _backoff(upstream.part(key), findings)
    check_network(upstream.part("network"), findings)
    check_health(upstream.part("health"), findings)
    for path, code in upstream.texts("approving_codes"):
        if not re.fullmatch("[0-9A-Za-z]{2}", code):
            findings.error(
                path,
                f"{shown_value(code)} is no response code",
                'write the two characters of DE39, such as "00"',
            )


def _calls(upstream: Part, findings: Findings) -> None:
    """Either we call the acquirer, or it calls us."""
    called = bool(list(upstream.texts("addresses")))
    if called and upstream.has("listen"):
        findings.error(
            upstream.at("listen"),
            "says where to be called, and addresses whom to call",
            "remove one of them",
        )
    if not called and not upstream.has("listen"):
        findings.error(
            upstream.at("addresses") if upstream.has("addresses") else upstream.path,
            "names no address to call",
            "write addresses, or listen where the acquirer calls us",
        )
    if not upstream.has("listen"):
        return
    check_listen(upstream, "listen", findings)
    check_networks(upstream, findings, key="callers")
    if upstream.has("tls") and not upstream.part("tls").has("certificate"):
        findings.error(
            upstream.at("tls"),
            "has no certificate to show to the acquirer that calls",
            "add certificate and key",
        )
    if upstream.flag("plain") and not list(upstream.texts("callers")):
        findings.warning(
            upstream.at("listen"),
            "anybody may call here and be taken for the acquirer",
            "write its networks in callers, or use TLS",
        )


def _heading(upstream: Part, findings: Findings) -> None:
    """What is put before each message must be what the framing has room for."""
    framing = upstream.part("framing")
    if framing.text("length") == "none":
        findings.error(
            framing.at("length"),
            "says that messages have no length, and a stream cannot be cut without",
            'write the length that the host uses, such as "binary2"',
        )
    header, header_bytes = upstream.text("header"), framing.number("header_bytes")
    if header is not None and header_bytes is not None and len(header) != 2 * header_bytes:
        findings.error(
            upstream.at("header"),
            f"has {len(header) // 2} bytes where framing.header_bytes is {header_bytes:g}",
            "make both say the same length",
        )
    if upstream.has("tpdu") and not framing.flag("tpdu"):
        findings.warning(
            upstream.at("tpdu"),
            "is not used: the upstream's framing has no TPDU",
            "set framing.tpdu = true, or remove it",
        )


def _client_tls(tls: Part, findings: Findings) -> None:
    if tls.has("certificate") != tls.has("key"):
        here, absent = ("certificate", "key") if tls.has("certificate") else ("key", "certificate")
        findings.error(
            tls.at(here), f"stands without its {absent}", f"add {absent}, or remove {here}"
        )
    if tls.text("server_name") == "":
        findings.error(
            tls.at("server_name"),
            "is empty, so no certificate can fit it",
            "write the host name in the upstream's certificate",
        )


def _backoff(backoff: Part, findings: Findings) -> None:
    first_s, max_s = backoff.number("first_s"), backoff.number("max_s")
    if first_s is not None and max_s is not None and max_s < first_s:
        findings.error(
            backoff.at("max_s" if backoff.has("max_s") else "first_s"),
            f"max_s ({max_s:g}) is shorter than first_s ({first_s:g})",
            "set max_s to the longest wait between two attempts",
        )


def _framing(framing: Part, findings: Findings) -> None:
    length, bytes_max = framing.text("length"), framing.number("frame_bytes_max")
    header_bytes = framing.number("header_bytes")
    if length is None or bytes_max is None:
        return
    includes_itself = framing.flag("length_includes_itself")
    if includes_itself and length not in PREFIX_BYTES:
        findings.error(
            framing.at("length_includes_itself"),
            f'has no meaning with length = "{length}", which is no prefix',
            "remove it",
        )
    if framing.flag("header_counts_itself") and not header_bytes:
        findings.error(
            framing.at("header_counts_itself"),
            "there is no header: header_bytes is 0",
            "set header_bytes to the longest header that is taken, such as 22",
        )
    own = PREFIX_BYTES.get(length, 0) if includes_itself else 0
    largest = LENGTH_MAX.get(length, 65_535) - own
    if bytes_max > largest:
        findings.error(
            framing.at("frame_bytes_max"),
            f"{bytes_max:g} is more than an {length} length can say"
            if length == "ascii4"
            else f"{bytes_max:g} is more than a {length} length can say",
            f"write {largest} at most",
        )
    before = (_TPDU_BYTES if framing.flag("tpdu") else 0) + (header_bytes or 0)
    if before + _MESSAGE_BYTES_MIN > bytes_max:
        key = "header_bytes" if framing.has("header_bytes") else "frame_bytes_max"
        findings.error(
            framing.at(key),
            f"TPDU and header ({before:g} bytes) leave no room for a message in"
            f" frame_bytes_max = {bytes_max:g}",
            f"set frame_bytes_max to {before + _MESSAGE_BYTES_MIN:g} at least",
        )


# --- terminals -----------------------------------------------------------------------------------


def _concentrator(concentrator: Part, findings: Findings) -> None:
    check_networks(concentrator, findings)
    if not concentrator.text("certificate_name") and not concentrator.raw.get("networks"):
        findings.error(
            concentrator.path,
            "has nothing that it is known by",
            "add certificate_name (mutual TLS), networks (plain), or both",
        )
    for path, text in concentrator.texts("terminals"):
        if len(text) > _TERMINAL_ID_CHARS:
            _range(path, text, findings)
        elif not text.strip() or not (text.isascii() and text.isprintable()):
            findings.error(
                path,
                f"{shown_value(text)} names no terminal",
                'write an id ("T0000001"), a prefix ("T00*") or a range ("T0000001-T0000999")',
            )


def _operators(top: Part, findings: Findings) -> None:
    """One person is one operator; and where two must agree, there must be two."""
    known: dict[str, str] = {}
    names: set[str] = set()
    for operator in top.parts("operators"):
        name = operator.text("name") or ""
        names.add(name)
        for path, user in operator.texts("users"):
            if known.setdefault(user, name) != name:
                findings.error(
                    path,
                    f"{shown_value(user)} is operator {shown_value(known[user])} already",
                    "write each user once: who did what is told by it",
                )
    approvals = top.part("approvals")
    if next(approvals.texts("actions"), None) is not None and len(names) < 2:
        findings.error(
            approvals.at("actions"),
            f"wants two operators, and there {'is one' if names else 'are none'}",
            "write two or more [[operators]] tables, or no actions",
        )


def _registry_ranges(registry: Part, findings: Findings) -> None:
    seen: list[tuple[KeyPath, str, int, int]] = []
    for device_range in registry.parts("ranges"):
        _merchant(device_range, findings)
        text = device_range.text("terminals")
        ends = None if text is None else _range(device_range.at("terminals"), text, findings)
        if ends is None:
            continue
        head, first, last = ends
        for path, other_head, other_first, other_last in seen:
            if head == other_head and first <= other_last and other_first <= last:
                findings.error(
                    device_range.at("terminals"),
                    f"{shown_value(text)} overlaps the range on line {findings.line_of(path)}",
                    "let each terminal be in one range only",
                )
        seen.append((device_range.at("terminals"), head, first, last))


def _merchant(device_range: Part, findings: Findings) -> None:
    merchant = device_range.text("merchant")
    if merchant is None:
        return
    is_plain = merchant.isascii() and merchant.isprintable() and merchant.strip() == merchant
    if not is_plain or not 1 <= len(merchant) <= _MERCHANT_ID_CHARS_MAX:
        findings.error(
            device_range.at("merchant"),
            f"{shown_value(merchant)} is no merchant id",
            'write 1 to 15 printable characters, or "*" for any merchant',
        )


def _range(path: KeyPath, text: str, findings: Findings) -> tuple[str, int, int] | None:
    """The head and the two numbers of a range `A-B`, or a finding and None."""
    low, high = text[:_TERMINAL_ID_CHARS], text[_TERMINAL_ID_CHARS + 1 :]
    is_plain = text.isascii() and text.isprintable()
    if not is_plain or len(high) != _TERMINAL_ID_CHARS or text[_TERMINAL_ID_CHARS] != "-":
        findings.error(path, f"{shown_value(text)} is no range of terminals", _RANGE_REMEDY)
        return None
    head = low.rstrip("0123456789")
    if head != high.rstrip("0123456789") or head == low:
        findings.error(
            path, f"the ends of {shown_value(text)} do not count up to each other", _RANGE_REMEDY
        )
        return None
    first, last = int(low[len(head) :]), int(high[len(head) :])
    if last < first:
        findings.error(
            path, f"{shown_value(text)} ends before it begins", f'did you mean "{high}-{low}"?'
        )
        return None
    return head, first, last
