"""What a message looks like to one upstream, and its answer to the terminal again (no I/O).

What is kept of a request is as its terminal sent it, since it may yet move to another upstream, and
beside it what each of them would be told otherwise. Whatever is made of it later (a reversal, an
advice sent again, the reference of a void) bears the values that were sent, though the rules or the
terminals file say something else by then: the acquirer would find no original under others.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import NotSent
from gateway.settings.boarding import BoardedTerminal, BoardedTerminals
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.wire.id_patterns import MERCHANT_ID_CHARS_MAX, padded
from gateway.wire.message import MERCHANT_ID, TERMINAL_ID, Message

_ANY_VALUE = "*"
_PRIVATE = 60  # UnionPay: message type 2, batch 6, network management code 3 …
_ORIGINAL = 61  # UnionPay: original batch 6, original STAN 6, original date 4
_PRIVATE_BATCH = slice(2, 8)
_BATCH_DIGITS = 6


# The values that an upstream gets otherwise than the terminal sent them; None: it does not get it.
Changes = Mapping[int, str | None]


class CannotAdapt(NotSent):
    """A message cannot be made what this upstream wants; no byte of it left."""


class Adaptation:
    """The field rules and the identities of one upstream."""

    def __init__(self, settings: UpstreamSettings, terminals: BoardedTerminals) -> None:
        rules = settings.fields
        self._name = settings.name
        self._terminals = terminals if settings.knows_terminals == "one_by_one" else None
        self._fixed = dict(rules.set)
        if settings.terminal_id:
            self._fixed[TERMINAL_ID] = padded(settings.terminal_id)
        if settings.merchant_id:
            self._fixed[MERCHANT_ID] = settings.merchant_id.ljust(MERCHANT_ID_CHARS_MAX)
        self._maps = rules.map
        self._drop = tuple(rules.drop)
        self._require = tuple(number for number in rules.require if number not in self._fixed)
        self._changes_nothing = not (
            self._terminals is not None or self._fixed or self._maps or self._drop
        )

    def refusal(self, request: Message) -> str:
        """Why a terminal's request cannot go to this upstream, in words; empty where it can."""
        for number in self._require:
            if number not in request.fields:
                return f"upstream {self._name} requires DE{number}, which is absent"
        if self._terminals is not None and request.terminal_id not in self._terminals:
            return self._not_boarded(request)
        return ""

    def outgoing(self, message: Message) -> Message:
        """A message as this upstream gets it; raises CannotAdapt where it knows the terminals one
        by one, and not this one."""
        if self._changes_nothing:
            return message
        fields = dict(message.fields)
        if self._terminals is not None:
            boarded = self._terminals.get(message.terminal_id)
            if boarded is None:
                raise CannotAdapt(self._not_boarded(message))
            _identify(fields, boarded)
        for number, values in self._maps.items():
            value = fields.get(number)
            if value is not None:
                fields[number] = values.get(value, values.get(_ANY_VALUE, value))
        fields.update(self._fixed)
        for number in self._drop:
            fields.pop(number, None)
        return Message(message.mti, fields)

    def changes(self, message: Message) -> Changes:
        """What `outgoing` makes of a message, to be kept; raises CannotAdapt."""
        if self._changes_nothing:
            return {}
        own = message.fields
        sent = self.outgoing(message).fields
        dropped: dict[int, str | None] = dict.fromkeys(self._drop)
        return dropped | {
            number: value
            for number, value in sent.items()
            if number in self._fixed or own.get(number) != value
        }

    def again(self, message: Message, changes: Changes | None) -> Message:
        """A message that this upstream got before, as it got it then; where that is not known
        (None), as it would get it now. Raises CannotAdapt."""
        if changes is None:
            return self.outgoing(message)
        if not changes:
            return message
        fields = {**message.fields, **changes}
        return Message(message.mti, {n: text for n, text in fields.items() if text is not None})

    def incoming(self, answer: Message, *, request: Message, sent: Message) -> Message:
        """The answer in the terminal's own terms.

        Where it echoes what was `sent` in place of what the `request` had, it says again what the
        request did, or nothing. Whatever else the upstream says is its own, and stays.
        """
        if sent.fields is request.fields:
            return answer
        fields = dict(answer.fields)
        for number, echoed in answer.fields.items():
            own = request.fields.get(number)
            if echoed == own or echoed != sent.fields.get(number):
                continue
            if own is None:
                del fields[number]
            else:
                fields[number] = own
        return Message(answer.mti, fields)

    def _not_boarded(self, message: Message) -> str:
        terminal = message.terminal_id.rstrip()
        return f"terminal {terminal} is not in the terminals_file of upstream {self._name}"


def _identify(fields: dict[int, str], boarded: BoardedTerminal) -> None:
    """Name the terminal, its merchant and its batch as the upstream does."""
    fields[TERMINAL_ID] = boarded.terminal_id
    if boarded.merchant_id:
        fields[MERCHANT_ID] = boarded.merchant_id
    if not boarded.batch:
        return
    private = fields.get(_PRIVATE, "")
    if _is_number(private[_PRIVATE_BATCH]):
        fields[_PRIVATE] = private[:2] + boarded.batch + private[8:]
    original = fields.get(_ORIGINAL, "")
    if len(original) >= 2 * _BATCH_DIGITS and _is_number(original[: 2 * _BATCH_DIGITS]):
        fields[_ORIGINAL] = boarded.batch + original[_BATCH_DIGITS:]


def _is_number(text: str) -> bool:
    return len(text) >= _BATCH_DIGITS and text.isascii() and text.isdigit()
