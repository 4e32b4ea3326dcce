"""Journal: what a worker's devices hold of their transactions, a line each, in order of their end.

A database would be a load of its own on the machine that is measured; nobody kills a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from loadtest.ledger import Attempt, Outcome
from loadtest.run.messages import Deal

_BUFFER_BYTES = 1 << 20


class Journal:
    """A file that is written; card numbers do not reach it."""

    def __init__(self, path: Path, *, currency: str) -> None:
        self._file = path.open("w", encoding="ascii", buffering=_BUFFER_BYTES)
        self._currency = currency

    def write(
        self, deal: Deal, outcome: Outcome, terminal_id: str, merchant_id: str, *, ended_ms: int
    ) -> None:
        """How a deal ended, or that it is still open."""
        self._file.write(
            f"{terminal_id}\t{deal.sequence}\t{deal.stan}\t{deal.transmitted}\t{deal.reference}"
            f"\t{merchant_id}\t{deal.kind}\t{deal.amount_minor}\t{self._currency}\t{outcome}"
            f"\t{deal.response_code}\t{deal.approval_code}\t{deal.rrn}\t{deal.reversal_code}"
            f"\t{deal.reversals_sent}\t{deal.started_ms}\t{ended_ms}\n"
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def read_journal(path: Path) -> Iterator[Attempt]:
    """What a worker wrote, as attempts; raises ValueError, with the line, for what is not that."""
    with path.open(encoding="ascii") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield _attempt(line.rstrip("\n").split("\t"))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not a line of a journal: {error}") from None


def _attempt(parts: list[str]) -> Attempt:
    terminal_id, sequence, stan, transmitted, reference, merchant_id, kind, *rest = parts
    amount_minor, currency, outcome, response_code, approval_code, rrn, *last = rest
    reversal_code, reversals_sent, started_ms, ended_ms = last
    return Attempt(
        terminal_id=terminal_id,
        sequence=int(sequence),
        stan=stan,
        transmitted=transmitted,
        reference=reference,
        merchant_id=merchant_id,
        kind=kind,
        amount_minor=int(amount_minor),
        currency=currency,
        outcome=Outcome(outcome),
        response_code=response_code,
        approval_code=approval_code,
        rrn=rrn,
        reversal_code=reversal_code,
        reversals_sent=int(reversals_sent),
        started_ms=int(started_ms),
        ended_ms=int(ended_ms),
    )
