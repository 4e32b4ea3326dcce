"""Does what a message says of its original fit a transaction? A STAN alone names none."""

from __future__ import annotations

from enum import IntEnum

from gateway.store.store import Transaction
from gateway.transactions.keyed_hashes import differ
from gateway.transactions.records import Records
from gateway.wire.message import LOCAL_TIME, ORIGINAL_DATA, TRANSMISSION_TIME, Message

_UNIONPAY_ORIGINAL = 61  # original batch 6, original STAN 6, original date 4


class Fit(IntEnum):
    """How well a transaction fits."""

    NOT = 0  # another amount or card
    HARDLY = 1  # sent at another second than DE90 names, or DE90 names it wrongly
    MAYBE = 2  # nothing speaks against it
    PROBABLY = 3  # the same local time
    SURELY = 4  # sent at the very second that DE90 names


class Description:
    """What a message says of its original, beside the STAN: amount, card and time.

    Terminals start their STANs anew, each day or each batch: that of yesterday's sale may be
    today's as well.
    """

    def __init__(self, message: Message, records: Records, *, whole_amount: bool) -> None:
        """`whole_amount`: DE4 must be the original's amount, as in a reversal."""
        self._records = records
        self._amount_minor = message.amount_minor if whole_amount else None
        token = records.card_token(message)
        self._card_tokens = (token, *records.former_card_tokens(message)) if token else ()
        self._transmitted = transmitted_by_original(message)
        self._local_time = message.get(LOCAL_TIME)

    @property
    def names_second(self) -> bool:
        """Whether it says at which second its original was sent; then only that one fits surely."""
        return bool(self._transmitted)

    def fit(self, found: Transaction) -> Fit:
        """Hold it against a transaction with the STAN it names. Raises KeyUnavailable."""
        if self._amount_minor is not None and self._amount_minor != found.amount_minor:
            return Fit.NOT
        if found.card_token and differ(self._card_tokens, (found.card_token,)):
            return Fit.NOT
        if self._transmitted:
            sent = self._records.request_of(found)
            known = sent.get(TRANSMISSION_TIME) if sent is not None else ""
            if not known:
                return Fit.MAYBE
            return Fit.SURELY if known == self._transmitted else Fit.HARDLY
        # A reversal may repeat the fields of its original, the local time among them.
        same_time = self._local_time and f"/{self._local_time}/" in found.repeat_key
        return Fit.PROBABLY if same_time else Fit.MAYBE


def reference(message: Message) -> tuple[str, str] | None:
    """Batch (where it is named) and STAN of the original that DE90 or DE61 names; None: neither."""
    stan = message.get(ORIGINAL_DATA)[4:10]
    if len(stan) == 6 and _is_number(stan) and int(stan):
        return "", stan
    unionpay = message.get(_UNIONPAY_ORIGINAL)
    if len(unionpay) >= 12 and _is_number(unionpay[:12]):
        return unionpay[:6], unionpay[6:12]
    return None


def transmitted_by_original(message: Message) -> str:
    """DE7 of the original, as DE90 has it; nothing where it is zero filled."""
    transmitted = message.get(ORIGINAL_DATA)[10:20]
    return transmitted if len(transmitted) == 10 and transmitted.strip("0") else ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
