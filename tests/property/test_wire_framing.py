"""Any split of a stream gives the same frames, and garbage raises only FrameError."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FrameError
from gateway.wire.framing import (
    TPDU_BYTES,
    Frame,
    FrameReader,
    FramingSpec,
    encode_frame,
    frame_of,
    prefix_bytes,
)

# A shared machine may be slow; time is not what these look at.
unhurried = settings(deadline=None)


@st.composite
def all_specs(draw: st.DrawFn) -> FramingSpec:
    length = draw(st.sampled_from(["binary2", "binary4", "ascii4", "bcd2", "stx_etx", "stx_bcd2"]))
    counts_itself = draw(st.booleans())
    return FramingSpec(
        length=length,
        length_includes_itself=not length.startswith("stx") and draw(st.booleans()),
        tpdu=draw(st.booleans()),
        header_bytes=draw(st.integers(int(counts_itself), 12)),
        header_counts_itself=counts_itself,
        frame_bytes_max=draw(st.integers(32, 300)),
    )


specs = all_specs()


def keep_alive_of(spec: FramingSpec) -> bytes:
    """What may stand between frames and is none."""
    return {"ascii4": b"0000", "stx_etx": b"\x06", "stx_bcd2": b"\x15"}.get(
        spec.length, bytes(prefix_bytes(spec))
    )


@st.composite
def headers(draw: st.DrawFn, spec: FramingSpec) -> bytes:
    if not spec.header_counts_itself:
        return draw(st.binary(min_size=spec.header_bytes, max_size=spec.header_bytes))
    rest = draw(st.binary(max_size=spec.header_bytes - 1))
    return bytes((len(rest) + 1,)) + rest


def without_etx(spec: FramingSpec, frame: Frame) -> Frame:
    """The frame as that framing can carry it."""
    if spec.length != "stx_etx":
        return frame
    header = frame.header
    if spec.header_counts_itself and header[:1] == b"\x03":
        header = b"\x04" + header[1:] + b"0" if spec.header_bytes > 3 else b"\x02" + header[1:2]
    parts = (frame.body, frame.tpdu, header)
    return Frame(*(part.replace(b"\x03", b"0") for part in parts))


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
        header=headers(spec),
    ).map(lambda frame: without_etx(spec, frame))
    frames = draw(st.lists(frame, max_size=5))
    keep_alive = keep_alive_of(spec)
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
            assert len(reader._held) < 5 + spec.frame_bytes_max
            assert reader.mid_frame == bool(reader._held)
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


@unhurried
@given(streams())
def test_a_carriage_that_says_lengths_gives_the_same_frames(
    stream: tuple[FramingSpec, list[Frame], bytes],
) -> None:
    spec, frames, _ = stream
    for frame in frames:
        assert frame_of(spec, encode_frame(spec, frame.body, frame.tpdu, frame.header)) == frame
        bare = replace(spec, length="none", length_includes_itself=False)
        assert frame_of(bare, frame.tpdu + frame.header + frame.body) == frame
        assert encode_frame(bare, frame.body, frame.tpdu, frame.header).endswith(frame.body)
