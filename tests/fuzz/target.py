"""One frame through everything that a peer's bytes meet: framing, decoding, looking, encoding."""

from __future__ import annotations

import gc
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gateway.errors import EncodeError, FrameError, ParseError
from gateway.wire.codec import Codec
from gateway.wire.framing import FrameReader
from gateway.wire.inspection import meaning, meaning_of_mti, read, shown
from gateway.wire.masked_dump import masked_frame, masked_start
from tests.fuzz.mutator import Mutator
from tests.fuzz.seeds import Link, framed, links, seeds

TIME_NS_MAX = 1_000_000  # of CPU, for one frame
_SLOWEST_KEPT = 2_000
_REREADS = 50  # of a frame that took too long: the best of them is the frame's own time
_COLLECTED_EVERY = 5_000
_WARM_SHARE = 4  # memory is looked at after so much of all
_GUESSED_EVERY = 200  # `gateway inspect` without a dialect reads a frame some hundred times
_FAILURES_MAX = 20
_WHOLE_FRAMES = 0.7  # of them are cut as they should be: what is inside is the trouble


@dataclass(slots=True)
class Report:
    """What became of many frames."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_ns: list[int] = field(default_factory=list)  # the longest first
    over: list[str] = field(default_factory=list)  # frames that took too long, again and again
    failures: list[str] = field(default_factory=list)
    frames: int = 0
    rss_kib: tuple[int, int] = (0, 0)  # warmed up, and at the end

    def add(self, other: Report) -> None:
        self.outcomes += other.outcomes
        self.slowest_ns = sorted(self.slowest_ns + other.slowest_ns, reverse=True)[:_SLOWEST_KEPT]
        self.over += other.over
        self.failures += other.failures
        self.frames += other.frames
        self.rss_kib = max(self.rss_kib, other.rss_kib, key=lambda one: one[1])

    def percentile_ns(self, share: float) -> int:
        """The time that this share of the frames stays within; exact near the end."""
        beyond = round(self.frames * (1 - share))
        return self.slowest_ns[min(beyond, len(self.slowest_ns) - 1)] if self.slowest_ns else 0


def through(link: Link, data: bytes) -> str:
    """What becomes of bytes on a link, in a word. Raises what must not be raised."""
    reader = FrameReader(link.spec)
    try:
        frames = reader.feed(data)
    except FrameError:
        masked_start(data)
        return "no frame"
    if not frames:
        return "unfinished"
    outcome = ""
    for frame in frames[:2]:
        outcome = _body(link.codec, frame.tpdu + frame.header, frame.body)
    return outcome


def _body(codec: Codec, heading: bytes, body: bytes) -> str:
    try:
        message = codec.decode(body)
    except ParseError as error:
        masked_frame(codec, heading, body, error)
        return "no message"
    meaning_of_mti(message)
    for number, value in message.fields.items():
        shown(number, value)
        meaning(number, value)
    try:
        again = codec.encode(message)
    except EncodeError:
        return "not writable"
    return "read and written" if again == body else "read, and written in another form"


def run(*, seed: int, first: int, count: int) -> Report:
    """Put so many frames through, from a number on; the same ones for the same seed and number."""
    all_links = links()
    starts = seeds(all_links)
    bodies = Mutator([one.body for one in starts])
    frames = Mutator([framed(all_links[one.link].spec, one.body) for one in starts])
    report = Report(frames=count)
    for one in starts:
        link = all_links[one.link]
        assert through(link, framed(link.spec, one.body)) == "read and written", one
    gc.collect()
    gc.disable()  # A collection is nobody's frame; it is made between them.
    before = 0
    try:
        for number in range(first, first + count):
            random = Random(f"{seed}/{number}")
            start = random.randrange(len(starts))
            link = all_links[starts[start].link]
            data = _changed(bodies, frames, link, start, random)
            _one(report, link, data, f"seed {seed}, frame {number}")
            if number % _GUESSED_EVERY == 0:
                _guessed(report, all_links, data, f"seed {seed}, frame {number}")
            if number % _COLLECTED_EVERY == 0:
                gc.collect()
            if number == first + count // _WARM_SHARE:
                before = _rss_kib()
    finally:
        gc.enable()
    report.slowest_ns = sorted(report.slowest_ns, reverse=True)[:_SLOWEST_KEPT]
    report.rss_kib = (before, _rss_kib())
    return report


def _changed(bodies: Mutator, frames: Mutator, link: Link, start: int, random: Random) -> bytes:
    """A message with changes in a frame that fits it, or a frame that is changed as a whole."""
    if random.random() < _WHOLE_FRAMES:
        try:
            return framed(link.spec, bodies.changed(start, random))
        except EncodeError:
            pass  # Too long by now, or not for this framing.
    return frames.changed(start, random)


def _one(report: Report, link: Link, data: bytes, name: str) -> None:
    began_ns = time.thread_time_ns()
    try:
        outcome = through(link, data)
    except Exception as error:
        outcome = "FAILED"
        _failed(report, error, data, name)
    took_ns = time.thread_time_ns() - began_ns
    report.outcomes[outcome] += 1
    report.slowest_ns.append(took_ns)
    if len(report.slowest_ns) > 4 * _SLOWEST_KEPT:
        report.slowest_ns = sorted(report.slowest_ns, reverse=True)[:_SLOWEST_KEPT]
    if took_ns > TIME_NS_MAX and outcome != "FAILED":
        # Once may be the machine's doing: an interrupt, a cold cache. Each time is the frame's.
        best_ns = took_ns
        for _ in range(_REREADS):
            best_ns = min(best_ns, _timed_ns(link, data))
            if best_ns <= TIME_NS_MAX:
                return
        report.over.append(f"{name}: {best_ns / 1e6:.2f} ms: {data.hex()}")


def _timed_ns(link: Link, data: bytes) -> int:
    """As the first time: no layout is known. (The tables of lengths are: they are made once.)"""
    link.codec._readers.clear()
    link.codec._writers.clear()
    began_ns = time.thread_time_ns()
    through(link, data)
    return time.thread_time_ns() - began_ns


def _guessed(report: Report, all_links: Sequence[Link], data: bytes, name: str) -> None:
    if not data:
        return
    try:
        read([data], [link.codec.dialect for link in all_links[:11]])
    except Exception as error:
        _failed(report, error, data, f"{name}, guessed")


def _failed(report: Report, error: Exception, data: bytes, name: str) -> None:
    if len(report.failures) < _FAILURES_MAX:
        place = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(place.filename).name}:{place.lineno}"
        report.failures.append(f"{name}: {type(error).__name__} at {at}: {data.hex()}")


def _rss_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4
