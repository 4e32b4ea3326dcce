"""Frames in the bodies of HTTP POSTs, one request at a time, by h11 (no I/O).

UnionPay's terminals post what others send bare, as `x-ISO-TPDU/x-auth`. Served is what RFC 9112
allows and nothing that two readers could read in two ways: a length said twice ends the connection.
"""

from __future__ import annotations

from email.utils import formatdate

import h11

from gateway.clock import Clock
from gateway.errors import FrameError
from gateway.settings.schema_terminals import Http
from gateway.wire.framing import Frame, FramingSpec, frame_of, prefix_bytes

CONTENT_TYPE = "x-ISO-TPDU/x-auth"
_SERIAL_BYTES = 5  # STX, a length, ETX, LRC: at most so much around what is counted


class HttpRefused(FrameError):
    """A request that is no terminal's, or cannot be read; answered with this status at the end."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status}: {reason}")
        self.status = status
        self.reason = reason


class HttpCarriage:
    """One connection's HTTP/1.1 (or 1.0): requests in, answers out, in order."""

    def __init__(self, spec: FramingSpec, settings: Http, *, clock: Clock) -> None:
        self.error: FrameError | None = None
        self._spec = spec
        self._settings = settings
        self._clock = clock
        self._types = {one.lower() for one in settings.content_types}
        self._body_max = spec.frame_bytes_max + max(prefix_bytes(spec), _SERIAL_BYTES)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.header_bytes_max)
        self._body = bytearray()
        self._in_request = False  # some bytes of it came, and it is not answered
        self._continue = False  # the peer waits to be told that it may send the body
        self.ahead = False
        self._refused: HttpRefused | None = None

    @property
    def mid_frame(self) -> bool:
        return self._in_request

    @property
    def closing(self) -> bool:
        return self._http.our_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)

    def feed(self, data: bytes, /) -> list[Frame]:
        if self._refused is not None:
            raise _again(self._refused)
        self.ahead = False
        try:
            if data:
                self._http.receive_data(data)
                self._in_request = True
            return self._next()
        except h11.RemoteProtocolError as error:
            # h11's words may repeat what it could not read.
            self._refused = HttpRefused(error.error_status_hint, "no HTTP request that can be read")
        except HttpRefused as refused:
            self._refused = refused
        self._in_request = False
        raise _again(self._refused)

    def _next(self) -> list[Frame]:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                waits = self._http.they_are_waiting_for_100_continue
                self._continue = self._continue or waits
                return []
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return []
            if isinstance(event, h11.Request):
                self._check(event)
                self._body.clear()
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._body_max:
                    raise HttpRefused(413, f"a body of more than {self._body_max} bytes")
            elif isinstance(event, h11.EndOfMessage):
                self._in_request = False
                body = bytes(self._body)
                self._body.clear()
                return [self._frame(body)]

    def _check(self, request: h11.Request) -> None:
        """Raises HttpRefused; the body has not been read then."""
        names = [name for name, _ in request.headers]
        values = dict(request.headers)
        size = sum(len(name) + len(value) + 4 for name, value in request.headers)
        if size + len(request.target) > self._settings.header_bytes_max:
            raise HttpRefused(431, "its headers are over http.header_bytes_max")
        lengths = names.count(b"content-length") + names.count(b"transfer-encoding")
        if lengths > 1 or (request.http_version < b"1.1" and b"transfer-encoding" in values):
            # Who stands between might read another length, and take the rest for a request.
            raise HttpRefused(400, "says its length twice, or as HTTP/1.0 cannot")
        if self._settings.paths and _path(request.target) not in self._settings.paths:
            raise HttpRefused(404, "a path that http.paths does not have")
        if request.method != b"POST":
            raise HttpRefused(405, "a method other than POST")
        kind = values.get(b"content-type", b"").partition(b";")[0].strip()
        if kind.decode("ascii", "replace").lower() not in self._types:
            raise HttpRefused(415, "a content type that http.content_types does not have")
        if b"content-encoding" in values:
            raise HttpRefused(415, "an encoded body")
        if not lengths:
            raise HttpRefused(411, "a body without its length")
        if b"content-length" in values and int(values[b"content-length"]) > self._body_max:
            raise HttpRefused(413, f"a body of more than {self._body_max} bytes")

    def _frame(self, body: bytes) -> Frame:
        try:
            return frame_of(self._spec, body)
        except FrameError as error:
            raise HttpRefused(400, str(error)) from None

    # --- what is said -------------------------------------------------------------------------

    def to_say(self) -> bytes:
        if not self._continue:
            return b""
        self._continue = False
        # The headers of the real answer come later, so there are none here.
        return self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def answer(self, frame: bytes, *, last: bool) -> bytes:
        said = self._respond(200, frame, last=last)
        self._start_next()
        return said

    def no_answer(self) -> bytes:
        said = self._respond(204, b"", last=False)
        self._start_next()
        return said

    def _start_next(self) -> None:
        """Who sent the next request without waiting is served in order, from what is held of it."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.ahead = self._in_request = bool(self._http.trailing_data[0])

    def farewell(self) -> bytes:
        """A status without a body; empty where an answer is under way, or nothing was asked."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        status = 400 if self._refused is None else self._refused.status
        return self._respond(status, b"", last=True)

    def _respond(self, status: int, body: bytes, *, last: bool) -> bytes:
        headers = [("Date", formatdate(self._clock.wall_ms() / 1000, usegmt=True))]
        if status != 204:
            headers.append(("Content-Length", str(len(body))))
        if body:
            headers.append(("Content-Type", self._settings.content_types[0]))
        if status == 405:
            headers.append(("Allow", "POST"))
        if last:
            headers.append(("Connection", "close"))
        parts = [self._http.send(h11.Response(status_code=status, headers=headers, reason=b""))]
        if body:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)


def _path(target: bytes) -> str:
    """The path of a request's target, of which some clients send the whole address."""
    text = target.decode("ascii", "replace").partition("?")[0]
    if text.startswith(("http://", "https://")):
        text = "/" + text.partition("://")[2].partition("/")[2]
    return text


def _again(refused: HttpRefused) -> HttpRefused:
    """A new one each time, so that tracebacks do not grow on a kept exception."""
    return HttpRefused(refused.status, refused.reason)
