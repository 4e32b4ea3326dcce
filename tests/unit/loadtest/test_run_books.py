"""Three ledgers: what is equal, what is not, and what only people can settle."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from loadtest.ledger import AcquirerLedger, Entry, Outcome
from loadtest.run.books import Books, compare
from loadtest.run.journal import Journal
from loadtest.run.messages import Deal

TERMINAL, MERCHANT = "T0000001", "MERCHANT0000001"


class Ledgers:
    """Files of all three, filled in by hand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = Journal(folder / "one.journal", currency="978")
        self._acquirer = AcquirerLedger(folder / "a.db", synchronous="NORMAL")
        self._store = apsw.Connection(str(folder / "gateway.db"))
        self._store.execute(
            "CREATE TABLE ledger (transaction_id, terminal_id, stan, amount_minor, upstream,"
            " upstream_stan, state, response_code)"
        )
        self._count = 0

    def sold(
        self,
        *,
        kind: str = "purchase",
        device: Outcome | None = Outcome.APPROVED,
        gateway: str | None = "delivered",
        acquirer: str | None = "00",
        amount_minor: int = 500,
    ) -> None:
        """One transaction as each of them has it; None: not at all."""
        self._count += 1
        number = self._count
        deal = Deal(
            kind=kind,
            sequence=number,
            stan=f"{number:06d}",
            transmitted="0714153001",
            reference=f"{TERMINAL}-{number:010d}",
            pan="",
            amount_minor=500,
            started_ms=1,
            response_code="00",
            rrn=f"{number:012d}",
            approval_code=f"{number:06d}",
        )
        if device is not None:
            self._journal.write(deal, device, TERMINAL, MERCHANT, ended_ms=2)
        if gateway is not None:
            code = acquirer or ""
            row = (number, TERMINAL, deal.stan, 500, "a", 9_000 + number, gateway, code)
            self._store.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        if acquirer is not None:
            self._acquirer.add(
                Entry(
                    stan=f"{9_000 + number:06d}",
                    transmitted=deal.transmitted,
                    terminal_id=TERMINAL,
                    merchant_id=MERCHANT,
                    mti="0200",
                    kind=kind,
                    amount_minor=amount_minor,
                    currency="978",
                    reference=deal.reference,
                    rrn=deal.rrn,
                    approval_code="",
                    response_code=acquirer,
                    approved=acquirer == "00",
                    double=False,
                    received_ms=1,
                )
            )
            # The ledger counts approval codes by its own rows.
            self._acquirer.database.execute(
                "UPDATE entries SET approval_code = ? WHERE reference = ?",
                (deal.approval_code, deal.reference),
            )

    def books(self) -> Books:
        with self._journal:
            pass
        return compare(
            journals=[self._folder / "one.journal"],
            store=self._folder / "gateway.db",
            acquirers={"a": self._folder / "a.db"},
            log=self._folder / "none.log",
        )

    def close(self) -> None:
        self._acquirer.close()
        self._store.close()
        with self._journal:
            pass


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    made = Ledgers(tmp_path)
    yield made
    made.close()


def test_equal_ledgers_agree(ledgers: Ledgers) -> None:
    for kind in ("purchase", "void", "refund", "completion"):
        ledgers.sold(kind=kind)
    books = ledgers.books()
    assert books.agree, books.lines
    assert books.attempts == 4


def test_money_that_only_the_acquirer_has_is_lost(ledgers: Ledgers) -> None:
    ledgers.sold(device=Outcome.REVERSED)
    books = ledgers.books()
    assert (books.agree, books.lost) == (False, 1)


def test_what_a_device_holds_and_nobody_else_is_unexplained(ledgers: Ledgers) -> None:
    ledgers.sold(acquirer=None, gateway=None)
    assert ledgers.books().unexplained == 1


def test_another_amount_is_unexplained(ledgers: Ledgers) -> None:
    ledgers.sold(amount_minor=501)
    assert ledgers.books().unexplained


def test_what_moves_no_money_is_no_money(ledgers: Ledgers) -> None:
    ledgers.sold(kind="balance", gateway="closed")
    ledgers.sold(kind="settlement", acquirer=None)
    books = ledgers.books()
    assert books.agree, books.lines


@pytest.mark.parametrize(("kind", "agree", "handed_on"), [("refund", True, 1), ("void", False, 0)])
def test_a_refund_in_doubt_is_an_operators_and_nothing_else_is(
    ledgers: Ledgers, kind: str, agree: bool, handed_on: int
) -> None:
    ledgers.sold(kind=kind, device=Outcome.DECLINED, gateway="given_up")
    books = ledgers.books()
    assert (books.agree, books.for_an_operator) == (agree, handed_on)
