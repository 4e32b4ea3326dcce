"""Crowd: thousands of terminals that hold their lines, and lose and open all of them in one moment.

A process of its own (`python -m loadtest.bench.crowd`), with epoll and OpenSSL alone: a scheduler
would cost it, and so the machine that it shares with the gateway, as much again. isoload has no
such thing: it opens lines a few at a time, and drops none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.wire.framing import FrameReader
from gateway.wire.message import Message
from loadtest.addresses import HostPort, loopback
from loadtest.run.line import TlsFolder, device_context
from loadtest.wire import Wire, shipped_wire

_RECEIVE_BYTES = 65_536
_RETRY_S = 0.1
_TRY_S = 30.0  # for a line to open; then it is tried again
_POLL_S = 0.05
_EVENTS_AT_ONCE = 64  # so that whoever was answered goes on while others still say hello
_OPENING_AT_ONCE = 64  # at first, when nothing is measured but memory


@dataclass(frozen=True, slots=True)
class Opened:
    """How a crowd got its lines."""

    lines: int
    seconds: float  # from the first call until the last line was open: had a purchase answered
    resumed: int
    failed: int  # attempts that came to nothing and were made again
    p50_ms: float  # from the first call of all until a line was open
    p99_ms: float


class Line:
    """One terminal's connection. It is open once a purchase was answered: under TLS 1.3 a client
    believes itself connected before the server has looked at its certificate."""

    def __init__(
        self, number: int, target: HostPort, wire: Wire, context: ssl.SSLContext, server_name: str
    ) -> None:
        self._number = number
        self._target = target
        self._wire = wire
        self._frames = FrameReader(wire.framing)
        self._stan = 0
        self._context = context
        self._server_name = server_name
        self._session: ssl.SSLSession | None = None
        self._socket: socket.socket | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._shaken = False
        self.try_until_s = 0.0
        self.resumed = False

    def call(self) -> int:
        """Begin to connect; returns the descriptor to wait for. Raises OSError."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_hostname=self._server_name,
            session=self._session,
        )
        self._shaken = False
        self._frames = FrameReader(self._wire.framing)
        family = socket.AF_INET6 if ":" in self._target.host else socket.AF_INET
        sock = self._socket = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            sock.connect(self._target)
        return sock.fileno()

    def connected(self) -> None:
        """The connection stands: say hello. Raises OSError."""
        if self._socket is None:
            raise ConnectionError("not called")
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "cannot connect")
        self._go_on()

    def heard(self) -> bool:
        """Take what came; whether the line is open now. Raises OSError where it is lost."""
        if self._socket is None or self._tls is None:
            raise ConnectionError("not called")
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("closed by the server")
        self._incoming.write(data)
        if not self._shaken:
            self._go_on()
        if not self._shaken:
            return False
        try:
            frames = self._frames.feed(self._tls.read(_RECEIVE_BYTES))
        except ssl.SSLWantReadError:
            return False
        if not frames:
            return False
        code = self._wire.codec.decode(frames[0].body).response_code
        if code != "00":
            raise ConnectionError(f"a purchase was answered {code}")
        self._session = self._tls.session
        self.resumed = bool(self._tls.session_reused)
        return True

    def _go_on(self) -> None:
        """The next step of the handshake; after its last, the purchase."""
        if self._socket is None or self._tls is None:
            return
        try:
            self._tls.do_handshake()
            self._shaken = True
            self._stan += 1
            self._tls.write(self._wire.pack(purchase(self._number, stan=self._stan)))
        except ssl.SSLWantReadError:
            pass
        if self._outgoing.pending:
            data = self._outgoing.read()
            if self._socket.send(data) != len(data):
                raise ConnectionError("a message did not go out whole")

    def drop(self) -> None:
        """Lose the connection without a word."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def purchase(number: int, *, stan: int) -> Message:
    """What a terminal sends, as isoload's terminals do."""
    now = datetime.now(UTC)
    return Message(
        "0200",
        {
            2: f"47617300{number:08d}",
            3: "000000",
            4: f"{100 + stan:012d}",
            7: f"{now:%m%d%H%M%S}",
            11: f"{stan:06d}",
            12: f"{now:%H%M%S}",
            13: f"{now:%m%d}",
            14: "2912",
            22: "051",
            24: "200",
            25: "00",
            37: f"{number:06d}{stan:06d}",
            41: f"T{number:07d}",
            42: f"MERCHANT{number:07d}",
            49: "978",
        },
    )


