"""What operations on keys take, and how a key is shown: never its value."""

from __future__ import annotations

from typing import Annotated, TypedDict

from pydantic import Field, SecretStr, field_validator

from gateway.admin.api import Arguments
from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.keys.components import COMPONENTS_MAX, COMPONENTS_MIN
from gateway.keys.key_life import works
from gateway.keys.message_security import KeyForm
from gateway.keys.owners import check_owner
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState

PAGE_MAX = 500
_SECRET_CHARS_MAX = 200

Purpose = Annotated[KeyPurpose, Field(strict=False)]
Algorithm = Annotated[KeyAlgorithm, Field(strict=False)]
Form = Annotated[KeyForm, Field(strict=False)]
State = Annotated[StoredKeyState, Field(strict=False)]
Moment = Annotated[int, Field(ge=0, le=253_402_300_799_999)]  # ms since 1970; 0: none
Version = Annotated[int, Field(ge=0, le=1_000_000_000)]  # 0: the one in force
CheckValue = Annotated[str, Field(max_length=20)]
Secret = Annotated[SecretStr, Field(max_length=_SECRET_CHARS_MAX)]


class OwnerArguments(Arguments):
    """Whose keys."""

    owner: str = Field(max_length=60)

    @field_validator("owner", mode="after")
    @classmethod
    def _is_one(cls, owner: str) -> str:
        owner = owner.strip()
        if owner:
            try:
                check_owner(owner)
            except OperatorError as error:
                raise ValueError(str(error)) from None
        return owner


class ListArguments(OwnerArguments):
    owner: str = Field(default="", max_length=60)  # of all where it is empty
    purpose: Purpose | None = None
    state: State | None = None
    values: bool = False  # count what the store holds under each version of store-data: slow
    after: str = Field(default="", max_length=60)  # the owner that the last page ended with
    limit: int = Field(default=PAGE_MAX, ge=1, le=PAGE_MAX)


class KeyArguments(OwnerArguments):
    """One key of an owner."""

    purpose: Purpose
    version: Version = 0
    reason: str = Field(default="", max_length=200)


class MakeArguments(OwnerArguments):
    """A key that is to be."""

    purpose: Purpose
    algorithm: Algorithm
    start_ms: Moment = 0
    end_ms: Moment = 0
    pending: bool = False


class ComponentArguments(MakeArguments):
    """One person's part of a key; it travels over the admin socket only, and is kept nowhere."""

    part: int = Field(ge=1, le=COMPONENTS_MAX)
    of: int = Field(ge=COMPONENTS_MIN, le=COMPONENTS_MAX)
    component: Secret
    check_value: CheckValue


class MasterArguments(Arguments):
    """The master key that other keys travel under."""

    master_owner: str = Field(max_length=60)
    master_purpose: Purpose
    form: Form


class WrappedArguments(MakeArguments, MasterArguments):
    """A key that comes under a master key: hex digits, or a key block."""

    wrapped: str = Field(max_length=20_000)
    check_value: CheckValue = ""


class ManyArguments(MasterArguments):
    """Keys of many terminals: CSV of terminal_id, key and check_value."""

    csv: str
    purpose: Purpose = KeyPurpose.TERMINAL_MASTER
    algorithm: Algorithm


class ExportArguments(KeyArguments, MasterArguments):
    """A key that leaves under a master key."""


class DestroyArguments(OwnerArguments):
    purpose: Purpose | None = None  # all where there is none
    version: Version = 0  # all of the purpose
    reason: str = Field(default="", max_length=200)


class KekComponent(Arguments):
    component: Secret
    check_value: CheckValue


class RewrapArguments(Arguments):
    """Components of the next key-encryption key, where they are in no files."""

    components: list[KekComponent] = Field(default_factory=list, max_length=COMPONENTS_MAX)


class CheckArguments(Arguments):
    pass


class KeyView(TypedDict):
    """A key as commands show it; times are ISO 8601 in UTC, "" for none."""

    key: str
    owner: str
    purpose: str
    version: int
    algorithm: str
    state: str
    works: bool  # now
    start: str
    end: str
    check_value: str
    kek: str


def view(key: StoredKey, now_ms: int) -> KeyView:
    """How a key is shown."""
    return {
        "key": key.name,
        "owner": key.owner,
        "purpose": key.purpose.value,
        "version": key.version,
        "algorithm": key.algorithm.value,
        "state": key.state.value,
        "works": works(key, now_ms),
        "start": iso_time(key.start_ms) if key.start_ms else "",
        "end": iso_time(key.end_ms) if key.end_ms else "",
        "check_value": key.check_value,
        "kek": key.kek,
    }
