"""KeyHoldings: all that a node has of keys, in one hand for those who wire it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.keys.key_encryption import KeyWrapping
from gateway.keys.key_table import KeyTable
from gateway.keys.message_module import SoftwareMessageSecurity
from gateway.keys.own_keys import OwnKeys
from gateway.keys.security_module import SoftwareSecurityModule


@dataclass(frozen=True, slots=True)
class KeyHoldings:
    """The gateway's own keys, those of terminals and upstreams, and the modules that use them."""

    own: OwnKeys
    table: KeyTable
    security: SoftwareSecurityModule  # of what is stored
    messages: SoftwareMessageSecurity

    @property
    def wrapping(self) -> KeyWrapping:
        """What keys are wrapped under, and unwrapped with."""
        return self.own.wrapping
