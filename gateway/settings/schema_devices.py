"""The tables of devices' lives: incidents, and the serial numbers that messages carry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings.schema_base import FieldNumber, Path, Table


class Incidents(Table):
    """What is written down when a device is lost or stolen."""

    folder: Path | None = None  # of the reports; default: incidents, beside the store
    hours: Annotated[int, Field(ge=1, le=24 * 31)] = 24  # how far back its transactions are listed
    transactions_max: Annotated[int, Field(ge=1, le=100_000)] = 500  # listed of each kind


class HardwareSerial(Table):
    """Where messages carry the serial number of their device; it is held against the inventory."""

    field: FieldNumber
    start: Annotated[int, Field(ge=1, le=999)] = 1  # its first character, or the first element's
    length: Annotated[int, Field(ge=1, le=100)] | None = None  # a slice; none: up to the end
    tag: str | None = Field(  # of elements of a tag, a length in digits, and a value
        default=None, min_length=1, max_length=4
    )
    length_digits: Literal[2, 3] = 3  # of an element's length
    on_mismatch: Literal["alarm", "refuse"] = "alarm"  # refuse: 58 or 97
    required: bool = False  # a message without one does not match either
