"""KeyHoldings: all that a node has of keys, in one hand for those who wire it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.keys.kek_settings import pin_ciphers_of
from gateway.keys.key_encryption import KeyWrapping
from gateway.keys.key_table import KeyTable
from gateway.keys.message_module import HELD_MAX, SoftwareMessageSecurity
from gateway.keys.own_keys import OwnKeys
from gateway.keys.records import StoredKey
from gateway.keys.security_module import SoftwareSecurityModule
from gateway.keys.start_checks import check_found


@dataclass(frozen=True, slots=True)
class KeyHoldings:
    """The gateway's own keys, those of terminals and upstreams, and the modules that use them."""

    own: OwnKeys
    table: KeyTable
    security: SoftwareSecurityModule  # of what is stored
    messages: SoftwareMessageSecurity

    @classmethod
    def over(
        cls,
        own: OwnKeys,
        keys: Sequence[StoredKey],
        *,
        keys_max: int,
        prepared_max: int = HELD_MAX,
        production: bool = False,
    ) -> KeyHoldings:
        """All of it, over an open keyring and the keys of a store, which are looked at first.

        Some 10 µs a key in production: call it in a thread. Raises OperatorError and KeyUnavailable
        where there are keys that a start refuses.
        """
        check_found(keys, own.wrapping, production=production)
        return cls(
            own=own,
            table=KeyTable(keys, keys_max=keys_max),
            security=SoftwareSecurityModule(own.keyring()),
            messages=SoftwareMessageSecurity(
                unwrap=own.wrapping.unwrap,
                wrap=own.wrapping.wrap,
                pin_ciphers=pin_ciphers_of(own.wrapping, held_max=prepared_max),
                held_max=prepared_max,
            ),
        )

    @property
    def wrapping(self) -> KeyWrapping:
        """What keys are wrapped under, and unwrapped with."""
        return self.own.wrapping
