"""Any split of a stream gives the same frames, and garbage raises only FrameError."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FrameError
from gateway.wire.framing import TPDU_BYTES, Frame, FrameReader, FramingSpec, encode_frame

# A shared machine may be slow; time is not what these look at.
unhurried = settings(deadline=None)

specs = st.builds(
    FramingSpec,
    length=st.sampled_from(["binary2", "ascii4", "bcd2"]),
    length_includes_itself=st.booleans(),
    tpdu=st.booleans(),
    header_bytes=st.integers(0, 12),
    frame_bytes_max=st.integers(32, 300),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[FramingSpec, list[Frame], bytes]:
    """A framing, frames, and their stream with keep-alives between them."""
    spec = draw(specs)
    tpdu_bytes = TPDU_BYTES if spec.tpdu else 0
    room = spec.frame_bytes_max - tpdu_bytes - spec.header_bytes
    frame = st.builds(
        Frame,
        body=st.binary(min_size=4, max_size=room),
        tpdu=st.binary(min_size=tpdu_bytes, max_size=tpdu_bytes),
        header=st.binary(min_size=spec.header_bytes, max_size=spec.header_bytes),
    )
    frames = draw(st.lists(frame, max_size=5))
    keep_alive = b"0000" if spec.length == "ascii4" else b"\x00\x00"
    stream = b""
    for each in frames:
        stream += keep_alive * draw(st.integers(0, 2))
        stream += encode_frame(spec, each.body, each.tpdu, each.header)
    return spec, frames, stream


def outcome(spec: FramingSpec, chunks: list[bytes]) -> tuple[list[Frame], str, bool]:
    """All frames, the error or nothing, and whether a part is left."""
    reader = FrameReader(spec)
    frames: list[Frame] = []
    try:
        for chunk in [*chunks, b""]:
            frames += reader.feed(chunk)
            # Between calls no more is held than one unfinished frame.
            assert len(reader._held) < 4 + spec.frame_bytes_max
    except FrameError as error:
        assert not reader.mid_frame
        return frames, str(error), False
    return frames, "", reader.mid_frame


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


cuts = st.lists(st.integers(0, 1_500), max_size=8)


@unhurried
@given(streams(), cuts)
def test_any_split_gives_the_same_frames(
    stream: tuple[FramingSpec, list[Frame], bytes], where: list[int]
) -> None:
    spec, frames, data = stream
    expected = (frames, "", False)
    assert outcome(spec, [data]) == expected
    assert outcome(spec, split(data, where)) == expected
    assert outcome(spec, [data[i : i + 1] for i in range(len(data))]) == expected


@unhurried
@given(streams(), st.integers(1, 300))
def test_a_cut_stream_leaves_a_part(
    stream: tuple[FramingSpec, list[Frame], bytes], less: int
) -> None:
    spec, frames, data = stream
    if not frames or less >= len(frames[-1].body):
        return
    got, error, part = outcome(spec, [data[:-less]])
    assert (got, error, part) == (frames[:-1], "", True)


@unhurried
@given(specs, st.binary(max_size=400), cuts)
def test_garbage_gives_the_same_outcome_however_it_is_split(
    spec: FramingSpec, data: bytes, where: list[int]
) -> None:
    whole = outcome(spec, [data])
    assert outcome(spec, split(data, where)) == whole
    assert outcome(spec, [data[i : i + 1] for i in range(len(data))]) == whole
