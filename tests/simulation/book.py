"""Book: what a simulated terminal writes down, and the messages that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.wire.message import (
    AMOUNT,
    APPROVAL_CODE,
    CONDITION_CODE,
    CURRENCY,
    ENTRY_MODE,
    EXPIRY,
    LOCAL_DATE,
    LOCAL_TIME,
    ORIGINAL_DATA,
    PAN,
    PROCESSING_CODE,
    RESPONSE_CODE,
    RRN,
    STAN,
    TERMINAL_ID,
    TRANSMISSION_TIME,
    Message,
)
from gateway.wire.message import MERCHANT_ID as MERCHANT
from loadtest.host import REFERENCE
from loadtest.ledger import Attempt, Outcome
from loadtest.requests import transmission_time

MERCHANT_ID = "MERCHANT0000001"
ADVICES = ("offline", "adjustment")
REVERSIBLE = ("purchase", "preauthorisation", "completion", "void")
FOLLOWS = {
    "void": ("purchase",),
    "refund": ("purchase", "completion"),
    "completion": ("preauthorisation",),
    "adjustment": ("purchase",),
}

_CURRENCY = "978"
_DEBITS = ("purchase", "completion", "offline", "adjustment")
# Kind -> MTI, DE3, DE25.
_SHAPES = {
    "purchase": ("0200", "000000", "00"),
    "preauthorisation": ("0100", "000000", "00"),
    "completion": ("0200", "000000", "06"),
    "void": ("0200", "020000", "00"),
    "refund": ("0200", "200000", "00"),
    "offline": ("0220", "000000", "00"),
    "adjustment": ("0220", "020000", "00"),
    "balance": ("0200", "310000", "00"),
    "settlement": ("0500", "920000", "00"),
}


@dataclass(slots=True)
class Book:
    """One terminal's transactions; it survives the terminal's power."""

    number: int
    attempts: dict[str, Attempt] = field(default_factory=dict)
    originals: dict[str, str] = field(default_factory=dict)  # of follow-ups, by reference
    by_rrn: set[str] = field(default_factory=set)  # follow-ups that name their original by DE37
    batch: list[str] = field(default_factory=list)  # references since the last close
    sequence: int = 0
    reversals: int = 0  # with a STAN of their own
    objections: list[tuple[str, str]] = field(default_factory=list)  # what an answer had wrong

    @property
    def terminal_id(self) -> str:
        return f"T{self.number:07d}"

    # --- writing ------------------------------------------------------------------------------

    def begin(
        self,
        kind: str,
        amount_minor: int,
        *,
        now_ms: int,
        original: Attempt | None = None,
        by_rrn: bool = False,
    ) -> Attempt:
        """A new transaction, not in the book yet but for its number and its place in the batch."""
        self.sequence += 1
        reference = f"{self.number:03d}{self.sequence:09d}"
        if original is not None:
            self.originals[reference] = original.reference
            # An advice is known by its own RRN, also when it is sent again without DE48.
            if by_rrn and kind not in ADVICES:
                self.by_rrn.add(reference)
        if kind != "settlement":
            self.batch.append(reference)
        return Attempt(
            terminal_id=self.terminal_id,
            sequence=self.sequence,
            stan=f"{self.sequence:06d}",
            transmitted=transmission_time(now_ms),
            reference=reference,
            merchant_id=MERCHANT_ID,
            kind=kind,
            amount_minor=amount_minor,
            currency=_CURRENCY,
            started_ms=now_ms,
        )

    def another_stan(self) -> str:
        """A STAN that no request has."""
        self.reversals += 1
        return f"{900_000 + self.reversals:06d}"

    def close_batch(self, attempt: Attempt, code: str) -> None:
        """What the answer to a 0500 says."""
        if code in ("00", "95"):
            self.batch.clear()
        if code == "95":
            self.objections.append((attempt.reference, "the batch is out of balance"))

    # --- messages -----------------------------------------------------------------------------

    def request(self, attempt: Attempt) -> Message:
        mti, _, _ = _SHAPES[attempt.kind]
        fields = self._common(attempt)
        if attempt.kind == "settlement":
            fields |= self._totals()
            del fields[PAN], fields[EXPIRY]
        else:
            fields |= {RRN: attempt.reference, REFERENCE: attempt.reference, ENTRY_MODE: "051"}
        original = self.originals.get(attempt.reference)
        if original is not None:
            followed = self.attempts[original]
            if attempt.reference in self.by_rrn:
                fields |= {RRN: followed.rrn, APPROVAL_CODE: followed.approval_code}
            else:
                fields[ORIGINAL_DATA] = _original_data(followed)
        return Message(mti, fields)

    def reversal(self, attempt: Attempt, *, stan: str, now_ms: int) -> Message:
        """The reversal of an attempt, marked as a repeat once it was sent before."""
        fields = self._common(attempt) | {
            STAN: stan,
            TRANSMISSION_TIME: transmission_time(now_ms),
            RESPONSE_CODE: "98",
            ORIGINAL_DATA: _original_data(attempt),
        }
        return Message("0401" if attempt.reversals_sent else "0400", fields)

    def _common(self, attempt: Attempt) -> dict[int, str]:
        _, code, condition = _SHAPES[attempt.kind]
        original = self.originals.get(attempt.reference)  # with the same card
        customer = (self.attempts[original] if original else attempt).sequence % 7
        return {
            PAN: f"999999{self.number:06d}{customer:03d}0",
            PROCESSING_CODE: code,
            AMOUNT: f"{attempt.amount_minor:012d}",
            TRANSMISSION_TIME: attempt.transmitted,
            STAN: attempt.stan,
            LOCAL_TIME: attempt.transmitted[4:],
            LOCAL_DATE: attempt.transmitted[:4],
            EXPIRY: "4912",
            CONDITION_CODE: condition,
            TERMINAL_ID: self.terminal_id,
            MERCHANT: MERCHANT_ID,
            CURRENCY: _CURRENCY,
        }

    def _totals(self) -> dict[int, str]:
        """Counts and amounts of the batch, as this till sees them (DE74, 76, 86, 88).

        None where an advice was never taken: whether the gateway counts it is not said anywhere.
        """
        every = [self.attempts[reference] for reference in self.batch]
        if any(one.kind in ADVICES and one.outcome is Outcome.DECLINED for one in every):
            return {}
        held = [one for one in every if one.outcome is Outcome.APPROVED]
        voided = {self.originals[one.reference] for one in held if one.kind == "void"}
        debits = [one for one in held if one.kind in _DEBITS and one.reference not in voided]
        credits_ = [one for one in held if one.kind == "refund"]
        return {
            74: f"{len(credits_):010d}",
            76: f"{len(debits):010d}",
            86: f"{sum(one.amount_minor for one in credits_):016d}",
            88: f"{sum(one.amount_minor for one in debits):016d}",
        }


def _original_data(attempt: Attempt) -> str:
    """DE90: MTI, STAN and DE7 of the original, DE32 and DE33 as zeros."""
    return f"{_SHAPES[attempt.kind][0]}{attempt.stan}{attempt.transmitted}{'0' * 22}"
