"""A SoftHSM2 token in a folder of its own, for tests of what is behind PKCS#11."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

LABEL = "gateway-test"
KEY_LABEL = "gateway-kek"
PIN = "258036"
_SO_PIN = "14703690"
_PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True, slots=True)
class SoftToken:
    """Where a token is, and how one gets in."""

    module: Path
    folder: Path
    label: str = LABEL
    pin: str = PIN


def missing() -> str:
    """Why there can be no token here; empty where there can."""
    try:
        import pkcs11  # noqa: F401 (whether it is there)
    except ImportError:
        return "python-pkcs11 is not installed (the extra hsm)"
    if shutil.which("softhsm2-util") is None:
        return "softhsm2-util is not installed (Debian: softhsm2)"
    if _module() is None:
        return "libsofthsm2.so is in none of the usual places"
    return ""


@contextmanager
def soft_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    """A new token, which the library of this process knows alone; without keys."""
    import pkcs11

    module = _module()
    assert module is not None
    tokens = folder / "tokens"
    tokens.mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n", encoding="utf-8")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    subprocess.run(
        f"softhsm2-util --init-token --free --label {LABEL} --pin {PIN} --so-pin {_SO_PIN}".split(),
        check=True,
        capture_output=True,
    )
    # What the library knows is what its settings said when it was first loaded.
    library = pkcs11.lib(str(module))
    library.reinitialize()
    try:
        yield SoftToken(module, folder)
    finally:
        library.finalize()


def create_key(token: SoftToken, key_label: str = KEY_LABEL, *, wraps: bool = True) -> None:
    """An AES key of 256 bits, as `pkcs11-tool --keygen` makes it: sensitive, not extractable."""
    import pkcs11

    flags = pkcs11.MechanismFlag
    uses = flags.ENCRYPT | flags.DECRYPT
    if wraps:
        uses |= flags.WRAP | flags.UNWRAP
    found = pkcs11.lib(str(token.module)).get_token(token_label=token.label)
    with found.open(rw=True, user_pin=token.pin) as session:
        session.generate_key(
            pkcs11.KeyType.AES,
            256,
            label=key_label,
            store=True,
            capabilities=uses,
            template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
        )


def _module() -> Path | None:
    return next((path for path in map(Path, _PLACES) if path.is_file()), None)
