"""The tables of what keys are used for in messages: sign-on, MACs, PINs and data, on both sides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings.schema_base import FieldNumber, KindName, Seconds, Table

# As keys/message_security.py and keys/records.py name them; a test holds both equal.
MacSchemeName = Literal[
    "x9.19",
    "x9.19-pad2",
    "unionpay-ecb",
    "unionpay-cbc",
    "cbc",
    "tdes-cmac",
    "aes-cmac",
    "sm4-cmac",
    "unionpay-sm4",
]
PinFormatName = Literal["0", "1", "3", "4"]
KeyAlgorithmName = Literal["DES", "TDES-2", "TDES-3", "AES-128", "AES-192", "AES-256", "SM4"]
KeyFormName = Literal["ecb", "cbc", "tr31-b", "tr31-d"]
DataForm = Literal["unionpay", "whole"]


class WorkingKeys(Table):
    """The keys that a terminal gets when it signs on, wrapped under its master key (TMK)."""

    purposes: list[Literal["pin", "mac", "data"]] = Field(  # in this order in the answer
        default=["pin", "mac"], min_length=1
    )
    algorithm: KeyAlgorithmName = "TDES-2"
    mac_algorithm: KeyAlgorithmName | None = None  # where the MAC key is another one's
    form: KeyFormName = "ecb"  # ecb, cbc: with check values of 4 bytes; tr31: key blocks
    field: Literal[48, 62] = 62  # of the answer to the sign-on
    rotate_after_h: Annotated[float, Field(gt=0, le=24 * 400)] | None = 24.0  # then it is told
    rotate_after_count: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None  # or then
    overlap_s: Seconds = 600.0  # how long old keys work beside new ones, and after the time is up


class TerminalPin(Table):
    """How a terminal encrypts PINs (DE52)."""

    key: Literal["session", "dukpt"] = "session"  # the sign-on's, or derived from the BDK
    format: PinFormatName = "0"
    ksn_field: FieldNumber = 62  # dukpt: where the key serial number is, 10 or 12 bytes
    required_for: list[KindName] = Field(default_factory=list)  # without one: 55 or 99


class TerminalData(Table):
    """Which fields a terminal encrypts under its data key (TDK)."""

    fields: list[FieldNumber] = Field(default=[35, 36], min_length=1)
    form: DataForm = "unionpay"  # of a track the 16 digits before its last two; whole: all of it
    always: bool = False  # false: where the third digit of DE53 is 1


class ProfileKeys(Table):
    """What is asked of a device's messages, and the keys it gets."""

    sign_on: bool = False  # financial messages are taken after a sign-on only; else 63 or 77
    batch_checked: bool = False  # the batch in DE60 must be the open one; else 63 or 77
    mac: MacSchemeName | None = None  # in DE64 or DE128, over all before it; else 63 or A0
    mac_exempt: list[Literal["settlement", "batch_upload"]] = Field(default_factory=list)
    working: WorkingKeys | None = None
    pin: TerminalPin | None = None
    data: TerminalData | None = None


class Lockout(Table):
    """What wrong MACs and too many sign-ons lead to. The device itself is never locked out."""

    bad_macs_per_connection_max: int = Field(default=5, ge=1, le=10_000)  # then it is ended
    bad_macs_per_address_max: int = Field(default=50, ge=1, le=1_000_000)  # then none is taken
    window_s: Seconds = 60.0  # in which they are counted
    lockout_s: Seconds = 300.0  # no connection is taken from the address so long
    addresses_max: int = Field(default=10_000, ge=1, le=1_000_000)  # that are counted
    sign_ons_max: int = Field(default=10, ge=1, le=10_000)  # of a device from an address; then 96
    devices_max: int = Field(default=100_000, ge=1, le=10_000_000)  # whose sign-ons, KSNs are kept


class KeyExchange(Table):
    """How working keys are agreed on with an upstream: an 0800 that asks for some."""

    at_start: bool = True  # each link asks for keys before its first request
    purposes: list[Literal["zone-pin", "zone-mac", "zone-data"]] = Field(  # in the field's order
        default=["zone-pin", "zone-mac"], min_length=1
    )
    algorithm: KeyAlgorithmName = "TDES-2"
    mac_algorithm: KeyAlgorithmName | None = None
    form: KeyFormName = "ecb"  # under the zone master key (ZMK); ecb, cbc: with check values
    field: Literal[48, 62] = 48
    overlap_s: Seconds = 120.0  # how long the keys before work beside them
    by_terminal: bool = False  # each terminal's sign-on brings keys of its own, in the same form


class UpstreamKeys(Table):
    """How messages to an upstream are protected, under keys shared with it."""

    mac: MacSchemeName | None = None  # made on requests, and held against in answers
    mac_network: bool = False  # 0800s have one too
    bad_mac_reason: Annotated[  # DE39 of a reversal after an answer whose MAC was wrong; empty: as
        str,  # reversal_reason says
        Field(pattern=r"^[0-9A-Z]{0,4}$", description='up to 4 characters, such as "A0"'),
    ] = ""
    pin: Literal["refuse", "translate", "pass_through"] = "refuse"  # what becomes of DE52
    pin_format: PinFormatName = "0"  # translate: the format it expects
    security_control: Literal["keep", "unionpay", "drop"] = "keep"  # DE53 of a translated PIN
    data_fields: list[FieldNumber] = Field(default_factory=list)  # encrypted under the data key
    data_form: DataForm = "unionpay"
    exchange: KeyExchange | None = None
