"""What can be wrong with routes, boarding and field rules, each on its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings.findings import Finding, SettingsError
from gateway.settings.loader import load

SOUND = """\
[node]
admin_socket = "gateway.sock"

[store]
path = "gateway.db"

[keys]
keyring = "keyring.json"

[registry]
default_profile = "retail"

[[profiles]]
name = "retail"
kinds = ["purchase"]

[[listeners]]
name = "shops"
listen = "127.0.0.1:8443"
security = "plain"
macs = "by_profile"
dialect = "iso87_ascii"

[[terminal_groups]]
name = "malls"
terminals = ["X*"]

[[groups]]
name = "main"
members = [{ upstream = "bank" }]

[[routes]]
name = "malls"
terminal_groups = ["malls"]
group = "main"
#routes

[[routes]]
name = "all"
group = "main"
#last

[[upstreams]]
name = "bank"
addresses = ["127.0.0.1:8101"]
dialect = "iso87_ascii"
plain = true
#upstream
"""
ONE_BY_ONE = 'knows_terminals = "one_by_one"\nterminals_file = "t.csv"\n'


def findings(folder: Path, place: str, text: str) -> list[Finding]:
    file = folder / "gateway.toml"
    assert SOUND.count(place) == 1
    file.write_text(SOUND.replace(place, text), encoding="utf-8")
    try:
        return list(load(file).warnings)
    except SettingsError as error:
        return list(error.findings)


def test_the_sound_one_is(tmp_path: Path) -> None:
    assert findings(tmp_path, "#routes", "") == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ('bins = ["62-623"]', 'the ends of "62-623" have 2 and 3 digits'),
        ('bins = ["63-62"]', 'ends before it begins; did you mean "62-63"?'),
        ('bins = ["62x"]', "write the first digits of card numbers"),
        ('entry_modes = ["chp"]', 'did you mean "chip"?'),
        ('currencies = ["156 "]', "currency"),
        ('merchants = ["M*1"]', '"M*1" names no merchant'),
        ('merchants = [""]', "names no merchant"),
        ('terminal_groups = ["mall"]', 'no terminal group is named "mall"; did you mean "malls"?'),
        ("amount_minor_min = 5\namount_minor_max = 4", "no amount can fit"),
        ("amount_minor_max = 10.5", "does not fit here"),
        ('hours = [{ time = "8:00-12:00" }]', 'such as "08:00-22:00"'),
        ('hours = [{ days = ["fry"], time = "08:00-12:00" }]', "fri"),
        ('time_zone = "Asia/Shangai"', 'did you mean "Asia/Shanghai"?'),
    ],
)
def test_what_is_wrong_with_a_route(asked: str, words: str, tmp_path: Path) -> None:
    text = f'[[routes]]\nname = "r"\ngroup = "main"\n{asked}\n'
    found = findings(tmp_path, "#routes", text)
    errors = [str(one) for one in found if one.severity == "error"]
    assert any(words in one for one in errors), errors
    first = SOUND[: SOUND.index("#routes")].count("\n") + 4
    assert f"gateway.toml:{first}" in errors[0] or f"gateway.toml:{first + 1}" in errors[0]


@pytest.mark.parametrize(
    ("before", "after", "is_reached"),
    [
        ('kinds = ["refund", "cash"]', 'kinds = ["refund"]', False),
        ('kinds = ["refund"]', 'kinds = ["refund", "cash"]', True),
        ('kinds = ["refund"]', 'bins = ["62"]', True),
        ('bins = ["62"]', 'bins = ["622126-622925"]', False),
        ('bins = ["622126-622925"]', 'bins = ["62"]', True),
        ('bins = ["62"]', 'bins = ["62", "4"]', True),
        ("amount_minor_max = 100", "amount_minor_min = 5\namount_minor_max = 100", False),
        ("amount_minor_max = 100", "amount_minor_min = 5", True),
        ('currencies = ["156"]', 'currencies = ["156"]\nkinds = ["refund"]', False),
        ('hours = [{ time = "08:00-12:00" }]', 'kinds = ["refund"]', True),
        (
            'hours = [{ time = "08:00-12:00" }]',
            'hours = [{ time = "08:00-12:00" }]\nkinds = ["refund"]',
            False,
        ),
    ],
)
def test_a_route_behind_one_that_takes_all_of_it(
    before: str, after: str, *, is_reached: bool, tmp_path: Path
) -> None:
    text = "".join(
        f'[[routes]]\nname = "r{number}"\ngroup = "main"\n{asked}\n'
        for number, asked in enumerate((before, after))
    )
    found = findings(tmp_path, "#routes", text)
    assert [one.severity for one in found] == ([] if is_reached else ["warning"])
    assert is_reached or "never used: the route on line" in str(found[0])


def test_a_route_behind_the_one_that_takes_everything(tmp_path: Path) -> None:
    [found] = findings(tmp_path, "#last", '[[routes]]\nname = "r"\nbins = ["9"]\ngroup = "main"')
    assert "takes every kind and all else; put the route without conditions last" in str(found)


def test_groups_of_terminals(tmp_path: Path) -> None:
    group = '[[terminal_groups]]\nname = "b"\nterminals = ["T0000002-T0000001", "X1"]\n'
    found = findings(tmp_path, "#routes", group)
    assert [one.severity for one in found] == ["warning", "error"]
    assert "no route names this group" in str(found[0])
    assert '"T0000002-T0000001" names no terminal' in str(found[1])
    twice = '[[terminal_groups]]\nname = "malls"\nterminals = ["T1"]\n'
    [found_twice] = findings(tmp_path, "#routes", twice)
    assert "is already used" in str(found_twice)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ('merchants = ["*M"]', '"*M" names no merchant'),
        ('knows_terminals = "one_by_one"', "terminals_file is missing"),
        ('terminals_file = "t.csv"', "not used where the upstream knows all terminals as one host"),
        (ONE_BY_ONE + 'terminal_id = "G1"', "the terminals_file says what each is called"),
        ('terminal_id = " G1"', "leave blanks to the gateway"),
        ('terminal_id = "G12345678"', "write up to 8 characters, in quotes"),
        ("[upstreams.fields]\ndrop = [1]", "too small"),
        ("[upstreams.fields]\ndrop = [4]", "DE4 cannot be dropped; an answer is known by it"),
        ("[upstreams.fields]\ndrop = [11]", "DE11 cannot be dropped; the gateway itself sets it"),
        ('[upstreams.fields.set]\n2 = "4111"', "DE2 cannot be set; no card data stands in"),
        ('[upstreams.fields.set]\n41 = "G1"', "DE41 cannot be set; write terminal_id"),
        ('[upstreams.fields.map.39]\n"00" = "01"', "DE39 cannot be mapped"),
        ('[upstreams.fields.set]\n18 = "541x"', "cannot be written as DE18"),
        ('[upstreams.fields.map.18]\n"5411" = "54111"', "cannot be written as DE18"),
        ('[upstreams.fields]\ndrop = [18]\nset = { 18 = "5411" }', "DE18 stands in drop too"),
        ('[upstreams.fields.set]\n"x" = "5411"', "upstreams[0].fields.set"),
        ("[upstreams.fields.copy_from]\n26 = 35", "DE35 cannot be copied; data of a card stays"),
        ("[upstreams.fields.copy_from]\n4 = 5", "DE4 cannot be set; an answer is known by it"),
        ("[upstreams.fields.copy_from]\n26 = 18\n[upstreams.fields.set]\n26 = '11'", "set too"),
        ('[upstreams.fields]\ntime_zone = "Mars/Olympus"', "no time zone is named"),
        ('[upstreams.fields.codes]\nA0 = "100"', '"100" is no response code'),
        ('[upstreams.fields.message_types]\npurchase = "0300"', '"0300" is not allowed here'),
    ],
)
def test_what_is_wrong_with_an_upstream(asked: str, words: str, tmp_path: Path) -> None:
    header = "terminal_id,upstream_terminal_id,upstream_merchant_id\n"
    (tmp_path / "t.csv").write_text(header, encoding="utf-8")
    found = findings(tmp_path, "#upstream", asked)
    errors = [str(one) for one in found if one.severity == "error"]
    assert any(words in one for one in errors), errors


def test_a_terminals_file_is_read_and_its_faults_have_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    [absent] = findings(tmp_path, "#upstream", ONE_BY_ONE)
    assert f"{file} cannot be read" in str(absent)
    file.write_text("terminal_id,upstream_terminal_id,upstream_merchant_id\nT1,U1\n")
    [short] = findings(tmp_path, "#upstream", ONE_BY_ONE)
    assert str(short).startswith(f"{file}:2: has 2 values")
    file.write_bytes(b"\xff\xfe\x00")
    [binary] = findings(tmp_path, "#upstream", ONE_BY_ONE)
    assert str(binary) == f"{file}:1: is not UTF-8 text; save the file as UTF-8"
    file.write_text("terminal_id,upstream_terminal_id,upstream_merchant_id\nT1,U1,M1\n")
    assert findings(tmp_path, "#upstream", ONE_BY_ONE) == []
    first = load(tmp_path / "gateway.toml")
    assert first.terminals["bank"]["T1      "].terminal_id == "U1      "
    file.write_text("terminal_id,upstream_terminal_id,upstream_merchant_id\nT1,U2,M1\n")
    assert load(tmp_path / "gateway.toml").version != first.version  # it is part of it


def other_dialect(folder: Path, dialect: str, more: str = "") -> list[Finding]:
    """The findings where terminals speak 1987 in ASCII, and the upstream this dialect."""
    own = SOUND.replace('dialect = "iso87_ascii"\nplain', f'dialect = "{dialect}"\nplain')
    file = folder / "gateway.toml"
    file.write_text(own.replace("#upstream", more), encoding="utf-8")
    try:
        return list(load(file).warnings)
    except SettingsError as error:
        return list(error.findings)


def test_what_an_upstream_s_dialect_has_no_place_for(tmp_path: Path) -> None:
    assert other_dialect(tmp_path, "iso87_ebcdic") == []
    found = other_dialect(tmp_path, "unionpay_pos", 'reversal_original = "de61"')
    [lacking] = [str(one) for one in found]
    assert "requests of terminals of listener shops (iso87_ascii) with DE5, DE6, DE8" in lacking
    assert "write drop = [5, 6, 8" in lacking
    drop = lacking.partition("drop = [")[2].partition("]")[0]
    rules = f'reversal_original = "de61"\n[upstreams.fields]\ndrop = [{drop}]'
    assert other_dialect(tmp_path, "unionpay_pos", rules) == []


def test_a_reversal_needs_an_element_for_its_original(tmp_path: Path) -> None:
    found = [str(one) for one in other_dialect(tmp_path, "unionpay_pos")]
    said = "has no DE90: no reversal could name its original"
    assert any(said in one and 'write reversal_original = "de61"' in one for one in found)
    [warning] = [str(one) for one in other_dialect(tmp_path, "iso93_bcd")]
    assert 'write reversal_original = "de56"' in warning
    assert other_dialect(tmp_path, "iso93_bcd", 'reversal_original = "de56"') == []


def test_a_dialect_without_what_every_request_has(tmp_path: Path) -> None:
    (tmp_path / "poor.toml").write_text(
        'name = "poor"\n[mti]\ndata_enc = "ascii"\n[bitmap]\ndata_enc = "ascii"\n'
        '[defaults]\ndata_enc = "ascii"\n[fields]\n'
        '3 = { type = "n", len = "fixed", max = 6 }\n90 = { type = "n", len = "fixed", max = 42 }\n'
    )
    own = SOUND.replace('dialect = "iso87_ascii"\nplain', 'dialect = "poor"\nplain')
    (tmp_path / "gateway.toml").write_text('dialects = ["poor.toml"]\n' + own, encoding="utf-8")
    with pytest.raises(SettingsError, match="poor has no DE4, DE11, DE41, DE42"):
        load(tmp_path / "gateway.toml")


def test_a_kind_that_the_other_side_does_not_know(tmp_path: Path) -> None:
    own = SOUND.replace('kinds = ["purchase"]', 'kinds = ["purchase", "cash"]')
    own = own.replace('dialect = "iso87_ascii"\nplain', 'dialect = "unionpay_pos"\nplain')
    file = tmp_path / "gateway.toml"
    rules = 'reversal_original = "de61"'
    file.write_text(own.replace("#upstream", rules), encoding="utf-8")
    found = [str(one) for one in load(file).warnings]
    assert any("unionpay_pos does not say how cash are asked for" in one for one in found)
