"""Host: what a simulated acquirer decides and writes down; the connections are not its concern."""

from __future__ import annotations

from collections import Counter

from gateway.clock import Clock, utc
from gateway.wire.message import (
    AMOUNT,
    APPROVAL_CODE,
    CURRENCY,
    LOCAL_DATE,
    LOCAL_TIME,
    MERCHANT_ID,
    NETWORK_CODE,
    ORIGINAL_DATA,
    PROCESSING_CODE,
    RESPONSE_CODE,
    RRN,
    STAN,
    TERMINAL_ID,
    TRANSMISSION_TIME,
    Message,
    kind_of,
    response_mti,
)
from loadtest.ledger import AcquirerLedger, Entry, OriginalKey
from loadtest.switches import Switches

# The terminals' own name for a transaction travels here; gateways pass it on untouched.
REFERENCE = 48

APPROVING_CODES = frozenset(("00", "08", "10", "11", "16"))
INVALID_TRANSACTION = "12"
ORIGINAL_NOT_FOUND = "25"

_ECHOED = (
    PROCESSING_CODE,
    AMOUNT,
    TRANSMISSION_TIME,
    STAN,
    LOCAL_TIME,
    LOCAL_DATE,
    RRN,
    TERMINAL_ID,
    MERCHANT_ID,
    CURRENCY,
    NETWORK_CODE,
    ORIGINAL_DATA,
)


class Host:
    """An acquirer's decisions. `answer` runs inside the ledger's transaction."""

    def __init__(self, ledger: AcquirerLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self.counts: Counter[str] = Counter()
        self._own = 0

    def answer(self, request: Message, switches: Switches) -> Message:
        """The response to a request; what it rests on is written and durable with the commit."""
        group = request.mti[1:2]
        if group == "8":
            self.counts["network"] += 1
            self.counts[kind_of(request)] += 1
            return _response(request, switches.network_code or "00")
        if group == "4":
            return self._reverse(request, switches)
        if group in "12":
            return self._decide(request, switches)
        self.counts["unsupported"] += 1
        return _response(request, INVALID_TRANSACTION)

    @staticmethod
    def refusal(request: Message, code: str) -> Message:
        """A response to what is not looked at any further."""
        return _response(request, code)

    def network_request(self, code: str) -> Message:
        """A 0800 of the acquirer's own, with a STAN that no other of this process has."""
        self._own = self._own % 999_999 + 1
        return Message(
            "0800",
            {
                TRANSMISSION_TIME: utc(self._clock.wall_ms()).strftime("%m%d%H%M%S"),
                STAN: f"{self._own:06d}",
                NETWORK_CODE: code,
            },
        )

    def _decide(self, request: Message, switches: Switches) -> Message:
        key = OriginalKey(
            terminal_id=request.terminal_id,
            stan=request.stan,
            transmitted=request.get(TRANSMISSION_TIME),
        )
        before = self._ledger.find(key)
        if before is not None and request.is_repeat:
            self.counts["repeats"] += 1
            return _decision(request, before)
        if before is not None:
            self.counts["doubles"] += 1
        code = switches.code_for(request)
        if switches.tombstones and self._ledger.has_tombstone(key):
            self.counts["overtaken"] += 1
            code = INVALID_TRANSACTION
        if switches.checks_originals and request.get(ORIGINAL_DATA):
            original = self._ledger.find(original_key(request))
            if original is None or not original.approved:
                self.counts["originals_not_found"] += 1
                code = ORIGINAL_NOT_FOUND
        approved = code in APPROVING_CODES
        self.counts["approved" if approved else "declined"] += 1
        entry = self._ledger.add(
            Entry(
                stan=key.stan,
                transmitted=key.transmitted,
                terminal_id=key.terminal_id,
                merchant_id=request.merchant_id,
                mti=request.mti,
                kind=kind_of(request),
                amount_minor=request.amount_minor or 0,
                currency=request.get(CURRENCY),
                reference=request.get(REFERENCE),
                rrn=request.rrn,
                approval_code="",
                response_code=code,
                approved=approved,
                # Approved once more, as a host without a duplicate check would: a gateway that
                # sends twice must show in the ledger.
                double=before is not None,
                received_ms=self._clock.wall_ms(),
            )
        )
        return _decision(request, entry)

    def _reverse(self, request: Message, switches: Switches) -> Message:
        now_ms = self._clock.wall_ms()
        key = original_key(request)
        original = self._ledger.find(key)
        if original is None:
            self.counts["originals_not_found"] += 1
            self._ledger.put_tombstone(key, now_ms=now_ms)
            return _response(request, ORIGINAL_NOT_FOUND)
        if switches.reversals_ignored:
            self.counts["reversals_ignored"] += 1
        elif original.reversed_ms:
            self.counts["reversals_repeated"] += 1
        else:
            self.counts["reversed"] += 1
            amount_minor = request.amount_minor
            self._ledger.mark_reversed(
                original,
                amount_minor=original.amount_minor if amount_minor is None else amount_minor,
                now_ms=now_ms,
            )
        return _response(request, "00")


def original_key(reversal: Message) -> OriginalKey:
    """Which request a reversal undoes: by DE90 (MTI 4, STAN 6, DE7 10, …), else by its own STAN."""
    original = reversal.get(ORIGINAL_DATA)
    stan, transmitted = original[4:10], original[10:20]
    return OriginalKey(
        terminal_id=reversal.terminal_id,
        stan=stan if stan.strip("0") else reversal.stan,
        transmitted=transmitted if transmitted.strip("0") else "",
    )


def _decision(request: Message, entry: Entry) -> Message:
    more = {RRN: entry.rrn}
    if entry.approval_code:
        more[APPROVAL_CODE] = entry.approval_code
    return _response(request, entry.response_code, more)


def _response(request: Message, code: str, more: dict[int, str] | None = None) -> Message:
    echoed = {number: request.fields[number] for number in _ECHOED if number in request}
    return Message(response_mti(request.mti), {**echoed, RESPONSE_CODE: code, **(more or {})})
