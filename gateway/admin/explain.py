"""What would become of a message, and by which rule: asked of the node, changing nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypedDict

from pydantic import Field

from gateway.admin.api import Arguments, BadArguments, Progress
from gateway.admin.operations import Operation, Operations
from gateway.clock import Clock, iso_time
from gateway.errors import NoSuchThing, ParseError
from gateway.policy.decide import Policy, Refused, Subject
from gateway.policy.response_codes import CodeSet, Reason, response_code
from gateway.settings.loader import Configuration
from gateway.settings.schema_keys_use import ProfileKeys
from gateway.settings.schema_terminals import Listener
from gateway.store.store import Device, DeviceState
from gateway.transactions.version import Version
from gateway.upstreams.conditions import subject_of
from gateway.upstreams.routing import Router
from gateway.wire.editions import codec_of
from gateway.wire.id_patterns import padded
from gateway.wire.message import (
    FOLLOWING_KINDS,
    NETWORK_KINDS,
    PIN_BLOCK,
    TERMINAL_ID,
    Kind,
    Message,
    kind_of,
)

_HEX_DIGITS_MAX = 16_384
_ANY_MERCHANT = "*"


class ExplainArguments(Arguments):
    """A message as its fields, or as the bytes that a listener's dialect writes."""

    listener: str = ""  # "": the first
    mti: str = Field(default="0200", pattern=r"^[0-9]{4}$")
    fields: dict[str, str] = Field(default_factory=dict, max_length=128, repr=False)
    hex: str = Field(default="", max_length=_HEX_DIGITS_MAX, repr=False)
    address: str = ""  # of the connection; "": not asked for


class DeviceShown(TypedDict):
    terminal_id: str
    merchant_id: str
    state: str
    profile: str


class UpstreamShown(TypedDict):
    upstream: str
    weight: int
    candidate: bool
    state: str
    why: str


class Explained(TypedDict):
    message: str  # masked
    kind: str
    listener: str
    at: str
    version: str
    device: DeviceShown | None
    decision: str  # allowed or refused
    reason: str
    rule: str  # with file and line, where one decided
    code: str  # DE39; "" where the acquirer gives it
    route: str
    group: str
    upstreams: list[UpstreamShown]  # in the order that they would be tried in
    unseen: list[str]  # what decides on a real message too, and was not looked at
    notes: list[str]


class Blocking(Protocol):
    @property
    def reason(self) -> Reason: ...
    @property
    def rule(self) -> str: ...


