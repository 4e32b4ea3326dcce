"""The error tree: whose fault it is, and whether the thing may be tried again."""


class GatewayError(Exception):
    """Anything the gateway raises on purpose; `str(error)` never holds card data or keys."""


# --- what a peer did wrong ------------------------------------------------------------------


class PeerError(GatewayError):
    """The other side sent what it should not have; its connection may be closed."""


class FrameError(PeerError):
    """The stream cannot be cut into frames: a length over the bound, a bad prefix, a cut."""


class ParseError(PeerError):
    """A frame's body is not a message of its dialect.

    `mti` and `stan` hold what could still be read, so that the sender can be told (DE39 30);
    both are empty where nothing could.
    """

    def __init__(
        self, reason: str, *, field: str, position: int, mti: str = "", stan: str = ""
    ) -> None:
        super().__init__(f"field {field}, byte {position}: {reason}")
        self.reason = reason
        self.field = field
        self.position = position
        self.mti = mti
        self.stan = stan


# --- what became of a request on its way to an acquirer --------------------------------------


class LinkError(GatewayError):
    """A request got no usable answer from its upstream."""


class NotSent(LinkError):
    """No byte left the gateway: another upstream may be tried."""


class InDoubt(LinkError):
    """Some bytes may have left: never resend, owe a reversal."""


class AnswerNotBelieved(InDoubt):
    """An answer came whose MAC is wrong: it may be anybody's."""


# --- our own house ----------------------------------------------------------------------------


class EncodeError(GatewayError):
    """A message cannot be written in a dialect: a value is too long, or a field is unknown."""

    def __init__(self, reason: str, *, field: str) -> None:
        super().__init__(f"field {field}: {reason}")
        self.reason = reason
        self.field = field


class StoreError(GatewayError):
    """The store did not make durable what it was given; nothing may be built on it."""


class StoreOverloaded(StoreError):
    """The store's queue is at its bound; nothing was taken."""


class KeyUnavailable(GatewayError):
    """A named key is missing, expired or unusable."""


class OperatorError(GatewayError):
    """An operator asked for something that cannot be done; the text says what to do instead."""


class NoSuchThing(OperatorError):
    """An operator named a device, an operation or a page that does not exist."""


class InvariantBroken(BaseException):
    """A bug of ours: the node stops and recovers rather than guess."""
