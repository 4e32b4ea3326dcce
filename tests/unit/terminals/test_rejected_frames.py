"""The ring of frames that could not be read: bounded, newest first, and told apart."""

from __future__ import annotations

import pytest

from gateway.admin.errors import ErrorOperations
from gateway.errors import FrameError, ParseError
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import Frame

CODEC = Codec(shipped_dialects()["iso87_ascii"])


class StoppedClock:
    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def wall_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return 0.0


def rejected(frames: RejectedFrames, body: bytes, tpdu: bytes = b"") -> ParseError:
    with pytest.raises(ParseError) as caught:
        CODEC.decode(body)
    frames.unparsed(CODEC, Frame(body, tpdu), caught.value, listener="shops", address="192.0.2.1")
    return caught.value


def test_the_newest_are_kept_and_all_are_counted() -> None:
    frames = RejectedFrames(kept_max=3, clock=StoppedClock(1_000))
    for number in range(5):
        frames.uncut(b"\xff\xff", FrameError(f"no. {number}"), listener="shops", address="a")
    assert [one.number for one in frames.last(10)] == [5, 4, 3]
    assert [one.reason for one in frames.last(2)] == ["no. 4", "no. 3"]
    assert frames.last(0) == []
    assert frames.count == 5


def test_none_are_kept_where_none_are_wanted() -> None:
    frames = RejectedFrames(kept_max=0, clock=StoppedClock(1_000))
    frames.uncut(b"\xff\xff", FrameError("bad"), listener="shops", address="a")
    rejected(frames, b"0800")
    assert (frames.last(10), frames.count) == ([], 2)


async def test_field_and_byte_count_from_the_first_byte_after_the_length() -> None:
    frames = RejectedFrames(kept_max=3, clock=StoppedClock(1_500))
    body = b"0800" + b"0000000004800000" + b"AB12CD" + b"T000"  # DE38, then DE41 is cut
    error = rejected(frames, body, b"\x60\x00\x01\x00\x02")
    operations = ErrorOperations(frames)
    answer = await operations.run("frames", {"last": 1})
    (view,) = answer["frames"]
    assert answer["count"] == 1
    assert view["at"] == "1970-01-01T00:00:01.500Z"
    assert (view["field"], view["position"]) == ("41", 5 + error.position)
    assert (view["mti"], view["stan"], view["dialect"]) == ("0800", "", "iso87_ascii")
    assert view["length"] == len(body) + 5
    assert view["fields"] == {"38": "AB12CD"}
    assert view["dump"][0].startswith("0000  60 00 01 00 02 ")


async def test_what_is_no_frame_is_said_to_be_what_it_looks_like() -> None:
    frames = RejectedFrames(kept_max=3, clock=StoppedClock(1_500))
    frames.uncut(b"\x16\x03\x01", FrameError("too long"), listener="shops", address="192.0.2.1")
    answer = await ErrorOperations(frames).run("frames", {})
    (view,) = answer["frames"]
    assert view["reason"] == "too long (this is TLS, on a listener that wants none)"
    assert view["dump"] == ["0000  16 03"]