class Crowd:
    """All lines of the process."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def open(self, *, at_once_max: int) -> Opened:
        """Open every line, so many at a time; what fails is tried again until it is open."""
        started_s = time.monotonic()
        waiting = list(reversed(self._lines))
        again: list[tuple[float, Line]] = []
        calling: dict[int, Line] = {}
        after_s: list[float] = []
        failed = 0
        with select.epoll() as poll:
            while waiting or again or calling:
                now_s = time.monotonic()
                while again and again[0][0] <= now_s:
                    waiting.append(again.pop(0)[1])
                lost: list[Line] = []
                while waiting and len(calling) < at_once_max:
                    line = waiting.pop()
                    line.try_until_s = now_s + _TRY_S
                    try:
                        descriptor = line.call()
                    except OSError:
                        lost.append(line)
                        continue
                    calling[descriptor] = line
                    poll.register(descriptor, select.EPOLLOUT)
                for descriptor, events in poll.poll(_POLL_S, _EVENTS_AT_ONCE):
                    line = calling[descriptor]
                    try:
                        if events & select.EPOLLOUT:
                            line.connected()
                            poll.modify(descriptor, select.EPOLLIN)
                        elif line.heard():
                            poll.unregister(descriptor)
                            del calling[descriptor]
                            after_s.append(time.monotonic() - started_s)
                    except OSError:
                        del calling[descriptor]
                        lost.append(line)
                if calling and now_s > next(iter(calling.values())).try_until_s:
                    # In the order of their calls: the first is the first whose time is over.
                    lost.append(calling.pop(next(iter(calling))))
                for line in lost:
                    line.drop()
                    again.append((now_s + _RETRY_S, line))
                failed += len(lost)
        return Opened(
            lines=len(after_s),
            seconds=round(max(after_s, default=0.0), 3),
            resumed=sum(line.resumed for line in self._lines),
            failed=failed,
            p50_ms=_percentile_ms(after_s, 0.5),
            p99_ms=_percentile_ms(after_s, 0.99),
        )

    def drop(self) -> None:
        """Lose every line in one moment."""
        for line in self._lines:
            line.drop()


def _percentile_ms(values_s: Iterable[float], share: float) -> float:
    ordered = sorted(values_s)
    return round(ordered[int(share * (len(ordered) - 1))] * 1000, 1) if ordered else 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """A line of JSON once all lines are open; another after each SIGUSR1, which drops and opens
    them all. Ends with SIGTERM."""
    parser = argparse.ArgumentParser(prog="loadtest.bench.crowd", description=__doc__)
    parser.add_argument("--target", type=loopback, required=True, help="HOST:PORT, this machine's")
    parser.add_argument("--count", type=int, required=True, help="lines")
    parser.add_argument("--certs", type=Path, required=True, help="T0000001.crt, .key and so on")
    parser.add_argument("--ca", type=Path, required=True, help="the gateway's authority, PEM")
    chosen = parser.parse_args(arguments)
    # Blocked, and waited for where it is wanted: a storm begins between two of them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    tls = TlsFolder(chosen.certs, chosen.ca)
    wire = shipped_wire()
    crowd = Crowd(
        [
            Line(
                number,
                chosen.target,
                wire,
                device_context(tls, f"T{number:07d}"),
                tls.server_name,
            )
            for number in range(1, chosen.count + 1)
        ]
    )
    _say(crowd.open(at_once_max=_OPENING_AT_ONCE))
    while True:
        signal.sigwait((signal.SIGUSR1,))
        crowd.drop()
        _say(crowd.open(at_once_max=chosen.count))


def _say(opened: Opened) -> None:
    sys.stdout.write(json.dumps(asdict(opened)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
