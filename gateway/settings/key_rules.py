"""The rules of what keys are used for: which MACs, PINs and data go together, on both sides."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.settings.draft import Part
from gateway.settings.findings import Findings
from gateway.wire.dialect import Dialect

_DES = frozenset(("DES", "TDES-2"))
_TDES = frozenset(("TDES-2", "TDES-3"))
_AES = frozenset(("AES-128", "AES-192", "AES-256"))
_ANY = _DES | _TDES | _AES | {"SM4"}
_MAC_ALGORITHMS = {
    "x9.19": _DES,
    "x9.19-pad2": _DES,
    "unionpay-ecb": _DES,
    "unionpay-cbc": _DES,
    "cbc": _ANY,
    "tdes-cmac": _TDES,
    "aes-cmac": _AES,
    "sm4-cmac": frozenset(("SM4",)),
    "unionpay-sm4": frozenset(("SM4",)),
}
_FORM_ALGORITHMS = {"tr31-b": _DES | _TDES, "tr31-d": _TDES | _AES}
_TRACKS = (35, 36)
_DATA_FIELDS = (2, 35, 36, 45, 55)
_PIN_BLOCK, _MACS = 52, (64, 128)


def check_keys(top: Part, findings: Findings) -> None:
    """Report what is asked of messages and cannot be had, or protects nothing."""
    production = top.part("node").flag("production")
    has_macs = any(profile.part("keys").text("mac") for profile in top.parts("profiles"))
    for listener in top.parts("listeners"):
        _listener(listener, findings, has_macs=has_macs, production=production)
    for profile in top.parts("profiles"):
        _profile(profile.part("keys"), findings)
    for upstream in top.parts("upstreams"):
        _upstream(upstream, findings)


def _listener(listener: Part, findings: Findings, *, has_macs: bool, production: bool) -> None:
    macs = listener.text("macs")
    plain = listener.text("security") == "plain"
    if plain and macs == "by_profile" and production:
        findings.error(
            listener.at("macs"),
            "whoever reaches this plain listener can send payments in any terminal's name",
            'remove it, so that MACs are required, or write security = "mutual-tls"',
        )
    required = macs == "required" or (plain and macs is None and not listener.has("macs"))
    if required and not has_macs:
        findings.error(
            listener.at("macs" if listener.has("macs") else "security"),
            "every financial message needs a MAC here, and no profile has one",
            'write mac = "x9.19" or its like in a [profiles.keys] table, or macs = "by_profile" on'
            " the listener (development)",
        )


def _profile(keys: Part, findings: Findings) -> None:
    working, pin, data = keys.part("working"), keys.part("pin"), keys.part("data")
    mac = keys.text("mac")
    if keys.has("working"):
        purposes = [text for _, text in working.texts("purposes")] or ["pin", "mac"]
        _lengths(working, mac, findings, purposes=purposes)
        if mac is not None and "mac" not in purposes:
            findings.error(
                working.at("purposes"),
                "leaves out the MAC key that mac asks for",
                'add "mac"',
            )
        after_h, overlap_s = working.number("rotate_after_h"), working.number("overlap_s")
        if after_h is not None and overlap_s is not None and overlap_s >= after_h * 3_600:
            findings.error(
                working.at("overlap_s" if working.has("overlap_s") else "rotate_after_h"),
                "old keys would work as long as new ones",
                "set overlap_s to less than rotate_after_h",
            )
        if keys.has("data") and "data" not in purposes:
            findings.error(
                working.at("purposes"),
                "leaves out the data key that the data table asks for",
                'add "data", or remove the data table',
            )
    if keys.has("pin"):
        session = pin.text("key") == "session"
        algorithm = working.text("algorithm") if keys.has("working") and session else None
        _pin_format(pin, "format", algorithm, findings)
    if keys.has("data"):
        _data_form(data, "fields", "form", findings)
    if keys.has("mac_exempt") and mac is None:
        findings.warning(
            keys.at("mac_exempt"), "is not used: no MAC is asked for", "add mac, or remove it"
        )


def _upstream(upstream: Part, findings: Findings) -> None:
    keys = upstream.part("keys")
    exchange = keys.part("exchange")
    mac, pin = keys.text("mac"), keys.text("pin")
    if keys.has("mac_network") and mac is None:
        findings.error(keys.at("mac_network"), "there is no MAC to put into them", "add mac")
    for key, used_by in (("pin_format", "translate"), ("security_control", "translate")):
        if keys.has(key) and pin != used_by:
            findings.warning(
                keys.at(key), "is not used: no PIN is translated", 'write pin = "translate"'
            )
    algorithm = exchange.text("algorithm") if keys.has("exchange") else None
    if pin == "translate":
        _pin_format(keys, "pin_format", algorithm, findings)
    _data_form(keys, "data_fields", "data_form", findings)
    if not keys.has("exchange"):
        return
    purposes = [text for _, text in exchange.texts("purposes")] or ["zone-pin", "zone-mac"]
    _lengths(exchange, mac, findings, purposes=purposes)
    if exchange.flag("by_terminal") and upstream.text("knows_terminals") != "one_by_one":
        findings.error(
            exchange.at("by_terminal"),
            "the upstream knows no terminals",
            'write knows_terminals = "one_by_one", with network.sign_on = true',
        )
    elif exchange.flag("by_terminal") and not upstream.part("network").flag("sign_on"):
        findings.error(
            exchange.at("by_terminal"),
            "keys come with a terminal's sign-on, and there is none",
            "write sign_on = true in [upstreams.network]",
        )
    wanted = {
        "zone-mac": mac is not None,
        "zone-pin": pin == "translate",
        "zone-data": keys.has("data_fields"),
    }
    for purpose, is_used in wanted.items():
        if is_used and purpose not in purposes:
            findings.warning(
                exchange.at("purposes"),
                f"brings no {purpose} key, which is used",
                "add it, or enter one by `gateway keys import`",
            )


def check_key_fields(top: Part, dialects: Mapping[str, Dialect], findings: Findings) -> None:
    """Report what a dialect has no field for."""
    for upstream in top.parts("upstreams"):
        dialect = dialects.get(upstream.text("dialect") or "")
        if dialect is None:
            continue
        keys = upstream.part("keys")
        if keys.text("mac") is not None and "64" not in dialect.spec:
            findings.error(
                keys.at("mac"), f"dialect {dialect.name} has no DE64", "add it to the dialect"
            )
        block = dialect.spec.get(str(_PIN_BLOCK))
        if keys.text("pin") == "translate" and block is None:
            findings.error(
                keys.at("pin"), f"dialect {dialect.name} has no DE52", "add it to the dialect"
            )
        elif keys.text("pin") == "translate" and block is not None:
            has_bytes = block["max_len"] // (1 if block["data_enc"] == "b" else 2)
            needs = 16 if keys.text("pin_format") == "4" else 8
            if has_bytes != needs:
                findings.error(
                    keys.at("pin_format" if keys.has("pin_format") else "pin"),
                    f"makes PIN blocks of {needs} bytes, and DE52 of dialect {dialect.name} has"
                    f" {has_bytes}",
                    "choose another format, or a dialect whose DE52 fits",
                )
        for path, number in _numbers(keys, "data_fields"):
            if str(number) not in dialect.spec:
                findings.error(
                    path,
                    f"dialect {dialect.name} has no DE{number}",
                    "correct the number, or add the field to the dialect",
                )
    for listener in top.parts("listeners"):
        dialect = dialects.get(listener.text("dialect") or "")
        if dialect is not None and listener.text("macs") == "required" and "64" not in dialect.spec:
            findings.error(
                listener.at("macs"), f"dialect {dialect.name} has no DE64", "add it to the dialect"
            )


# --- what keys can do ----------------------------------------------------------------------------


def _lengths(part: Part, mac: str | None, findings: Findings, *, purposes: list[str]) -> None:
    """The algorithms fit the form that keys travel in, and the MAC."""
    algorithm, form = part.text("algorithm"), part.text("form") or ""
    mac_algorithm = part.text("mac_algorithm")
    for key, value in (("algorithm", algorithm), ("mac_algorithm", mac_algorithm)):
        if value is not None and value not in _FORM_ALGORITHMS.get(form, _ANY):
            findings.error(
                part.at(key if part.has(key) else "form"),
                f"a {form} key block carries no {value} key",
                "choose another form: tr31-d carries AES keys, tr31-b TDES keys",
            )
    used = mac_algorithm or algorithm
    if mac is not None and used is not None and used not in _MAC_ALGORITHMS.get(mac, _ANY):
        key = "mac_algorithm" if part.has("mac_algorithm") else "algorithm"
        findings.error(
            part.at(key),
            f"the MAC {mac} is not made with {used} keys",
            f"write one of {', '.join(sorted(_MAC_ALGORITHMS[mac]))} in mac_algorithm",
        )
    if len(set(purposes)) != len(purposes):
        findings.error(part.at("purposes"), "names a purpose twice", "name each once")


def _pin_format(part: Part, key: str, algorithm: str | None, findings: Findings) -> None:
    text = part.text(key)
    if text is None or algorithm is None:
        return
    if algorithm != "SM4" and (text == "4") != (algorithm in _AES):
        findings.error(
            part.at(key if part.has(key) else "algorithm"),
            f"PIN blocks of format {text} are not encrypted under {algorithm} keys",
            "format 4 goes with AES and SM4, the others with TDES",
        )


def _data_form(part: Part, fields: str, form: str, findings: Findings) -> None:
    for path, number in _numbers(part, fields):
        if number not in _DATA_FIELDS:
            findings.error(
                path,
                f"DE{number} holds nothing that is encrypted",
                f"name one of {', '.join(map(str, _DATA_FIELDS))}",
            )
        elif part.text(form) == "unionpay" and number not in _TRACKS:
            findings.error(
                path,
                f"DE{number} is no track, of which the unionpay form encrypts 16 digits",
                f'leave it out, or write {form} = "whole"',
            )


def _numbers(part: Part, key: str) -> list[tuple[tuple[str | int, ...], int]]:
    raw = part.raw.get(key)
    return [
        ((*part.at(key), index), element)
        for index, element in enumerate(raw if isinstance(raw, list) else ())
        if isinstance(element, int) and not isinstance(element, bool)
    ]
