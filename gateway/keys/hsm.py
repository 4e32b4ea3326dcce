"""A key-encryption key behind PKCS#11: it never leaves its token, and wraps keys inside it.

Needs the extra `hsm` (python-pkcs11). What a call costs is the token's, and the caller waits: a
cipher in SoftHSM takes 0.1 ms and an unwrapping up to 1 ms; a device in a network takes longer.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import (
    MultipleObjectsReturned,
    MultipleTokensReturned,
    NoSuchKey,
    NoSuchToken,
    PinIncorrect,
    PinLocked,
    PKCS11Error,
    UserAlreadyLoggedIn,
)

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.key_encryption import KEK_BYTES

_NONCE_BYTES = 12
_TAG_BITS = 128
# The first byte of a wrapped key, and the form of what is inside AES-GCM.
_CLEAR: Final = b"\x01"
_WRAPPED: Final = b"\x02"  # by AES-KWP (RFC 5649), so that the token takes it in as a key
# What the key's name is made of; no counter block of AES-GCM, which end in a small number.
_NAMED_BY: Final = b"gateway key name"
_NAME_BYTES = 5

_Result = TypeVar("_Result")


class TokenSession:
    """A session with a token, logged in; opened again when a token that failed is back.

    Whatever the token answers with an error closes it, and with it goes what was inside as session
    objects; `generation` counts the sessions, so that holders of such objects notice. A PIN that
    the token refused is not tried again: three such trials lock most tokens.
    """

    __slots__ = (
        "_module",
        "_one_at_a_time",
        "_pin",
        "_refused",
        "_session",
        "_token_label",
        "generation",
    )

    def __init__(self, module: Path, *, token_label: str, pin: str) -> None:
        self._module = module
        self._token_label = token_label
        self._pin = pin
        self._session: pkcs11.Session | None = None
        self._refused = False
        self._one_at_a_time = threading.RLock()
        self.generation = 0

    @property
    def where(self) -> str:
        """The token, for people."""
        return f"token {self._token_label!r} of {self._module}"

    @property
    def is_open(self) -> bool:
        """Whether there is a session that no failure has closed."""
        return self._session is not None

    def open(self) -> pkcs11.Session:
        """The session; raises OperatorError, saying what to do, where there is none to be had."""
        if self._session is not None:
            return self._session
        if self._refused:
            raise OperatorError(f"{self.where}: its PIN was refused, and is not tried again")
        try:
            library = pkcs11.lib(str(self._module))
            token = library.get_token(token_label=self._token_label)
            try:
                self._session = token.open(user_pin=self._pin)
            except UserAlreadyLoggedIn:  # the login is the process's, not the session's
                self._session = token.open()
        except (PinIncorrect, PinLocked) as error:
            self._refused = True
            raise OperatorError(
                f"{self.where}: the PIN is refused ({type(error).__name__}): correct the PIN file"
            ) from None
        except NoSuchToken:
            raise OperatorError(
                f"{self.where}: there is no such token: "
                "`pkcs11-tool --module … --list-token-slots` lists those that are there"
            ) from None
        except MultipleTokensReturned:
            raise OperatorError(f"{self.where}: several tokens have this label") from None
        except (PKCS11Error, RuntimeError, OSError) as error:
            raise OperatorError(f"{self.where}: {_text(error)}") from None
        self.generation += 1
        return self._session

    def ask(self, what: Callable[[pkcs11.Session], _Result]) -> _Result:
        """What a call gives; raises KeyUnavailable where the token fails, naming its error."""
        # A session does one thing at a time (PKCS#11 2.40, 6.7.6), and its library may crash else.
        with self._one_at_a_time:
            try:
                return what(self.open())
            except OperatorError as error:
                raise KeyUnavailable(str(error)) from None
            except PKCS11Error as error:
                self.close()
                raise KeyUnavailable(f"{self.where}: {_text(error)}") from None

    def close(self) -> None:
        """End the session; the next call opens another."""
        with self._one_at_a_time:
            session, self._session = self._session, None
            if session is not None:
                # A token that failed knows it no more.
                with suppress(PKCS11Error):
                    session.close()

    def __repr__(self) -> str:
        return f"<TokenSession {self._token_label}, {self.generation}>"


class TokenKeyEncryption:
    """A key-encryption key inside a token; see `key_encryption.KeyEncryption`.

    What wraps is AES-256-GCM by the token (NIST SP 800-38D): form (1 byte), nonce (12), ciphertext
    and tag, with what the key is bound to as associated data. Where token and key can, what is
    inside was wrapped by AES-KWP before (RFC 5649): such a key goes back into the token without its
    value passing through this process.
    """

    __slots__ = ("_found", "_key_label", "_kwp", "_name", "_random", "session")

    def __init__(
        self,
        session: TokenSession,
        *,
        key_label: str,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Finds the key; raises OperatorError where it is not there or cannot do this."""
        self.session = session
        self._key_label = key_label
        self._random = random
        self._found: tuple[int, Any] = (0, None)  # the generation of the session, and the key
        try:
            key = self._key(session.open())
            if key.key_length != 8 * KEK_BYTES or key.key_type is not KeyType.AES:
                raise _unsuitable(session, key_label)
            check = bytes(key.encrypt(_NAMED_BY, mechanism=Mechanism.AES_ECB))[:_NAME_BYTES]
            self._kwp = bool(key[Attribute.WRAP] and key[Attribute.UNWRAP]) and (
                Mechanism.AES_KEY_WRAP_PAD in session.open().token.slot.get_mechanisms()
            )
        except NoSuchKey:
            raise OperatorError(
                f"{session.where}: it has no secret key {key_label!r}: `pkcs11-tool --module … "
                f"--token-label … --login --keygen --key-type AES:32 --label {key_label} "
                "--sensitive --usage-decrypt --usage-wrap` makes one"
            ) from None
        except MultipleObjectsReturned:
            raise OperatorError(f"{session.where}: several keys are called {key_label!r}") from None
        except PKCS11Error as error:
            session.close()
            raise OperatorError(f"{session.where}, key {key_label!r}: {_text(error)}") from None
        self._name = f"pkcs11-{check.hex().upper()}"

    @property
    def name(self) -> str:
        """The source, and five bytes of a known block that the key encrypts."""
        return self._name

    def wrap(self, clear: bytes, aad: bytes) -> bytes:
        """A key wrapped, and bound to `aad`; raises KeyUnavailable where the token fails."""
        nonce = self._random(_NONCE_BYTES)

        def seal(session: pkcs11.Session) -> bytes:
            key = self._key(session)
            inner, form = clear, _CLEAR
            if self._kwp:
                inner, form = _wrapped_inside(session, key, clear), _WRAPPED
            sealed = key.encrypt(
                inner,
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(nonce, form + aad, _TAG_BITS),
            )
            return form + nonce + bytes(sealed)

        return self.session.ask(seal)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """The clear key; raises KeyUnavailable where it was not wrapped by this key with `aad`."""

        def open_(session: pkcs11.Session) -> bytes:
            key = self._key(session)
            inner = _opened(key, wrapped, aad)
            if wrapped[:1] == _CLEAR:
                return inner
            held = key.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.GENERIC_SECRET,
                inner,
                mechanism=Mechanism.AES_KEY_WRAP_PAD,
                template=_template(extractable=True),
            )
            try:
                return bytes(held[Attribute.VALUE])
            finally:
                held.destroy()

        return self._ask(wrapped, open_)

    def unwrap_inside(self, wrapped: bytes, aad: bytes, key_type: KeyType) -> Any:
        """The key as a session object that encrypts and decrypts, and cannot be extracted.

        Raises KeyUnavailable as `unwrap` does, and where it was wrapped before the token could.
        """

        def take_in(session: pkcs11.Session) -> Any:
            key = self._key(session)
            return key.unwrap_key(
                ObjectClass.SECRET_KEY,
                key_type,
                _opened(key, wrapped, aad),
                mechanism=Mechanism.AES_KEY_WRAP_PAD,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template=_template(extractable=False),
            )

        if not is_kept_inside(wrapped):
            raise KeyUnavailable(
                f"a key wrapped under {self._name} cannot be used inside the token"
            )
        return self._ask(wrapped, take_in)

    def _ask(self, wrapped: bytes, what: Callable[[pkcs11.Session], _Result]) -> _Result:
        shortest = 1 + _NONCE_BYTES + _TAG_BITS // 8
        if len(wrapped) <= shortest or wrapped[:1] not in (_CLEAR, _WRAPPED):
            raise KeyUnavailable(f"a wrapped key of {len(wrapped)} bytes is none of {self._name}")

        def tried(session: pkcs11.Session) -> _Result:
            try:
                return what(session)
            except PKCS11Error:
                # GeneralError is what tokens answer to a wrong tag, and to much else. One that
                # still encrypts is well, and the session is kept, with the keys inside.
                self._key(session).encrypt(_NAMED_BY, mechanism=Mechanism.AES_ECB)
                raise KeyUnavailable(
                    f"a key does not unwrap under {self._name}: it was changed, or is another key's"
                ) from None

        return self.session.ask(tried)

    def _key(self, session: pkcs11.Session) -> Any:
        """The key as this session knows it: looking for it takes longer than using it."""
        found, known = self._found
        if found != self.session.generation:
            known = session.get_key(object_class=ObjectClass.SECRET_KEY, label=self._key_label)
            self._found = self.session.generation, known
        return known

    def __repr__(self) -> str:
        return f"<TokenKeyEncryption {self._name}>"


