"""The tables of the keyring and of the key-encryption key that it is kept under."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.settings.schema_base import Days, Path, Seconds, Table


class Kek(Table):
    """Where the key-encryption key comes from: it is in none of the files that hold other keys."""

    source: Literal["passphrase", "components", "pkcs11"]
    # A file of mode 0600 or 0400 whose text the key is derived from (scrypt).
    passphrase_file: Path | None = None  # of "passphrase"; default: beside the keyring, outside
    scrypt_log2_n: int = Field(default=17, ge=14, le=20)  # of "passphrase": 17 takes 128 MiB
    # Of "components": one file for each person. Empty: they are asked for at a terminal.
    component_files: list[Path] = Field(default_factory=list, max_length=3)
    pkcs11_module: Path | None = None  # of "pkcs11": the token's library
    token_label: str = Field(default="", max_length=32)
    key_label: str = Field(default="", max_length=64)
    pin_file: Path | None = None  # of mode 0600 or 0400


class Keys(Table):
    """The keys that the store's columns, the terminals and the upstreams have."""

    keyring: Path
    create: bool = False  # make the keyring and its passphrase file where absent (development)
    kek: Kek | None = None  # default: a passphrase file, named as the keyring with .passphrase
    kek_next: Kek | None = None  # what `gateway keys rewrap` changes to
    keys_max: int = Field(default=1_000_000, ge=10, le=100_000_000)  # versions of keys, in memory
    # Keys of terminals and upstreams that are kept ready for use, 5 KiB each; others are unwrapped
    # when they are used. More than are in use at one time.
    prepared_max: int = Field(default=20_000, ge=10, le=1_000_000)
    overlap_s: Seconds = 3_600.0  # how long a key that was replaced still works
    lifetime_days: Days | None = None  # of keys made or entered; default: they have no end
    warn_days: list[Days] = Field(  # how long ahead of a key's end it is told
        default=[30, 7, 1], min_length=1, max_length=10
    )
    step_rows: int = Field(default=250, ge=1, le=10_000)  # wrapped anew, or imported, in one commit
    pause_ms: int = Field(default=20, ge=0, le=60_000)  # between two of them
    component_wait_s: Seconds = 900.0  # for a key's next component
    different_operators: bool = False  # each component has to be entered by another operator
