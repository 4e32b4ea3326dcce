"""The CSV file of the terminals an upstream knows: what it says, and what is wrong, by line."""

from __future__ import annotations

import pytest

from gateway.settings.boarding import BoardedTerminal, read_boarding

HEAD = "terminal_id,upstream_terminal_id,upstream_merchant_id\n"


def faults(text: str, *, rows_max: int = 100) -> list[tuple[int, str]]:
    file = read_boarding(text, rows_max=rows_max)
    assert all(fault.remedy for fault in file.faults)
    return [(fault.line, fault.problem) for fault in file.faults]


def test_what_each_terminal_is_called() -> None:
    file = read_boarding(
        "terminal_id,upstream_terminal_id,upstream_merchant_id,batch\n"
        "T1,90000001,M9,000001\n"
        "\n"
        "# the kiosks\n"
        ' T0000002 ,90000002,"",\n',
        rows_max=2,
    )
    assert file.faults == []
    assert file.terminals == {
        "T1      ": BoardedTerminal("90000001", "M9".ljust(15), "000001"),
        "T0000002": BoardedTerminal("90000002"),
    }


def test_columns_may_stand_in_any_order() -> None:
    file = read_boarding(
        "upstream_merchant_id,terminal_id,upstream_terminal_id\nM,T,U\n", rows_max=1
    )
    assert file.terminals == {"T".ljust(8): BoardedTerminal("U".ljust(8), "M".ljust(15))}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [(1, "is empty")]),
        ("terminal_id,batch\n", [(1, "lacks the column upstream_terminal_id")]),
        (
            "terminal_id,upstream_terminal_id,upstream_merchant_id,pan\n",
            [(1, 'has an unknown column "pan"')],
        ),
        (HEAD[:-1] + ",batch,batch\n", [(1, "names a column twice")]),
        (HEAD + "T1,U1\n", [(2, "has 2 values where the first line names 3 columns")]),
        (HEAD + ",U1,M\n", [(2, "terminal_id is empty")]),
        (HEAD + "T1,,M\n", [(2, "upstream_terminal_id is empty")]),
        (HEAD + "T00000001,U1,M\n", [(2, "terminal_id 'T00000001' is no id")]),
        (HEAD + "T1,Ü,M\n", [(2, "upstream_terminal_id 'Ü' is no id")]),
        (HEAD + f"T1,U1,{'M' * 16}\n", [(2, f"upstream_merchant_id '{'M' * 16}' is no id")]),
        (HEAD + "T1,U1,M\n\nT1,U2,M\n", [(4, "terminal T1 is already on line 2")]),
        (HEAD + "T1,U1,M\nT2,U1,M\n", [(3, "upstream terminal U1 is already used on line 2")]),
        (HEAD + "T1,U1,M\nT2,U1,N\n", []),  # each of another merchant's
        (HEAD[:-1] + ",batch\nT1,U1,M,1\n", [(2, "batch '1' is not 6 digits")]),
        (HEAD + "T1,U1,M\nT2,U2,M\n", [(3, "has more than 1 terminals")]),
        (HEAD + 'T1,"U1,M\n', [(2, "is not CSV: unexpected end of data")]),
    ],
)
def test_what_is_wrong_has_its_line(text: str, found: list[tuple[int, str]]) -> None:
    assert faults(text, rows_max=1 if "has more" in str(found) else 100) == found


def test_a_file_of_another_kind_is_not_told_line_by_line_for_ever() -> None:
    told = faults(HEAD + "x\n" * 1_000, rows_max=10_000)
    assert len(told) == 51
    assert told[-1] == (52, "and more that is wrong")
