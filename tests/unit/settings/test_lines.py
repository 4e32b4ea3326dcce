"""Key paths are found on the lines on which they stand."""

from __future__ import annotations

from gateway.settings.lines import KeyPath, Lines

SOURCE = '''\
# a comment with [brackets] and key = "value"
title = "[not.a.table]"

[node]
"quoted.key" = 1
text = """
[listeners]
name = "not a key"
""" # after it

[[listeners]]
name = "a"
framing.length = "binary2"
framing.tpdu = true

[[listeners]] # the second
name = 'b'
networks = [
    "10.0.0.0/8", # [inner]
    # nothing here
    "10.1.0.0/16",
]

[listeners.tls]
key = "k"

[[listeners.extra]]
one = 1
[[listeners.extra]]
one = 1979-05-27 07:32:00

[[groups]]
members = [
    { upstream = "x", weight = 1 },
    { upstream = "y", deep = { er = [1, 2] } },
]

[a.b.c]
d = 1
[a.b]
e = 1
'''


def test_each_kind_of_place() -> None:
    expected: dict[KeyPath, int] = {
        ("title",): 2,
        ("node",): 4,
        ("node", "quoted.key"): 5,
        ("node", "text"): 6,
        ("listeners",): 11,
        ("listeners", 0): 11,
        ("listeners", 0, "name"): 12,
        ("listeners", 0, "framing"): 13,
        ("listeners", 0, "framing", "length"): 13,
        ("listeners", 0, "framing", "tpdu"): 14,
        ("listeners", 1): 16,
        ("listeners", 1, "name"): 17,
        ("listeners", 1, "networks"): 18,
        ("listeners", 1, "networks", 0): 19,
        ("listeners", 1, "networks", 1): 21,
        ("listeners", 1, "tls"): 24,
        ("listeners", 1, "tls", "key"): 25,
        ("listeners", 1, "extra", 0, "one"): 28,
        ("listeners", 1, "extra", 1, "one"): 30,
        ("groups", 0, "members", 0, "weight"): 34,
        ("groups", 0, "members", 1, "deep", "er", 1): 35,
        ("a", "b", "c", "d"): 39,
        ("a", "b"): 40,
        ("a", "b", "e"): 41,
    }
    lines = Lines(SOURCE)
    assert {path: lines.of(path) for path in expected} == expected


def test_the_nearest_parent_stands_in_for_what_is_absent() -> None:
    lines = Lines(SOURCE)
    assert lines.of(("listeners", 1, "tls", "absent")) == 24
    assert lines.of(("listeners", 0, "absent", "deeper")) == 11
    assert lines.of(("absent", 3)) == 1
    assert Lines("").of(("absent",)) == 1


def test_windows_line_ends_count_once() -> None:
    assert Lines("a = 1\r\nb = '''\r\n'''\r\nc = 2\r\n").of(("c",)) == 4


def test_quotes_before_the_end_of_a_multi_line_string() -> None:
    assert Lines('a = """x\n"quoted"""""\nb = \'\'\'\n\'\'\'\'\'\nc = "\\""\nd = 1').of(("d",)) == 6
