"""Messages built from others: what goes upstream, the answer, the refusal, the reversal."""

from __future__ import annotations

from typing import Literal

from gateway.clock import utc
from gateway.transactions.duplicates import batch_of, day_of
from gateway.wire.message import (
    APPROVAL_CODE,
    EMV_DATA,
    LOCAL_TIME,
    MERCHANT_ID,
    ORIGINAL_DATA,
    REPLACEMENT_AMOUNTS,
    RESPONSE_CODE,
    RRN,
    STAN,
    TERMINAL_ID,
    TRANSMISSION_TIME,
    Message,
    repeat_mti,
    response_mti,
)

Naming = Literal["de90", "de56", "de61"]

_MACS = (64, 128)  # hop by hop: each side computes its own
_PRIMARY_MAC = 64

# What a refusal echoes of its request: references, never card data.
_ECHOED = (3, 4, 7, 11, 12, 13, 24, 25, 32, 37, 41, 42, 49, 60, 70)
# What the gateway's own answers to 0800 echo.
_NETWORK_ECHOED = (3, 7, 11, 12, 13, 24, 32, 41, 42, 70)


def forwarded(request: Message, *, stan: int, rrn: str | None) -> Message:
    """The request as it goes upstream: our STAN, our RRN where we issue them, no MAC of the
    terminal's, and never marked as a repeat, since it is sent at most once."""
    fields = dict(request.fields)
    fields[STAN] = f"{stan:06d}"
    if rrn is not None:
        fields[RRN] = rrn
    if _PRIMARY_MAC in fields or 128 in fields:
        for number in _MACS:
            fields.pop(number, None)
    mti = request.mti[:3] + "0" if request.is_repeat else request.mti
    return Message(mti, fields)


def outgoing(message: Message, *, stan: int, issue_rrn: bool, wall_ms: int) -> Message:
    """The request as it goes to an upstream that has us issue RRNs, or passes the terminal's on.

    Made from what is kept of a request, it is that request again as its upstream got it.
    """
    rrn = issued_rrn(wall_ms=wall_ms, stan=stan) if issue_rrn else None
    return forwarded(message, stan=stan, rrn=rrn)


def issued_rrn(*, wall_ms: int, stan: int) -> str:
    """A retrieval reference number as is customary: last digit of the year, day of the year, hour,
    STAN."""
    now = utc(wall_ms)
    return f"{now.year % 10}{now.timetuple().tm_yday:03d}{now.hour:02d}{stan:06d}"


def answer(request: Message, answered: Message) -> Message:
    """The acquirer's answer as the terminal expects it: its own MTI, STAN and identity again."""
    fields = dict(answered.fields)
    for number in (STAN, TERMINAL_ID, MERCHANT_ID):
        value = request.fields.get(number)
        if value is not None:
            fields[number] = value
        else:
            fields.pop(number, None)
    if _PRIMARY_MAC in fields or 128 in fields:
        for number in _MACS:
            fields.pop(number, None)
    return Message(response_mti(request.mti), fields)


def refusal(request: Message, code: str) -> Message:
    """The gateway's own answer to a request, with this response code."""
    fields = {number: request.fields[number] for number in _ECHOED if number in request.fields}
    fields[RESPONSE_CODE] = code
    return Message(response_mti(request.mti), fields)


def remembered(request: Message, code: str, *, approval_code: str, rrn: str) -> Message:
    """An acquirer's answer of which only this is left."""
    known = {APPROVAL_CODE: approval_code, RRN: rrn}
    return refusal(request, code).changed({n: v for n, v in known.items() if v})


def unparsed_refusal(*, mti: str, stan: str, code: str) -> Message:
    """The answer to a message of which only MTI and STAN could be read."""
    return Message(response_mti(mti), {STAN: stan, RESPONSE_CODE: code})


def network_answer(request: Message, code: str) -> Message:
    """The answer to a terminal's 0800."""
    fields = {n: request.fields[n] for n in _NETWORK_ECHOED if n in request.fields}
    fields[RESPONSE_CODE] = code
    return Message(response_mti(request.mti), fields)


def naming(original: Message, by: Naming, *, made_ms: int) -> tuple[int, str]:
    """The element in which a reversal names its original, and what is in it.

    - DE90, original data elements (ISO 8583:1987): MTI, STAN, DE7, DE32 and DE33, zero filled.
    - DE56, original data elements (ISO 8583:1993): MTI, STAN, local date and time with the year,
      and DE32 with its length.
    - DE61 (UnionPay): batch, STAN and date. The reversal bears the original's STAN as its own.
    """
    if by == "de56":
        local = original.get(LOCAL_TIME)
        if len(local) != 12:  # as in 1987: the time alone
            local = f"{day_of(original, made_ms)[2:]}{local:0>6}"
        acquirer = original.get(32)
        return 56, f"{original.mti:0>4}{original.stan:0>6}{local}{len(acquirer):02d}{acquirer}"
    if by == "de61":
        batch = batch_of(original) or "000000"
        return 61, f"{batch}{original.stan:0>6}{day_of(original, made_ms)[4:]}"
    return ORIGINAL_DATA, (
        f"{original.mti:0>4}{original.stan:0>6}"
        f"{original.get(TRANSMISSION_TIME):0>10}{original.get(32):0>11}{original.get(33):0>11}"
    )


def reversal(
    original: Message,
    *,
    mti: str,
    stan: int,
    reason: str,
    approval_code: str,
    amount_minor: int = -1,
    repeated: bool,
    wall_ms: int,
    named_by: Naming = "de90",
    made_ms: int = 0,
) -> Message:
    """The reversal of a request, towards the upstream that got it.

    `original` is the kept image of the request as it went upstream, so that it is named by upstream
    values; `made_ms` is when that was. An `amount_minor` of 0 or more is what a partial reversal
    leaves (DE95, replacement amounts).
    """
    fields = {n: v for n, v in original.fields.items() if n != EMV_DATA}
    number, name = naming(original, named_by, made_ms=made_ms)
    fields[number] = name
    fields[STAN] = f"{stan:06d}"
    fields[TRANSMISSION_TIME] = utc(wall_ms).strftime("%m%d%H%M%S")
    fields[RESPONSE_CODE] = reason
    if approval_code:
        fields[APPROVAL_CODE] = approval_code
    if amount_minor >= 0:
        fields[REPLACEMENT_AMOUNTS] = f"{amount_minor:012d}".ljust(42, "0")
    return Message(repeat_mti(mti) if repeated else mti, fields)


def padded(reply: Message, request: Message) -> Message:
    """The reply with the pads of its request, in the fields that say again what the request did.

    Terminals of one make end odd fields in 0, those of another in F; each gets back its own.
    """
    pads = {
        number: pad
        for number, pad in request.pads.items()
        if reply.fields.get(number) == request.fields.get(number)
    }
    return Message(reply.mti, reply.fields, pads=pads) if pads else reply


def bare(message: Message) -> Message:
    """The least that still answers: what references the request, and the response code."""
    least = (3, 4, STAN, 12, 13, RRN, APPROVAL_CODE, RESPONSE_CODE, TERMINAL_ID, MERCHANT_ID)
    return Message(message.mti, {n: message.fields[n] for n in least if n in message.fields})
