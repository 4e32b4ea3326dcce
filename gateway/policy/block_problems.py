"""What is wrong with a line of a blocklist file, in words that repeat nothing of the line."""

from __future__ import annotations

from dataclasses import dataclass

CARD_NUMBER = (
    "holds what may be a clear card number",
    "remove it from the file and its copies; `gateway block card` writes a token instead",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file."""

    file: str
    line: int  # counted from 1
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}; {self.remedy}"


class Wrong(Exception):
    """What is wrong with a line; its text is for people and holds nothing of the line."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def twice(first_line: int) -> Wrong:
    """An entry that stands in the file already."""
    return Wrong(f"is already on line {first_line}", "keep one of the two")


def text_of(value: bytes) -> str:
    """The text of bytes of a line; raises Wrong where they are none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Wrong("is not UTF-8 text", "save the file as UTF-8") from None