def open_token(module: Path, *, token_label: str, key_label: str, pin: str) -> TokenKeyEncryption:
    """The key-encryption key of a token, logged in; raises OperatorError."""
    return TokenKeyEncryption(
        TokenSession(module, token_label=token_label, pin=pin), key_label=key_label
    )


def is_kept_inside(wrapped: bytes) -> bool:
    """Whether a wrapped key can go into its token without its value passing through here."""
    return wrapped[:1] == _WRAPPED


def _wrapped_inside(session: pkcs11.Session, key: Any, clear: bytes) -> bytes:
    held = session.create_object(
        _template(extractable=True)
        | {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: clear,
        }
    )
    try:
        return bytes(key.wrap_key(held, mechanism=Mechanism.AES_KEY_WRAP_PAD))
    finally:
        held.destroy()


def _opened(key: Any, wrapped: bytes, aad: bytes) -> bytes:
    form, nonce = wrapped[:1], wrapped[1 : 1 + _NONCE_BYTES]
    opened = key.decrypt(
        wrapped[1 + _NONCE_BYTES :],
        mechanism=Mechanism.AES_GCM,
        mechanism_param=GCMParams(nonce, form + aad, _TAG_BITS),
    )
    return bytes(opened)


def _template(*, extractable: bool) -> dict[Attribute, Any]:
    return {
        Attribute.TOKEN: False,
        Attribute.EXTRACTABLE: extractable,
        Attribute.SENSITIVE: not extractable,
    }


def _unsuitable(session: TokenSession, key_label: str) -> OperatorError:
    return OperatorError(f"{session.where}: key {key_label!r} is no AES key of 256 bits")


def _text(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()