class ExplainOperations(Operations):
    """Explaining, over what decides on real messages."""

    def __init__(
        self,
        *,
        configuration: Callable[[], Configuration],
        version: Callable[[], Version],
        find_device: Callable[[str], Device | None],
        blocked: Callable[[Device, str, str], Blocking | None],
        card_token: Callable[[Message], str],
        former_cards: Callable[[Message], tuple[str, ...]],
        upstream_state: Callable[[str], str],
        clock: Clock,
    ) -> None:
        """`blocked` asks the gate of a device, with the message's merchant and an address."""
        self._configuration = configuration
        self._version = version
        self._find_device = find_device
        self._blocked = blocked
        self._card_token = card_token
        self._former_cards = former_cards
        self._upstream_state = upstream_state
        self._clock = clock
        super().__init__({"message": Operation(ExplainArguments, self.explain)})

    async def explain(self, arguments: ExplainArguments, _: Progress | None = None) -> Explained:
        """Raises BadArguments for what is no message, and NoSuchThing for an unknown listener."""
        listener = self._listener(arguments.listener)
        message = self._message(arguments, listener)
        kind = kind_of(message)
        now_ms = self._clock.wall_ms()
        version = self._version()
        device = self._find_device(padded(message.terminal_id)) if message.terminal_id else None
        refused = self._refused_sender(message, kind, device, arguments.address)
        if refused is None and device is not None and _is_decided(kind):
            refused = self._decided(version.policy, message, kind, device, arguments, now_ms)
        shown: Explained = {
            "message": repr(message),
            "kind": kind.value,
            "listener": listener.name,
            "at": iso_time(now_ms),
            "version": version.id,
            "device": None if device is None else _device(device),
            "decision": "allowed" if refused is None else "refused",
            "reason": "" if refused is None else refused.reason.value,
            "rule": "" if refused is None else refused.rule,
            "code": "" if refused is None else _code(refused, listener.code_set),
            "route": "",
            "group": "",
            "upstreams": [],
            "unseen": _unseen(
                message,
                kind,
                listener,
                keys=self._keys_of(device),
                with_address=bool(arguments.address),
            ),
            "notes": _notes(message, kind, listener),
        }
        if refused is None and _is_decided(kind):
            self._add_route(shown, version.router, message, kind, now_ms)
            if not any(one["candidate"] for one in shown["upstreams"]):
                shown["code"] = response_code(Reason.NO_UPSTREAM, listener.code_set)
        return shown

    def _listener(self, name: str) -> Listener:
        listeners = self._configuration().settings.listeners
        for listener in listeners:
            if name in ("", listener.name):
                return listener
        names = ", ".join(one.name for one in listeners)
        raise NoSuchThing(f"there is no listener {name!r}; there are: {names}")

    def _message(self, arguments: ExplainArguments, listener: Listener) -> Message:
        if bool(arguments.hex) == bool(arguments.fields):
            raise BadArguments("give the message as fields or as hex digits")
        if arguments.fields:
            try:
                fields = {int(number): value for number, value in arguments.fields.items()}
            except ValueError:
                raise BadArguments("fields: their names are numbers from 2 to 128") from None
            if not all(2 <= number <= 128 for number in fields):
                raise BadArguments("fields: their names are numbers from 2 to 128")
            if TERMINAL_ID in fields:
                fields[TERMINAL_ID] = padded(fields[TERMINAL_ID])
            return Message(arguments.mti, fields)
        try:
            body = bytes.fromhex(arguments.hex)
        except ValueError:
            raise BadArguments("hex: not an even number of hex digits") from None
        try:
            dialect = self._configuration().dialects[listener.dialect]
            return codec_of(dialect, self._clock.wall_ms).decode(body)
        except ParseError as error:
            raise BadArguments(
                f"no message of {listener.dialect}: {error} (MTI to last field, without length, "
                "TPDU and header)"
            ) from None

    def _keys_of(self, device: Device | None) -> ProfileKeys:
        """What the device's profile asks of its messages."""
        for profile in self._configuration().settings.profiles:
            if device is not None and profile.name == device.profile:
                return profile.keys
        return ProfileKeys()

    # --- the decision ---------------------------------------------------------------------------

    def _refused_sender(
        self, message: Message, kind: Kind, device: Device | None, address: str
    ) -> Refused | None:
        if device is None:
            return Refused(Reason.UNKNOWN_TERMINAL, "registry: no row and no range has it")
        merchant_id = message.merchant_id.rstrip()
        if device.state is not DeviceState.ACTIVE:
            if device.state is DeviceState.SUSPENDED and kind is Kind.REVERSAL:
                return None
            return Refused(Reason.NOT_ACTIVE, f"registry: {device.state}")
        if kind not in NETWORK_KINDS and device.merchant_id not in (_ANY_MERCHANT, merchant_id):
            return Refused(Reason.WRONG_MERCHANT, f"registry: {device.merchant_id}")
        blocked = self._blocked(device, message.merchant_id, address)
        if blocked is None or kind is Kind.REVERSAL:
            return None
        return Refused(blocked.reason, blocked.rule)

    def _decided(
        self,
        policy: Policy,
        message: Message,
        kind: Kind,
        device: Device,
        arguments: ExplainArguments,
        now_ms: int,
    ) -> Refused | None:
        decision = policy.looking().decide(
            Subject(
                message,
                kind,
                profile=device.profile,
                transaction_id=0,
                wall_ms=now_ms,
                card_token=self._card_token(message),
                former_cards=self._former_cards(message),
                certificate_sha256=device.certificate_sha256,
                address=arguments.address,
            )
        )
        return decision if isinstance(decision, Refused) else None

    def _add_route(
        self, shown: Explained, router: Router, message: Message, kind: Kind, now_ms: int
    ) -> None:
        found = router.explain(subject_of(message, kind, now_ms))
        shown["route"], shown["group"] = found.route, found.group
        shown["upstreams"] = [
            {
                "upstream": step.upstream,
                "weight": step.weight,
                "candidate": step.boarded,
                "state": self._upstream_state(step.upstream),
                "why": step.why,
            }
            for step in found.upstreams
        ]


