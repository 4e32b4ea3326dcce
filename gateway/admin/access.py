"""Who asks at the admin socket, and what that lets them do."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import OperatorError
from gateway.settings.schema_operators import Operator
from gateway.telemetry.audit_chain import Who

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of Linux, man 7 unix
_NOBODY = -1


class Role(StrEnum):
    """What an operator is trusted with."""

    VIEWER = "viewer"  # looks, and changes nothing
    OPERATOR = "operator"  # devices, reversals, blocklists: what keeps shops selling
    KEYS = "keys"  # keys, certificates, and what binds a device to one
    ADMIN = "admin"  # everything, the configuration too


_IMPLIED = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.OPERATOR}),
    Role.KEYS: frozenset({Role.VIEWER, Role.KEYS}),
    Role.ADMIN: frozenset(Role),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel knows it."""

    uid: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who asks: who it is, and the roles that they have."""

    who: Who
    roles: frozenset[Role]

    @property
    def name(self) -> str:
        return self.who.name

    def may(self, role: Role) -> bool:
        return role in self.roles


NOT_KNOWN = Peer(uid=_NOBODY, pid=0)


def peer_of(connection: socket.socket) -> Peer:
    """Who opened a connection to a Unix socket. Raises OSError.

    The kernel noted it when the connection was made: what the process does later changes nothing.
    """
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(found)
    return Peer(uid=uid, pid=pid)


def caller_of(peer: Peer, operators: Sequence[Operator], *, own_uid: int) -> Caller:
    """The operator that a peer is, with their roles.

    Where no operators are configured the gateway's own user and root are one with every role. Who
    is no operator has none.
    """
    user = user_name(peer.uid)
    for operator in operators:
        if user in operator.users or str(peer.uid) in operator.users:
            roles = frozenset[Role]().union(*(_IMPLIED[Role(role)] for role in operator.roles))
            return _caller(operator.name, peer, roles)
    trusted = not operators and peer.uid in (0, own_uid)
    return _caller(user, peer, frozenset(Role) if trusted else frozenset())


def this_process() -> Caller:
    """Who runs a command on the store itself: its files being theirs, nothing can be kept back."""
    uid = os.getuid()
    who = Who(name=user_name(uid), origin="command", uid=uid, pid=os.getpid())
    return Caller(who=who, roles=frozenset(Role))


def user_name(uid: int) -> str:
    """The operating system's name for a user; the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def group_id(name: str) -> int:
    """The number of a group; raises OperatorError where there is none of this name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OperatorError(
            f"node.admin_group: there is no group {name!r} on this machine; `getent group` lists"
            " those there are"
        ) from None


def _caller(name: str, peer: Peer, roles: frozenset[Role]) -> Caller:
    return Caller(who=Who(name=name, origin="socket", uid=peer.uid, pid=peer.pid), roles=roles)
