"""What the tables of the configuration are made of: names, times, amounts, framing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.wire.entry_mode import EntryMode
from gateway.wire.message import Kind

# The descriptions are what `gateway check` tells people to write.
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$",
        description='a name in quotes: up to 40 of a-z, 0-9, "_", "." and "-", the first no sign',
    ),
]
Address = Annotated[
    str,
    Field(
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}$",
        description='HOST:PORT in quotes, such as "127.0.0.1:8443" or "[::1]:8443"',
    ),
]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Days = Annotated[int, Field(ge=1, le=4_000)]
TimeOfDay = Annotated[
    str,
    Field(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
        description='a time of day in quotes, such as "04:30"',
    ),
]
TimeZone = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$",
        description='a name of the time zone database, such as "Europe/Paris"',
    ),
]
Currency = Annotated[
    str,
    Field(
        pattern=r"^[0-9A-Z]{3}$",
        description='a currency as DE49 has it, in quotes, such as "156"',
    ),
]
Hours = Annotated[
    str,
    Field(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        description='a time of day from and until, such as "08:00-22:00" or "22:00-06:00"',
    ),
]
AmountMinor = Annotated[int, Field(ge=0, le=999_999_999_999)]  # DE4 has 12 digits
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
KindName = Annotated[Kind, Field(strict=False)]  # written as text, read as a Kind
EntryModeName = Annotated[EntryMode, Field(strict=False)]
# Beside an upstream's field rules they are keys, which TOML has as text.
FieldNumber = Annotated[int, Field(strict=False, ge=2, le=128)]
CodeRange = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?$",
        description='the first digits of card numbers or codes, such as "6217", or a range of'
        ' them, such as "622126-622925"',
    ),
]
# Relative to the folder of the file it stands in.
Path = Annotated[
    str,
    Field(min_length=1, pattern=r"^[^\x00]*$", description="the path of a file, in quotes"),
]


class Table(BaseModel):
    """A TOML table: nothing unknown in it, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Framing(Table):
    """How messages are cut from a stream."""

    length: Literal[  # before each message; stx_...: between STX and ETX; none: http only
        "binary2", "binary4", "ascii4", "bcd2", "stx_etx", "stx_bcd2", "none"
    ] = "binary2"
    length_includes_itself: bool = False
    tpdu: bool = False  # 5 bytes; answered with source and destination swapped
    header_bytes: int = Field(default=0, ge=0, le=64)  # after the TPDU; sent back as it came
    header_counts_itself: bool = False  # its first byte is its length, up to header_bytes
    frame_bytes_max: int = Field(default=4_096, ge=32, le=65_535)


class OpeningHours(Table):
    """When requests are taken, on the clock of the time zone.

    What runs past midnight belongs to the day it began on: "18:00-02:00" on "fri" ends on Saturday.
    """

    days: list[Weekday] = Field(
        default=["mon", "tue", "wed", "thu", "fri", "sat", "sun"], min_length=1
    )
    time: Hours


class Backoff(Table):
    """Waits between attempts: each twice the last, with full jitter, up to the bound."""

    first_s: Seconds = 0.2
    max_s: Seconds = 5.0