def _is_decided(kind: Kind) -> bool:
    """Whether the policy decides on it, and a route is asked for it."""
    others = (Kind.REVERSAL, Kind.SETTLEMENT, Kind.BATCH_UPLOAD)
    return kind not in NETWORK_KINDS and kind not in others


def _code(refused: Refused, code_set: CodeSet) -> str:
    return refused.code or response_code(refused.reason, code_set)


def _device(device: Device) -> DeviceShown:
    return {
        "terminal_id": device.terminal_id.rstrip(),
        "merchant_id": device.merchant_id,
        "state": str(device.state),
        "profile": device.profile,
    }


def _unseen(
    message: Message, kind: Kind, listener: Listener, *, keys: ProfileKeys, with_address: bool
) -> list[str]:
    """What was not looked at, though it decides on a message that comes on a connection."""

    def code(reason: Reason) -> str:
        return response_code(reason, listener.code_set)

    decided = _is_decided(kind)
    unseen = [f"the connection: what it proves, or not ({code(Reason.NOT_THIS_DEVICE)})"]
    if not with_address:
        unseen.append("its address: none was given (--address)")
    if keys.mac is not None and kind not in NETWORK_KINDS and kind.value not in keys.mac_exempt:
        unseen.append(f"the MAC: its profile wants {keys.mac} ({code(Reason.MAC_FAILED)})")
    elif keys.mac is None and decided and _wants_macs(listener):
        unseen.append(f"the MAC: the listener wants one ({code(Reason.MAC_FAILED)})")
    not_signed_on = code(Reason.NOT_SIGNED_ON)
    if keys.sign_on and decided:
        unseen.append(
            f"the session: whether it is signed on, under keys that work ({not_signed_on})"
        )
    if keys.batch_checked and decided:
        unseen.append(f"the batch: whether it is the open one ({not_signed_on})")
    if PIN_BLOCK in message.fields:
        unseen.append(
            f"the PIN: whether it is one ({code(Reason.PIN_MALFORMED)}), and the keys for it"
            f" ({code(Reason.KEY_SERVICE_FAILED)})"
        )
    if decided:
        unseen.append(f"repeats: the first answer again, or {code(Reason.REPEAT_DIFFERS)}")
    if kind in FOLLOWING_KINDS or kind is Kind.REVERSAL:
        unseen.append(f"its original: there, and undone yet ({code(Reason.ORIGINAL_NOT_FOUND)})")
    if decided:
        unseen.append("the acquirer: keys shared with it, room on its links, and its own answer")
    return unseen


def _wants_macs(listener: Listener) -> bool:
    return listener.macs == "required" or (listener.security == "plain" and listener.macs is None)


def _notes(message: Message, kind: Kind, listener: Listener) -> list[str]:
    notes = []
    if kind is Kind.REVERSAL:
        notes.append("a reversal passes identity only, and goes where its original went")
    elif kind in FOLLOWING_KINDS:
        notes.append(f"a {kind} goes where its original went: its route is asked if it names none")
    elif message.is_repeat:
        notes.append("a repeat of what was seen gets the answer that was given then")
    if listener.carries == "concentrator":
        notes.append("a concentrator's rule has to name the terminal")
    return notes
