"""From the [keys] table to where the key-encryption keys come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.errors import OperatorError
from gateway.keys.components import Component
from gateway.keys.kek_sources import (
    AskedComponentsSource,
    ComponentFilesSource,
    KekSource,
    PassphraseSource,
    TokenSource,
)
from gateway.keys.key_encryption import KeyEncryption, KeyWrapping
from gateway.keys.message_module import PinCiphers
from gateway.keys.own_keys import OwnKeys
from gateway.keys.secret_files import read_secret
from gateway.settings.schema_keys import Kek, Keys

Resolve = Callable[[str], Path]
# Asks people for the components of a key-encryption key; `what` says of which.
Ask = Callable[[str], Sequence[Component]]

# A random passphrase of 256 bits needs no stretching: a start takes 50 ms and 16 MiB.
_CREATED_LOG2_N = 14


def default_passphrase_file(keyring: Path) -> Path:
    """The passphrase file where [keys.kek] names none: beside the keyring."""
    return keyring.with_name(keyring.name + ".passphrase")


def sources_of(keys: Keys, resolve: Resolve, *, ask: Ask | None = None) -> list[KekSource]:
    """What may give a key-encryption key: [keys.kek], then [keys.kek_next] where it is written.

    `ask` is for components that are in no files; None: there is nobody to ask. Raises OperatorError
    where such are wanted then, or what a source needs is not installed.
    """
    keyring = resolve(keys.keyring)
    found = [source_of(keys.kek or Kek(source="passphrase"), keyring, resolve, ask=ask)]
    if keys.kek_next is not None:
        found.append(source_of(keys.kek_next, keyring, resolve, ask=ask, what="keys.kek_next"))
    return found


def source_of(
    kek: Kek, keyring: Path, resolve: Resolve, *, ask: Ask | None, what: str = "keys.kek"
) -> KekSource:
    """What gives one key-encryption key; see `sources_of`."""
    if kek.source == "passphrase":
        file = resolve(kek.passphrase_file) if kek.passphrase_file else None
        return PassphraseSource(file or default_passphrase_file(keyring), log2_n=kek.scrypt_log2_n)
    if kek.source == "components":
        if kek.component_files:
            return ComponentFilesSource([resolve(file) for file in kek.component_files])
        if ask is None:
            raise OperatorError(
                f"{what}: the components have to be entered at a terminal, and there is none:"
                " start the gateway in one, or name component_files"
            )
        asked = ask
        return AskedComponentsSource(lambda: asked(what))
    return _token(kek, resolve, what)


def _token(kek: Kek, resolve: Resolve, what: str) -> TokenSource:
    if kek.pkcs11_module is None or kek.pin_file is None:
        raise OperatorError(f"{what}: a token takes pkcs11_module and pin_file")
    try:
        # Its library is an extra that few need.
        from gateway.keys.hsm import open_token
    except ImportError:
        raise OperatorError(
            f'{what}: source = "pkcs11" needs the extra hsm: `pip install "gateway[hsm]"`'
        ) from None
    module, pin_file = resolve(kek.pkcs11_module), resolve(kek.pin_file)

    def opened() -> KeyEncryption:
        pin = read_secret(pin_file, "file with the token's PIN").decode("utf-8", "replace").strip()
        return open_token(module, token_label=kek.token_label, key_label=kek.key_label, pin=pin)

    return TokenSource(opened, description=f"the token {kek.token_label}")


def pin_ciphers_of(wrapping: KeyWrapping, *, held_max: int) -> PinCiphers | None:
    """Where PIN keys are used instead of in this process, as long as the key-encryption key in
    force is a token's: inside it. None where the library of tokens is not installed."""
    try:
        from gateway.keys.hsm_pins import TokenPinCiphers
    except ImportError:
        return None
    return TokenPinCiphers(wrapping, held_max=held_max)


def open_own_keys(keys: Keys, resolve: Resolve, *, now_ms: int, ask: Ask | None = None) -> OwnKeys:
    """The gateway's own keys, made first where `create` says so and there are none.

    Takes what scrypt, a token or people take: call it in a thread. Raises OperatorError.
    """
    path = resolve(keys.keyring)
    if keys.create and not path.exists():
        kek = keys.kek or Kek(source="passphrase", scrypt_log2_n=_CREATED_LOG2_N)
        source = source_of(kek, path, resolve, ask=ask)
        if isinstance(source, PassphraseSource):
            source.create_file()
        OwnKeys.create(path, source, now_ms=now_ms)
    return OwnKeys.open(path, sources_of(keys, resolve, ask=ask))
