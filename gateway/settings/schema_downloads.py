"""What terminals download: which DE60.3 asks for what, and where it is served from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gateway.settings.schema_base import Path, Table


class DownloadStep(StrEnum):
    """What one message of a download asks for."""

    PARAMETERS = "parameters"  # of magnetic-stripe transactions: all in one answer
    PARAMETERS_END = "parameters_end"
    STATUS = "status"  # the terminal tells how it is set and how it does
    KEY_LIST = "key_list"  # which CA public keys there are
    KEY = "key"
    KEYS_END = "keys_end"
    AID_LIST = "aid_list"  # which applications there are parameters for
    AID = "aid"
    AIDS_END = "aids_end"
    BLACKLIST = "blacklist"  # BINs, by the number of the first that is wanted
    BLACKLIST_END = "blacklist_end"


# Q/CUP 009, network management information codes; 373 asks for keys of the Chinese algorithms too.
CODES = {
    "360": DownloadStep.PARAMETERS,
    "361": DownloadStep.PARAMETERS_END,
    "362": DownloadStep.STATUS,
    "370": DownloadStep.KEY,
    "371": DownloadStep.KEYS_END,
    "372": DownloadStep.KEY_LIST,
    "373": DownloadStep.KEY_LIST,
    "380": DownloadStep.AID,
    "381": DownloadStep.AIDS_END,
    "382": DownloadStep.AID_LIST,
    "390": DownloadStep.BLACKLIST,
    "391": DownloadStep.BLACKLIST_END,
}

Code = Annotated[str, Field(pattern=r"^[0-9]{3}$", description='three digits, such as "370"')]


class Downloads(Table):
    """What terminals download; a listener says whether it is served, passed on or refused."""

    folder: Path = "downloads"  # ca-keys.toml, aids.toml, blacklist.txt, parameters.toml
    codes: dict[Code, Annotated[DownloadStep, Field(strict=False)]] = Field(  # DE60.3
        default_factory=lambda: dict(CODES)
    )
    answer_bytes_max: int = Field(default=999, ge=320, le=999)  # of DE62
    announce: bool = True  # the header of an answer tells a terminal to come for what is new
    terminals_max: int = Field(default=100_000, ge=1, le=10_000_000)  # whose versions are known
