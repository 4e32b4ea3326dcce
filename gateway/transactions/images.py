"""Messages as they are kept, sealed, in the store: what is left of them, and what binds them."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from gateway.transactions.duplicates import batch_of
from gateway.wire.emv import without_tags
from gateway.wire.message import EMV_DATA, ORIGINAL_DATA, Message

# What a reversal or an advice takes from its original. An allow-list: tracks, PIN block, CVV and
# the private fields that may hide them (45, 48, 52, 53 …) are never kept, not even encrypted.
_KEPT = frozenset(
    (
        *(2, 3, 4, 7, 11, 12, 13, 14, 18, 19, 22, 23, 24, 25, 26, 32, 33, 37, 38, 41, 42, 43, 49),
        *(55, 60, ORIGINAL_DATA),
    )
)
# UnionPay's reference to an original: batch 6, STAN 6, date 4. Elsewhere DE61 may hold anything.
_UNIONPAY_ORIGINAL = 61
_UNIONPAY_ORIGINAL_LENGTHS = (12, 16)
_KEPT_OF_UPLOADS = (39, 54)
_UNIONPAY_DETAILS = 48
# Track 1 and 2 data under their several tags, and the card number.
_EMV_NEVER_KEPT = frozenset(map(bytes.fromhex, ("56", "57", "5A", "9F1F", "9F20", "9F6B")))
_ANSWER_NEVER_KEPT = frozenset((34, 35, 36, 45, 52))


def context_of(transaction_id: int) -> bytes:
    """Associated data of a transaction's sealed images, so that they open under no other."""
    return b"transaction:%d" % transaction_id


# By upstream: what it got, or would have got, otherwise than the terminal sent it.
Told = Mapping[str, Mapping[int, str | None]]


def pack_request(message: Message, told: Told | None = None, dialect: str = "") -> bytes:
    """What a reversal or an advice needs of a request; to be sealed.

    `told` are values of the configuration, and of what is kept itself in an upstream's form;
    `dialect` is that of the terminal.
    """
    mti, fields = message.mti, _kept_fields(message)
    if told is None:
        return orjson.dumps((mti, fields), option=orjson.OPT_NON_STR_KEYS)
    told = {
        name: _told_safely(changes, fields) if _UNIONPAY_ORIGINAL in changes else changes
        for name, changes in told.items()
    }
    return orjson.dumps((mti, fields, told, dialect), option=orjson.OPT_NON_STR_KEYS)


def _told_safely(
    changes: Mapping[int, str | None], fields: Mapping[int, str]
) -> Mapping[int, str | None]:
    """What an upstream was told, less a DE61 that is no reference: it may hold anything."""
    original = changes.get(_UNIONPAY_ORIGINAL)
    if original is None or _UNIONPAY_ORIGINAL in fields:
        return changes
    if _is_reference(original):
        return changes
    return {n: value for n, value in changes.items() if n != _UNIONPAY_ORIGINAL}


def _is_reference(text: str) -> bool:
    return text.isdigit() and len(text) in _UNIONPAY_ORIGINAL_LENGTHS


def _kept_fields(message: Message) -> dict[int, str]:
    all_fields = message.fields
    fields = {n: v for n, v in all_fields.items() if n in _KEPT}
    original = all_fields.get(_UNIONPAY_ORIGINAL)
    if original and _is_reference(original) and batch_of(message):
        fields[_UNIONPAY_ORIGINAL] = original
    chip = fields.get(EMV_DATA)
    if chip is not None:
        kept = _without_card_tags(chip)
        if kept:
            fields[EMV_DATA] = kept
        else:
            del fields[EMV_DATA]
    return fields


def pack_upload(message: Message) -> bytes:
    """A record of a batch upload, to be sealed: as a request, with what only such a record has.

    That is DE39, DE54 and, on UnionPay, the details in DE48, which are digits; elsewhere DE48 may
    hold anything.
    """
    mti, fields = orjson.loads(pack_request(message))
    details = message.get(_UNIONPAY_DETAILS)
    if details.isascii() and details.isdigit() and batch_of(message):
        fields[str(_UNIONPAY_DETAILS)] = details
    fields |= {str(n): message.fields[n] for n in _KEPT_OF_UPLOADS if n in message.fields}
    return orjson.dumps((mti, fields))


def pack_answer(message: Message) -> bytes:
    """An answer as it was given, less what must not be kept; to be sealed."""
    fields = {n: v for n, v in message.fields.items() if n not in _ANSWER_NEVER_KEPT}
    return orjson.dumps((message.mti, fields), option=orjson.OPT_NON_STR_KEYS)


def unpack(image: bytes) -> Message:
    """The message that `pack_request` or `pack_answer` wrote."""
    mti, fields, *_ = orjson.loads(image)
    return Message(mti, {int(number): value for number, value in fields.items()})


def unpack_told(image: bytes, upstream: str) -> dict[int, str | None] | None:
    """What an upstream was told otherwise; None where `pack_request` was not given it."""
    _, _, *kept = orjson.loads(image)
    changes = kept[0].get(upstream) if kept else None
    return None if changes is None else {int(number): text for number, text in changes.items()}


def unpack_dialect(image: bytes) -> str:
    """The dialect of the terminal; empty where `pack_request` was not given it."""
    _, _, *kept = orjson.loads(image)
    return str(kept[1]) if len(kept) > 1 else ""


def _without_card_tags(chip: str) -> str:
    """DE55 less tags 57 and 5A; nothing at all where it cannot be read as BER-TLV."""
    try:
        return without_tags(bytes.fromhex(chip), _EMV_NEVER_KEPT).hex().upper()
    except ValueError:
        return ""
