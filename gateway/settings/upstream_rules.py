"""The rules of an upstream's boarding and field rules, and the terminals files that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.errors import EncodeError
from gateway.settings.boarding import BoardedTerminals, read_boarding
from gateway.settings.draft import Part
from gateway.settings.findings import Findings, shown_value
from gateway.settings.lines import KeyPath
from gateway.settings.route_rules import check_merchants
from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect
from gateway.wire.message import (
    AMOUNT,
    APPROVAL_CODE,
    CURRENCY,
    EMV_DATA,
    EXPIRY,
    MERCHANT_ID,
    ORIGINAL_DATA,
    PAN,
    PIN_BLOCK,
    PROCESSING_CODE,
    RESPONSE_CODE,
    RRN,
    STAN,
    TERMINAL_ID,
    TRACK_1,
    TRACK_2,
    TRACK_3,
    TRANSMISSION_TIME,
    Message,
)

_OWN = "the gateway itself sets it"
_IDENTITY = "write terminal_id, merchant_id or a terminals_file"
_CARD = "no card data stands in a configuration"
_MONEY = "an answer is known by it, and a reversal must name it"
# Fields that no rule may touch, and why; those in the second table may be dropped.
_UNTOUCHED = {
    AMOUNT: _MONEY,
    STAN: _OWN,
    RESPONSE_CODE: _OWN,
    64: _OWN,
    128: _OWN,
    ORIGINAL_DATA: _OWN,
}
_NOT_WRITTEN = {
    PAN: _CARD,
    PROCESSING_CODE: "it says what is asked for",
    TRANSMISSION_TIME: _OWN,
    EXPIRY: _CARD,
    34: _CARD,
    TRACK_2: _CARD,
    TRACK_3: _CARD,
    RRN: 'write rrn = "issue" or "pass"',
    APPROVAL_CODE: "the acquirer gives it",
    TERMINAL_ID: _IDENTITY,
    MERCHANT_ID: _IDENTITY,
    TRACK_1: _CARD,
    CURRENCY: "it says what the amount is in",
    PIN_BLOCK: _CARD,
    EMV_DATA: _CARD,
}


def check_boarding(upstream: Part, findings: Findings) -> None:
    """Report what contradicts itself in how an upstream knows its terminals."""
    check_merchants(upstream, findings)
    one_by_one = upstream.text("knows_terminals") == "one_by_one"
    if one_by_one and not upstream.has("terminals_file"):
        findings.error(
            upstream.at("knows_terminals"),
            "names no terminals: terminals_file is missing",
            'add terminals_file = "FILE.csv", or write knows_terminals = "as_one_host"',
        )
    if not one_by_one and upstream.has("terminals_file"):
        findings.error(
            upstream.at("terminals_file"),
            "is not used where the upstream knows all terminals as one host",
            'write knows_terminals = "one_by_one", or remove it',
        )
    for key in ("terminal_id", "merchant_id"):
        if one_by_one and upstream.has(key):
            findings.error(
                upstream.at(key),
                "is not used where the upstream knows the terminals one by one",
                "remove it: the terminals_file says what each is called",
            )
        if (upstream.text(key) or "x") != (upstream.text(key) or "x").strip():
            findings.error(
                upstream.at(key), "begins or ends with a blank", "leave blanks to the gateway"
            )


def check_field_rules(top: Part, dialects: Mapping[str, Dialect], findings: Findings) -> None:
    """Report field rules that an upstream's dialect, or the gateway's own work, does not allow."""
    for upstream in top.parts("upstreams"):
        rules = upstream.part("fields")
        named: dict[int, str] = {}
        for key in ("drop", "set", "map", "copy_from"):
            for path, number in _numbers(rules, key):
                _allowed(path, number, key, findings)
                first = named.setdefault(number, key)
                if first != key:
                    findings.error(
                        path,
                        f"DE{number} stands in {first} too",
                        "name each field in one of drop, set, map and copy_from",
                    )
        dialect = dialects.get(upstream.text("dialect") or "")
        if dialect is None:
            continue
        # A field may be dropped because the upstream's dialect lacks it.
        known = {number for one in dialects.values() for number in one.fields}
        for key in ("drop", "set", "map", "require"):
            for path, number in _numbers(rules, key):
                if number not in (known if key == "drop" else dialect.fields):
                    findings.error(
                        path,
                        f"dialect {dialect.name} has no DE{number}",
                        "correct the number, or add the field to the dialect",
                    )
        _values(rules, dialect, findings)


def _numbers(rules: Part, key: str) -> list[tuple[KeyPath, int]]:
    """The usable field numbers of a rule, each with its path."""
    raw = rules.raw.get(key)
    found: list[tuple[KeyPath, int]] = []
    if isinstance(raw, list):
        for index, element in enumerate(raw):
            if isinstance(element, int) and not isinstance(element, bool):
                found.append(((*rules.at(key), index), element))
    elif isinstance(raw, dict):
        found += [
            ((*rules.at(key), text), int(text))
            for text in raw
            if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 3
        ]
    return [(path, number) for path, number in found if 2 <= number <= 128]


def _allowed(path: KeyPath, number: int, key: str, findings: Findings) -> None:
    reason = _UNTOUCHED.get(number)
    if reason is None and key != "drop":
        reason = _NOT_WRITTEN.get(number)
    if reason is not None:
        verb = {"drop": "dropped", "map": "mapped"}.get(key, "set")
        findings.error(path, f"DE{number} cannot be {verb}", reason)


def _values(rules: Part, dialect: Dialect, findings: Findings) -> None:
    """Every value that would be written can be written."""
    codec = Codec(dialect)
    fixed, maps = rules.raw.get("set"), rules.raw.get("map")
    wanted: list[tuple[KeyPath, int, object]] = []
    for path, number in _numbers(rules, "set"):
        if isinstance(fixed, dict):
            wanted.append((path, number, fixed[path[-1]]))
    for path, number in _numbers(rules, "map"):
        values = maps[path[-1]] if isinstance(maps, dict) else None
        if isinstance(values, dict):
            wanted += [((*path, old), number, new) for old, new in values.items()]
    for path, number, value in wanted:
        info = dialect.fields.get(number)
        if not isinstance(value, str) or info is None:
            continue
        reason = ""
        if info.type == "n" and not (value.isascii() and value.isdigit()):
            reason = "it has digits only"
        else:
            try:
                codec.encode(Message("0200", {number: value}))
            except EncodeError as error:
                reason = error.reason
        if reason:
            findings.error(
                path,
                f"{shown_value(value)} cannot be written as DE{number}: {reason}",
                "write it as the upstream's dialect has it",
            )


# --- terminals files -----------------------------------------------------------------------------


def read_terminals_files(
    top: Part, resolve: Callable[[str], Path], findings: Findings, contents: list[bytes]
) -> dict[str, BoardedTerminals]:
    """The terminals of each upstream that knows them one by one, by its name.

    What was read is added to `contents`; what is wrong is a finding with the file's own line.
    """
    found: dict[str, BoardedTerminals] = {}
    for upstream in top.parts("upstreams"):
        name, text = upstream.text("name"), upstream.text("terminals_file")
        rows_max = upstream.number("terminals_max")
        if name is None or text is None or rows_max is None:
            continue
        file = resolve(text)
        try:
            content = file.read_bytes()
            source = content.decode("utf-8-sig")
        except OSError as error:
            findings.error(
                upstream.at("terminals_file"),
                f"{file} cannot be read: {error.strerror}",
                "name a CSV file that exists",
            )
            continue
        except UnicodeDecodeError:
            findings.error_in(str(file), 1, "", "is not UTF-8 text", "save the file as UTF-8")
            continue
        contents.append(content)
        boarding = read_boarding(source, rows_max=int(rows_max))
        for fault in boarding.faults:
            findings.error_in(str(file), fault.line, "", fault.problem, fault.remedy)
        found[name] = boarding.terminals
    return found
