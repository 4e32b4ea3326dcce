"""Blocklist files: what a line says, what is found by it, and what is wrong with others."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.policy import blockfile_edits
from gateway.policy.blockfiles import Parsed, assemble, parse, written_token
from gateway.policy.blocklists import EMPTY, Blocklists, Hit, ListName
from gateway.policy.card_numbers import holds_card_number

NOW_MS = round(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000
PAN = "9999990000000006"
TOKEN = "1:00112233445566778899aabbccddeeff"


def read(name: str, text: str | bytes) -> Parsed:
    content = text.encode() if isinstance(text, str) else text
    return parse(ListName(name), content, file=name, zone=ZoneInfo("Europe/Paris"))


def lists(**texts: str) -> Blocklists:
    parsed = [read(name, text) for name, text in texts.items()]
    assert not [problem for one in parsed for problem in one.problems]
    return assemble(parsed)


def problems(name: str, text: str | bytes) -> list[str]:
    return [f"{one.line}: {one.problem}" for one in read(name, text).problems]


# --- entries --------------------------------------------------------------------------------------


def test_a_line_says_value_end_reason_and_code() -> None:
    found = lists(
        bins='# stolen in May\n\n411111  until=2026-12-31 reason="by the box" code=43  # ticket 7\n'
    )
    hit = found.bins and found.bins.find("4111110000000000", NOW_MS)
    assert hit == Hit("bins", 3, "by the box", "43")
    assert hit.rule == "bins:3 (by the box)"


def test_an_entry_ends_with_its_day_in_the_zone() -> None:
    found = lists(terminals="T0000001 until=2026-11-20\n")
    last = round(datetime(2026, 11, 20, 23, tzinfo=UTC).timestamp() * 1000)  # midnight in Paris
    assert found.terminal("T0000001", last - 1)
    assert not found.terminal("T0000001", last)


def test_names_are_found_without_the_blanks_that_pad_them() -> None:
    found = lists(terminals='T1\n"T 2"\n', merchants="SHOP1\n898110150110001\n")
    assert found.terminal("T1      ", NOW_MS)
    assert found.terminal("T 2     ", NOW_MS)
    assert found.merchant("SHOP1          ", NOW_MS)
    assert found.merchant("898110150110001", NOW_MS)
    assert not found.merchant("SHOP", NOW_MS)


def test_a_token_is_found_under_its_version_of_the_key() -> None:
    found = lists(cards=f"{written_token(TOKEN)}\nh2{written_token(TOKEN)[2:]} code=41\n")
    assert found.cards is not None
    assert found.cards.versions == [1, 2]
    assert found.cards.find(TOKEN, NOW_MS) == Hit("cards", 1, "", "")
    assert found.cards.find("2" + TOKEN[1:], NOW_MS) == Hit("cards", 2, "", "41")
    assert found.cards.find("3" + TOKEN[1:], NOW_MS) is None
    assert found.cards.find(TOKEN[:-1] + "e", NOW_MS) is None
    assert found.cards.find("", NOW_MS) is None


def test_every_token_of_a_long_list_is_found_with_its_line() -> None:
    tokens = [
        f"1:{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in range(3_000)
    ]
    ends = ("", "  # seen", " code=41", ' reason="x"')
    text = "".join(f"{written_token(one)}{ends[i % 4]}\n" for i, one in enumerate(tokens))
    cards = lists(cards=text).cards
    assert cards is not None
    for line, token in enumerate(tokens, 1):
        hit = cards.find(token, NOW_MS)
        assert hit is not None
        assert (hit.line, hit.code) == (line, "41" if line % 4 == 3 else "")


def test_the_narrowest_range_decides() -> None:
    found = lists(bins="4000\n400012 code=41\n400012345-400012999 code=43\n")
    assert found.bins is not None
    codes = {
        pan: hit and hit.code
        for pan in (
            "4000110000000",
            "4000120000000",
            "4000124000000",
            "4001000000000",
            "4000123449999",
        )
        for hit in [found.bins.find(pan, NOW_MS)]
    }
    assert codes == {
        "4000110000000": "",
        "4000120000000": "41",
        "4000124000000": "43",
        "4001000000000": None,
        "4000123449999": "41",
    }


def test_a_range_that_ended_leaves_the_next_wider_one() -> None:
    found = lists(
        bins="4000 code=41\n400012 until=2026-11-19 code=43\n40001234 until=2026-11-21 code=07\n"
    )
    assert found.bins is not None
    pan = "4000123400000"
    assert [
        hit and hit.code
        for later in (-DAY_MS, 0, 2 * DAY_MS)
        for hit in [found.bins.find(pan, NOW_MS + later)]
    ] == ["07", "07", "41"]


def test_networks_of_both_kinds() -> None:
    found = lists(networks="203.0.113.0/24\n203.0.113.7 reason=worse\n2001:db8::/32\n")
    assert found.network("203.0.113.9", NOW_MS) == Hit("networks", 1, "", "")
    assert found.network("203.0.113.7", NOW_MS) == Hit("networks", 2, "worse", "")
    assert found.network("::ffff:203.0.113.9", NOW_MS)
    assert found.network("2001:db8:1::1%eth0", NOW_MS)
    assert not found.network("203.0.114.1", NOW_MS)
    assert not found.network("2001:db9::1", NOW_MS)
    assert not found.network("unix", NOW_MS)


def test_certificates_by_fingerprint_or_serial() -> None:
    digest = "AB" * 32
    found = lists(certificates=f"sha256:{digest}\nserial:0A:1B:2C\n")
    assert found.certificate(sha256=digest, serial=0, now_ms=NOW_MS)
    assert found.certificate(sha256="", serial=0x0A1B2C, now_ms=NOW_MS)
    assert not found.certificate(sha256="cd" * 32, serial=7, now_ms=NOW_MS)


def test_nothing_is_listed_where_there_are_no_files() -> None:
    assert set(EMPTY.sizes().values()) == {0}
    assert EMPTY.terminal("T1", 0) is EMPTY.merchant("M1", 0) is EMPTY.network("::1", 0) is None
    assert EMPTY.certificate(sha256="", serial=0, now_ms=0) is None
    assert lists(terminals="# nobody\n") == EMPTY
    assert lists(terminals="T1\nT2\n").sizes()[ListName.TERMINALS] == 2


def test_windows_line_ends_and_a_byte_order_mark_are_taken() -> None:
    parsed = read("terminals", b"\xef\xbb\xbfT1\r\nT2 # x\r\n")
    assert (parsed.count, parsed.problems) == (2, ())


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("terminals", "T00000012\n", "1: is no entry of terminals"),
        ("terminals", "T1\n# x\nT1\n", "3: is already on line 1"),
        ("terminals", "T1 lost\n", "1: has something after its value that is not understood"),
        ("terminals", "T1 since=2026-01-01\n", "1: has an unknown key"),
        ("terminals", "T1 until=2026-02-30\n", "1: until is no day"),
        ("terminals", "T1 until=20260230\n", "1: until is no day"),
        ("terminals", "T1 until=9999-12-31\n", "1: until is no day"),
        ("terminals", "T1 reason=a reason=b\n", "1: says the same thing twice"),
        ("terminals", "T1 code=43\n", "1: an entry of terminals has no code"),
        ("terminals", "T1 reason=" + "x" * 121 + "\n", "1: has too long a reason"),
        ("terminals", "T1 # " + "x" * 1_000 + "\n", "1: is longer than 1000 bytes"),
        ("terminals", "T1\nT2", "2: the last line does not end: it may be cut off"),
        ("terminals", b"T1 # \xff\n", "1: is not UTF-8 text"),
        ("terminals", b"T1 # \x1b[2J\n", "1: holds a control character"),
        ("merchants", "1234567890123456\n", "1: is no entry of merchants"),
        ("cards", "h1:ABC\n", "1: is no entry of cards"),
        ("cards", "h1:AAAAAAAAAAAAAAAAAAAAAAAAAB\n", "1: is no token: its last character is wrong"),
        (
            "cards",
            f"{written_token(TOKEN)} code=00\n",
            "1: code is none that may be said of a card",
        ),
        (
            "cards",
            f"# x\n{written_token(TOKEN)}\n{written_token(TOKEN)} code=41\n",
            "3: is already on line 2",
        ),
        ("bins", "411\n", "1: is no entry of bins"),
        ("bins", "411111111111\n", "1: is no entry of bins"),
        ("bins", "4999-4000\n", "1: is no range of BINs"),
        ("bins", "4000-49999\n", "1: is no range of BINs"),
        ("bins", "4000\n4000-4000\n", "2: is already on line 1"),
        ("networks", "203.0.113.1/24\n", "1: is no network, or has bits set behind its length"),
        ("networks", "::1\n::1/128\n", "2: is already on line 1"),
        ("certificates", "sha256:ab\n", "1: is no entry of certificates"),
        ("certificates", "serial:0a\nserial:A\n", "2: is already on line 1"),
    ],
)
def test_what_is_wrong_is_said_by_line(name: str, text: str | bytes, expected: str) -> None:
    assert problems(name, text) == [expected]
    assert read(name, text).entries is None


def test_more_than_64_ranges_over_one_number_are_refused() -> None:
    text = "".join(f"{40000000 + n}-{49999999 - n}\n" for n in range(65))
    assert problems("bins", text) == ["65: more than 64 entries lie over each other here"]


def test_all_problems_come_at_once_up_to_a_bound() -> None:
    found = read("terminals", "TOOLONGNAME\n" * 60).problems
    assert len(found) == 51
    assert str(found[50]).startswith("terminals:50: and 10 more problems")


def test_a_file_has_a_bound() -> None:
    parsed = parse(ListName.TERMINALS, b"T1\nT2\nT3\n", file="t", zone=UTC, entries_max=2)
    assert [problem.line for problem in parsed.problems] == [3]


@pytest.mark.parametrize("name", [one.value for one in ListName])
@pytest.mark.parametrize(
    "line",
    [
        PAN,
        "9999 9900 0000 0006",
        "9999-9900-0000-0006",
        "9999.9900.0000.0006 reason=x",
        f"# {PAN}",
        f"# card {PAN}, ticket 5",
        f'"{PAN}"',
        "4111111111111111-4999999999999999",
        "serial:4111111111111111",
        "6212345678901232 # 16 digits",
        "6221260000000000001",
    ],
)
def test_a_clear_card_number_is_refused_and_not_repeated(name: str, line: str) -> None:
    [found] = read(name, line + "\n").problems
    assert found.problem == "holds what may be a clear card number"
    assert not any(part in str(found) for part in ("9999", "4111", "6212", "0006", "0001"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111111111111111", True),
        ("4111111111111112", False),
        ("378282246310005", True),
        ("ticket 12 4111 1111 1111 1111", True),
        ("411111111111", False),
        ("from 2026-11-20 to 2026-12-31", False),
        ("1" * 40, False),
        ("", False),
    ],
)
def test_what_looks_like_a_card_number(text: str, expected: bool) -> None:
    assert holds_card_number(text) is expected


# --- edits --------------------------------------------------------------------------------------

FILE = b"# head\nT1 reason=old # why\n\n# tail\nT2\n"


def test_a_new_entry_stands_at_the_end() -> None:
    line = blockfile_edits.entry("T3", until=date(2026, 12, 31), reason="left behind", remark="x")
    edited = blockfile_edits.add(ListName.TERMINALS, FILE, "T3", line)
    assert edited.content == FILE + b'T3 until=2026-12-31 reason="left behind" # x\n'
    assert edited.line == 6
    assert read("terminals", edited.content).count == 3


def test_an_entry_that_is_there_is_written_anew_in_its_place() -> None:
    line = blockfile_edits.entry("T1", reason="new")
    edited = blockfile_edits.add(ListName.TERMINALS, FILE, "T1", line)
    assert edited.content == FILE.replace(b"T1 reason=old # why", b'T1 reason="new"')
    assert edited.line == 2


def test_an_entry_is_taken_out_and_comments_stay() -> None:
    edited = blockfile_edits.remove(ListName.TERMINALS, FILE, "T1")
    assert (edited.content, edited.line) == (b"# head\n\n# tail\nT2\n", 2)
    assert blockfile_edits.remove(ListName.TERMINALS, FILE, "T9").line == 0


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("certificates", b"serial:00:0A:1B # x\n", "serial:a1b"),
        ("networks", b"2001:db8:0::/32\n", "2001:DB8::/32"),
        ("terminals", b'"T 1" until=2026-12-31\n', "T 1"),
    ],
)
def test_an_entry_is_known_however_it_is_written(name: str, text: bytes, value: str) -> None:
    assert blockfile_edits.remove(ListName(name), text, value).content == b""


def test_a_last_line_that_does_not_end_is_ended_and_line_ends_are_kept() -> None:
    assert blockfile_edits.add(ListName.TERMINALS, b"T1", "T2", "T2").content == b"T1\nT2\n"
    assert blockfile_edits.add(ListName.TERMINALS, b"T1\r\n", "T2", "T2").content == b"T1\r\nT2\r\n"


@pytest.mark.parametrize(
    "bad",
    [
        {"value": "T1\nT2"},
        {"value": 'T"1'},
        {"value": "T1", "reason": 'a"b'},
        {"value": "T1", "remark": "a\nb"},
    ],
)
def test_an_entry_that_would_be_more_than_a_line_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="hold"):
        blockfile_edits.entry(**bad)
