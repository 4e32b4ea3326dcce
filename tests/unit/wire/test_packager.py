"""jPOS packagers: what they say in the words of a dialect, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.main import build_app
from gateway.wire.codec import Codec
from gateway.wire.dialect import dialect_of
from gateway.wire.message import Message
from gateway.wire.packager import PACKAGER_BYTES_MAX, PackagerError, dialect_text

HEAD = (
    '<?xml version="1.0"?>\n'
    '<!DOCTYPE isopackager PUBLIC "-//jPOS/jPOS Generic Packager DTD 1.0//EN"'
    ' "http://jpos.org/dtd/generic-packager-1.0.dtd">\n<isopackager>\n'
)
MTI = '<isofield id="0" length="4" name="MTI" class="org.jpos.iso.IFB_NUMERIC" pad="true"/>\n'
BITMAP = '<isofield id="1" length="16" name="BIT MAP" class="org.jpos.iso.IFB_BITMAP"/>\n'


def field(number: int, kind: str, length: int, more: str = "") -> str:
    return (
        f'<isofield id="{number}" length="{length}" name="DE &lt;{number}&gt;"'
        f' class="org.jpos.iso.{kind}" {more}/>\n'
    )


def packager(*fields: str, head: str = HEAD + MTI + BITMAP) -> bytes:
    return (head + "".join(fields) + "</isopackager>").encode()


def test_a_packager_becomes_a_dialect() -> None:
    text = dialect_text(
        packager(
            field(2, "IFB_LLNUM", 19, 'pad="false"'),
            field(22, "IFB_NUMERIC", 3, 'pad="true"'),
            field(28, "IFB_AMOUNT", 9),
            field(35, "IFB_FLLNUM", 37, 'pad="false"'),
            field(37, "IF_CHAR", 12),
            field(38, "IF_ECHAR", 6),
            field(44, "IFB_LLHECHAR", 25),
            field(46, "IFE_LLLCHAR", 99),
            field(48, "IFB_LLLCHAR", 999),
            field(52, "IFB_BINARY", 8),
            field(53, "IFA_BINARY", 8),
            field(54, "IFA_LLLCHAR", 120),
            field(55, "IFB_LLLHBINARY", 255),
            field(56, "IF_NOP", 1),
            '<isofieldpackager id="60" length="20" name="sub" class="org.jpos.iso.IFB_LLLBINARY">\n'
            + field(2, "IFX_UNHEARD", 1)
            + "</isofieldpackager>\n",
            field(65, "IFB_BINARY", 8),
            field(130, "IFB_BINARY", 8),
        ),
        "acme",
    )
    dialect = dialect_of(text, "acme.toml")
    assert sorted(dialect.fields) == [2, 22, 28, 35, 37, 38, 44, 46, 48, 52, 53, 54, 55, 60]
    assert dialect.fields[2].name == "DE <2>"
    fields = {
        2: "4761739001010010123",
        22: "051",
        28: "4400000100",
        35: "4761739001010010D2912",
        37: "000000000001",
        38: "ABCDEF",
        44: "HI",
        46: "YES",
        53: "0011223344556677",
        55: "9F2608",
    }
    body = Codec(dialect).encode(Message("0200", fields))
    assert body[10:] == (
        bytes.fromhex("19" + "47617390010100101230" + "0051" + "4400000100")
        + bytes.fromhex("21" + "4761739001010010D2912F")
        + b"000000000001"
        + "ABCDEF".encode("cp037")
        + b"\x02"
        + "HI003YES".encode("cp037")
        + b"0011223344556677"
        + bytes.fromhex("0003" + "9F2608")
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"<isopackager>", "line 1: not XML"),
        (packager(head=HEAD + MTI), "has no field 0 or 1"),
        (
            packager(field(3, "IFX_ODD", 3)),
            "line 6: field 3: 'IFX_ODD' is a class that is not known",
        ),
        (
            packager(field(3, "IF_CHAR", 3), field(3, "IF_CHAR", 3)),
            "line 7: field 3 is there twice",
        ),
        (packager('<isofield id="x" length="3"/>'), "line 6: a field needs id and length"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "line 1: declares an entity"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "declares an entity"),
        (b'<?xml version="1.0" encoding="acme"?><isopackager/>', "line 1: its encoding"),
        (b'<?xml version="1.0" encoding="Big5"?><isopackager/>', "line 1: its encoding"),
        (b'<?xml version="1.0" encoding="idna"?><isopackager/>', "line 1: its encoding"),
        (b" " * (PACKAGER_BYTES_MAX + 1), "is longer than"),
    ],
)
def test_what_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(PackagerError) as caught:
        dialect_text(data, "acme")
    assert text in str(caught.value)


def test_the_command_writes_a_file_once(tmp_path: Path) -> None:
    source, made = tmp_path / "Acme Bank.xml", tmp_path / "acme.toml"
    source.write_bytes(packager(field(11, "IFB_NUMERIC", 6)))
    arguments = ["dialect", "import", str(source), "-o", str(made)]
    assert CliRunner().invoke(build_app(), arguments).exit_code == 0
    assert 'name = "acme_bank"' in made.read_text()
    again = CliRunner().invoke(build_app(), arguments)
    assert again.exit_code == 1
    assert "is there already" in again.output
    assert "[fields]" in CliRunner().invoke(build_app(), ["dialect", "import", str(source)]).stdout
