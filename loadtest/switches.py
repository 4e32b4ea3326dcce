"""Switches: how a simulated acquirer misbehaves, changeable while it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from gateway.wire.message import Message


class BadSwitch(ValueError):
    """A switch that does not exist, or a value it cannot take; the text says which."""


@dataclass(frozen=True, slots=True)
class DeclineRule:
    """Declines with a code what meets a condition: `51:amount>=50000`, `05:bin=999999`,
    `54:amount%10=3`."""

    code: str
    subject: str
    operand: int
    value: str

    def fits(self, message: Message) -> bool:
        if self.subject == "bin":
            return message.pan.startswith(self.value)
        amount_minor = message.amount_minor or 0
        if self.subject == "amount>=":
            return amount_minor >= int(self.value)
        return amount_minor % self.operand == int(self.value)

    def __str__(self) -> str:
        operand = f"{self.operand}=" if self.subject == "amount%" else ""
        sign = "=" if self.subject == "bin" else ""
        return f"{self.code}:{self.subject}{sign}{operand}{self.value}"


_RULE = re.compile(
    r"([0-9A-Z]{2}):(?:(bin)=([0-9]{1,19})|(amount>=)([0-9]{1,12})|(amount%)([0-9]{1,12})=([0-9]{1,12}))"
)


def _rule(text: str) -> DeclineRule:
    match = _RULE.fullmatch(text.strip())
    if match is None or (match[7] is not None and int(match[7]) == 0):
        raise ValueError(
            f"{text!r} is not a rule; CODE:amount>=N, CODE:amount%N=R or CODE:bin=DIGITS would be"
        )
    if match[2]:
        return DeclineRule(match[1], "bin", 0, match[3])
    if match[4]:
        return DeclineRule(match[1], "amount>=", 0, match[5])
    return DeclineRule(match[1], "amount%", int(match[7]), match[8])


def _rules(value: object) -> object:
    if isinstance(value, str):
        return tuple(_rule(part) for part in value.split(",") if part.strip())
    return value


class Switches(BaseModel):
    """What can be changed about an acquirer's behaviour; the defaults are good health."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay_ms: float = Field(
        default=0, ge=0, le=3_600_000
    )  # committed first, answered so much later
    jitter_ms: float = Field(default=0, ge=0, le=3_600_000)  # up to so much more, evenly
    # A long tail: 98 % of answers take from … to …, log-normal, and none less or more.
    tail_from_ms: float = Field(default=0, ge=0, le=3_600_000)
    tail_to_ms: float = Field(default=0, ge=0, le=3_600_000)  # 0: no tail
    hold_ms: float = Field(default=0, ge=0, le=3_600_000)  # requests wait so long to be looked at
    drop: float = Field(default=0, ge=0, le=1)  # share of answers lost after the commit
    lose: float = Field(default=0, ge=0, le=1)  # share of requests never seen
    mute: bool = False  # takes everything, answers nothing
    echo_while_mute: bool = False  # a front end that lives while its host does not
    network_mute: bool = False  # its host lives and its front end does not: no echo is answered
    network_code: str = Field(default="", pattern=r"^([0-9A-Z]{2})?$")  # to 0800; "": 00
    # What is financial before a sign-on on the same connection: answered so, or "close".
    demand_sign_on: str = Field(default="", pattern=r"^(close|[0-9A-Z]{2})?$")
    refuse: bool = False  # new connections are refused; open ones stay
    reset: bool = False  # open connections are reset, new ones as soon as they are accepted
    spoil_macs: bool = False  # answers bear wrong MACs, where it has keys
    response_code: str = Field(default="", pattern=r"^([0-9A-Z]{2})?$")  # for everything financial
    decline: Annotated[
        tuple[DeclineRule, ...],
        BeforeValidator(_rules),
        PlainSerializer(lambda rules: ",".join(str(rule) for rule in rules), return_type=str),
    ] = ()
    reversals_ignored: bool = False  # answered 00, and the money is kept: a host that cheats
    # What names an original by DE90 that this terminal has not here is answered 25.
    checks_originals: bool = False
    tombstones: bool = True  # a reversal that overtakes its original keeps it from being approved

    @model_validator(mode="after")
    def _tail_is_one(self) -> Self:
        if self.tail_to_ms and not 0 < self.tail_from_ms <= self.tail_to_ms:
            raise ValueError("tail_from_ms must be above 0, and no more than tail_to_ms")
        return self

    def delay_s(self, random: Random) -> float:
        """How long an answer is kept back once its decision is durable."""
        delay_ms = self.delay_ms
        if self.jitter_ms:
            delay_ms += random.random() * self.jitter_ms
        if self.tail_to_ms:
            delay_ms += _long_tail_ms(self.tail_from_ms, self.tail_to_ms, random)
        return delay_ms / 1000

    def changed(self, changes: Mapping[str, object]) -> Switches:
        """A new set with some changed; text is read as the switch's type. Raises BadSwitch."""
        try:
            return Switches.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise BadSwitch(
                "; ".join(
                    f"{'.'.join(str(part) for part in finding['loc'])}: {finding['msg']}"
                    for finding in error.errors()
                )
            ) from None

    def code_for(self, message: Message) -> str:
        """The response code that the switches want for a financial request."""
        if self.response_code:
            return self.response_code
        return next((rule.code for rule in self.decline if rule.fits(message)), "00")


_SIGMAS = 2.326  # of a normal distribution: 98 % lie within so many of the middle


def _long_tail_ms(from_ms: float, to_ms: float, random: Random) -> float:
    middle = math.log(from_ms * to_ms) / 2
    sigma = math.log(to_ms / from_ms) / (2 * _SIGMAS)
    return min(max(random.lognormvariate(middle, sigma), from_ms), to_ms)
