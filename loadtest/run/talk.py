"""Talk: JSON lines between the run and its workers, over a Unix socket."""

from __future__ import annotations

from typing import Any

import orjson
import trio

_LINE_BYTES_MAX = 64 << 20
_RECEIVE_BYTES = 1 << 18


class Talk:
    """One end of a conversation; several tasks may say something, one listens."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._saying = trio.Lock()
        self._held = bytearray()

    async def say(self, what: dict[str, Any]) -> None:
        """Send an object; raises trio.BrokenResourceError where nobody is there."""
        async with self._saying:
            await self._stream.send_all(
                orjson.dumps(what, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
            )

    async def hear(self) -> dict[str, Any] | None:
        """The next object; None once the other end has gone. Raises ValueError."""
        while (end := self._held.find(b"\n")) < 0:
            if len(self._held) > _LINE_BYTES_MAX:
                raise ValueError("a line without an end")
            try:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._held += data
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        heard: dict[str, Any] = orjson.loads(line)
        return heard
