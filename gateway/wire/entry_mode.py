"""How a card, a phone or a code was read: DE22 in each of its forms."""

from __future__ import annotations

from enum import StrEnum

from gateway.wire.message import ENTRY_MODE, Message


class EntryMode(StrEnum):
    """What the terminal read; routes and permissions are set by it."""

    CHIP = "chip"
    CONTACTLESS = "contactless"
    MAGSTRIPE = "magstripe"
    MANUAL = "manual"
    QR = "qr"  # a code on a phone's screen: a wallet's, or a card's
    ON_FILE = "on_file"
    ECOMMERCE = "ecommerce"
    UNKNOWN = "unknown"


# ISO 8583:1987 and UnionPay POS: the first two digits (the third is about PINs).
_BY_CODE = {
    "01": EntryMode.MANUAL,
    "02": EntryMode.MAGSTRIPE,
    "03": EntryMode.QR,  # bar code
    "04": EntryMode.QR,  # optical character reader
    "05": EntryMode.CHIP,
    "07": EntryMode.CONTACTLESS,
    "09": EntryMode.ECOMMERCE,  # with a cryptogram
    "10": EntryMode.ON_FILE,
    "80": EntryMode.MAGSTRIPE,  # fallback: the chip could not be read
    "81": EntryMode.ECOMMERCE,
    "90": EntryMode.MAGSTRIPE,  # the track unaltered
    "91": EntryMode.CONTACTLESS,  # magnetic stripe data
    "95": EntryMode.CHIP,  # its CVV may be wrong
    "96": EntryMode.CONTACTLESS,  # UnionPay
    "98": EntryMode.CONTACTLESS,  # UnionPay
}

# ISO 8583:1993, DE22 "point of service data code", 12 positions. Position 7, card data input mode;
# its letters are those that the schemes added.
_POSITIONS = 12
_BY_INPUT_MODE = {
    "1": EntryMode.MANUAL,
    "2": EntryMode.MAGSTRIPE,
    "3": EntryMode.QR,
    "4": EntryMode.QR,
    "5": EntryMode.CHIP,
    "6": EntryMode.MANUAL,
    "7": EntryMode.ON_FILE,
    "A": EntryMode.CONTACTLESS,
    "B": EntryMode.MAGSTRIPE,
    "C": EntryMode.CHIP,
    "F": EntryMode.CHIP,
    "M": EntryMode.CONTACTLESS,
    "N": EntryMode.CONTACTLESS,
    "R": EntryMode.ECOMMERCE,
    "S": EntryMode.ECOMMERCE,
    "T": EntryMode.ECOMMERCE,
}
# Position 5, cardholder presence, says more than position 7 where nobody was there.
_BY_PRESENCE = {"4": EntryMode.ON_FILE, "5": EntryMode.ECOMMERCE}
# Position 6, card presence: what some hosts say in place of a letter in position 7.
_CONTACTLESS_PRESENT = "X"


def entry_mode(message: Message) -> EntryMode:
    """What DE22 of a message says; UNKNOWN where it is absent or says nothing known."""
    code = message.fields.get(ENTRY_MODE)
    if code is None:
        return EntryMode.UNKNOWN
    if len(code) == _POSITIONS:
        return _of_data_code(code)
    return _BY_CODE.get(code[:2], EntryMode.UNKNOWN)


def _of_data_code(code: str) -> EntryMode:
    absent = _BY_PRESENCE.get(code[4])
    if absent is not None:
        return absent
    if code[5] == _CONTACTLESS_PRESENT:
        return EntryMode.CONTACTLESS
    return _BY_INPUT_MODE.get(code[6], EntryMode.UNKNOWN)
