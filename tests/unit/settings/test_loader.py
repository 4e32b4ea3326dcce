"""Every rule of a configuration: what is wrong, on which line, and what would be right."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.settings.findings import Finding, SettingsError
from gateway.settings.loader import Configuration, load

SOUND = """\
[node]
admin_socket = "gateway.sock"
#node

[store]
path = "gateway.db"

[keys]
keyring = "keyring.json"
#keys

[registry]
default_profile = "retail"
#registry

[[profiles]]
name = "retail"
kinds = ["purchase"]
#profile

[[listeners]]
name = "shops"
listen = "127.0.0.1:8443"
security = "plain"
macs = "by_profile"
dialect = "iso87_ascii"
#listener

[[upstreams]]
name = "bank"
addresses = ["127.0.0.1:8101"]
dialect = "iso87_ascii"
plain = true
#upstream

[[groups]]
name = "main"
members = [{ upstream = "bank" }]
#group

[[routes]]
name = "all"
group = "main"
#route

#end
"""


def written(folder: Path, *edits: tuple[str, str]) -> Path:
    """The sound configuration with some texts exchanged, as a file."""
    text = SOUND
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    return file


def findings(file: Path) -> list[Finding]:
    try:
        return list(load(file).warnings)
    except SettingsError as error:
        return list(error.findings)


def test_a_sound_file_loads(tmp_path: Path) -> None:
    configuration = load(written(tmp_path))
    assert isinstance(configuration, Configuration)
    assert configuration.settings.listeners[0].name == "shops"
    assert "iso87_ascii" in configuration.dialects
    assert configuration.warnings == ()
    assert configuration.file == tmp_path / "gateway.toml"
    assert configuration.resolve("../x/y.pem") == tmp_path.parent / "x" / "y.pem"
    assert configuration.resolve("/etc/y.pem") == Path("/etc/y.pem")


CASES = tomllib.loads(Path(__file__).with_name("bad_settings.toml").read_text(encoding="utf-8"))


def bad_file(folder: Path, case: dict[str, Any]) -> tuple[Path, str]:
    """The file of a case, and how its finding is to begin."""
    besides = [(old, new) for old, new in case.get("besides", ())]
    file = written(folder, (case["old"], case["new"]), *besides)
    lines = file.read_text(encoding="utf-8").splitlines()
    line = next(at for at, text in enumerate(lines, 1) if text.endswith("# <-"))
    return file, f"{file}:{line}: {case['path']}: "


@pytest.mark.parametrize("case", CASES["error"], ids=lambda case: case["name"])
def test_what_is_wrong(case: dict[str, Any], tmp_path: Path) -> None:
    file, start = bad_file(tmp_path, case)
    found = findings(file)
    matching = [finding for finding in found if str(finding).startswith(start)]
    assert matching, [str(finding) for finding in found]
    assert case["words"] in str(matching[0])
    assert matching[0].severity == "error"
    assert matching[0].remedy
    assert str(matching[0]).isprintable()


@pytest.mark.parametrize("case", CASES["warning"], ids=lambda case: case["name"])
def test_what_should_be_looked_at(case: dict[str, Any], tmp_path: Path) -> None:
    file, start = bad_file(tmp_path, case)
    [finding] = load(file).warnings
    assert str(finding).startswith(start)
    assert case["words"] in str(finding)
    assert finding.severity == "warning"


def test_a_number_too_long_to_print(tmp_path: Path) -> None:
    file = written(tmp_path, ("#node", f"connections_max = 0x{'F' * 5000}"))
    [finding] = findings(file)
    assert finding.problem == "a number of more than 64 bits is too large"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = 1\nb = = 2\n", 2, "put text in quotes"),
        ("[node\n", 1, "not TOML, column"),
        ("a = 1\na = 2\n", 2, "write each key once"),
        ("[a]\n[b]\n[a]\n", 3, "write each table once"),
        ("a = 1\n\nb = [1,\n2\n\n", 4, "not TOML"),
        ("name = shops\n", 1, "put text in quotes"),
        ("name\n", 1, "write key = value"),
        ('name = "shops\nx = 1\n', 1, "close the quotes"),
        ("a = " + "[" * 5000 + "\n", 1, "not TOML"),
        ("a = " + "9" * 5000 + "\n", 1, "beyond all bounds"),
    ],
)
def test_broken_syntax(text: str, line: int, words: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(file)
    [finding] = caught.value.findings
    if "[" * 100 not in text:  # How deep is too deep differs between versions of Python.
        assert words in str(finding)
    assert finding.line == line
    assert finding.remedy


def test_what_is_not_utf8_is_told_by_line(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(b'[node]\n\nname = "\xff"\n')
    with pytest.raises(SettingsError, match=r"gateway.toml:3: is not UTF-8 text; save the file"):
        load(file)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(file).settings.node.name == "gateway"


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent.toml:1: cannot be read: No such file"):
        load(tmp_path / "absent.toml")


def test_an_empty_file_misses_every_table(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("")
    texts = [str(finding) for finding in findings(file)]
    assert f"{file}:1: node: is missing; add a [node] table" in texts
    assert f"{file}:1: listeners: is missing; add at least one [[listeners]] table" in texts
    assert len(texts) == 9


def test_all_findings_come_at_once_and_in_order(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        ("#node", "drian_s = 1"),
        ('name = "shops"', "name = 5"),
        ('"127.0.0.1:8443"', '"127.0.0.1:99999"'),
        ("#upstream", "late_max_s = 1\nlinks = 0"),
        ('group = "main"', 'group = "other"'),
    )
    found = findings(file)
    assert [finding.path for finding in found] == [
        "node.drian_s",
        "listeners[0].name",
        "listeners[0].listen",
        "upstreams[0].late_max_s",
        "upstreams[0].links",
        "groups[0].name",
        "routes[0].group",
    ]
    assert [finding.line for finding in found] == sorted(finding.line for finding in found)


def test_ports_may_be_shared_openly(tmp_path: Path) -> None:
    second = (
        '[[listeners]]\nname = "b"\nlisten = "127.0.0.1:8443"\nsecurity = "plain"\n'
        'macs = "by_profile"\nreuse_port = true\ndialect = "iso87_ascii"'
    )
    file = written(tmp_path, ("#listener", "reuse_port = true"), ("#end", second))
    assert findings(file) == []


def test_a_finding_is_one_line_and_as_json(tmp_path: Path) -> None:
    file = written(tmp_path, ('name = "shops"', 'name = "a\\n\\u001b[31m"'))
    [finding] = findings(file)
    assert str(finding).isprintable()
    assert finding.to_json() == {
        "file": str(file),
        "line": 22,
        "path": "listeners[0].name",
        "problem": finding.problem,
        "remedy": finding.remedy,
        "severity": "error",
    }


def test_the_version_follows_the_contents(tmp_path: Path) -> None:
    first = load(written(tmp_path)).version
    assert load(written(tmp_path)).version == first
    dialect = tmp_path / "own.toml"
    dialect.write_text('name = "own"\ntitle = "Own"\nextends = "iso87_ascii"\n')
    named = ("[node]", 'dialects = ["own.toml"]\n[node]')
    with_dialect = load(written(tmp_path, named))
    dialect.write_text('name = "own"\ntitle = "Other"\nextends = "iso87_ascii"\n')
    changed = load(written(tmp_path, named))
    assert "own" in changed.dialects
    assert len({first, with_dialect.version, changed.version}) == 3


def test_a_dialect_file_reports_in_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('name = "own"\nextends = "zzz"\n')
    file = written(
        tmp_path,
        ("[node]", 'dialects = ["own.toml"]\n[node]'),
        (
            'security = "plain"\nmacs = "by_profile"\ndialect = "iso87_ascii"',
            'security = "plain"\nmacs = "by_profile"\ndialect = "own"',
        ),
    )
    found = findings(file)
    # Nothing is said of the dialect's name: it may be in the file that could not be used.
    assert {finding.file for finding in found} == {str(tmp_path / "own.toml")}
    assert any("zzz" in str(finding) for finding in found)
