"""Echo: a bare trio server that answers purchases itself, the unit that the benchmark counts in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from gateway.errors import PeerError
from gateway.wire.framing import FrameReader
from gateway.wire.message import Message, response_mti
from gateway.wire.tls import ServerTlsFiles, server_context
from loadtest.addresses import HostPort, loopback
from loadtest.wire import Wire, shipped_wire

_RECEIVE_BYTES = 65_536
_BACKLOG = 4_096
_TICKETS = 2  # as many as the gateway hands out
_ECHOED = (3, 4, 7, 11, 12, 13, 37, 41, 42, 49)  # what isoload's acquirer gives back
_APPROVED = {38: "000000", 39: "00"}
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


def answer_to(request: Message) -> Message:
    """The approval of a request, with the fields that an acquirer gives back."""
    fields = request.fields
    echoed = {number: fields[number] for number in _ECHOED if number in fields}
    return Message(response_mti(request.mti), echoed | _APPROVED)


async def converse(stream: trio.abc.Stream, wire: Wire) -> None:
    """Answer what comes, in order, until the peer leaves or sends what is no message."""
    frames = FrameReader(wire.framing)
    decode = wire.codec.decode
    try:
        while data := await stream.receive_some(_RECEIVE_BYTES):
            for frame in frames.feed(data):
                await stream.send_all(wire.pack(answer_to(decode(frame.body)), to=frame))
        await stream.aclose()
    except (*_GONE, PeerError):
        await trio.aclose_forcefully(stream)


async def serve(
    address: HostPort,
    tls: ServerTlsFiles | None = None,
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; under mutual TLS where files are given.

    Raises CertificateUnusable, and OSError where the address cannot be had.
    """
    wire = shipped_wire()
    context = None if tls is None else server_context(tls, session_tickets=_TICKETS)

    async def handle(tcp: trio.SocketStream) -> None:
        stream: trio.abc.Stream = tcp
        if context is not None:
            stream = trio.SSLStream(tcp, context, server_side=True)
        await converse(stream, wire)

    await trio.serve_tcp(
        handle, address.port, host=address.host, backlog=_BACKLOG, task_status=task_status
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM; "ready" is the only line on standard output."""
    parser = argparse.ArgumentParser(prog="loadtest.echo", description=__doc__)
    parser.add_argument("--listen", type=loopback, required=True, help="HOST:PORT, this machine's")
    parser.add_argument("--certificate", type=Path, help="TLS: its certificate, PEM")
    parser.add_argument("--key", type=Path, help="TLS: the certificate's key, PEM")
    parser.add_argument("--client-ca", type=Path, help="TLS: the authority of its clients, PEM")
    chosen = parser.parse_args(arguments)
    tls = None
    if chosen.certificate and chosen.key and chosen.client_ca:
        tls = ServerTlsFiles(
            certificate=chosen.certificate, key=chosen.key, client_ca=chosen.client_ca
        )
    elif chosen.certificate or chosen.key or chosen.client_ca:
        parser.error("--certificate, --key and --client-ca go together")
    trio.run(_run, chosen.listen, tls)


async def _run(address: HostPort, tls: ServerTlsFiles | None) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, address, tls))
        sys.stdout.write("ready\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
