"""The sink never makes its callers wait, loses nothing without a count, and survives rotation."""

import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.telemetry.sink import LineSink


def test_lines_arrive_in_order_in_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_bytes(b"before\n")
    file.unlink()
    sink = LineSink(file=file)
    lines = [b"%d\n" % number for number in range(5_000)]
    for line in lines:
        sink.put(line)
    assert sink.close()
    assert file.read_bytes() == b"".join(lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    sink.put(b"after\n")
    assert sink.dropped == 1


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_bytes(b"before\n")
    sink = LineSink(file=file)
    sink.put(b"after\n")
    assert sink.close()
    assert file.read_bytes() == b"before\nafter\n"


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        LineSink(file=tmp_path / "no" / "a.log")


def test_a_stalled_reader_costs_lines_not_time() -> None:
    reader, writer = os.pipe()
    sink = LineSink(descriptor=writer, lines_max=100)
    line = b"x" * 1_023 + b"\n"
    for _ in range(2_000):
        sink.put(line)
    assert sink.queued <= 100
    assert sink.trouble
    dropped = sink.dropped
    assert dropped >= 1_900 - 64 - 100
    assert not sink.close(timeout_s=0.05)
    # The reader wakes up: what was taken is still written, and by whole lines.
    got = bytearray()
    while len(got) < (2_000 - dropped) * 1_024:
        got += os.read(reader, 65_536)
    assert sink.close()
    assert bytes(got) == line * (2_000 - dropped)
    os.close(reader)
    os.close(writer)


def test_a_non_blocking_descriptor_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sink = LineSink(descriptor=writer, poll_s=0.001)
    data = b"y" * 9_999 + b"\n"
    for _ in range(50):
        sink.put(data)
    got = bytearray()
    while len(got) < 500_000:
        got += os.read(reader, 65_536)
    assert sink.close()
    assert (bytes(got), sink.dropped) == (data * 50, 0)
    os.close(reader)
    os.close(writer)


def test_a_reader_that_is_gone_is_told() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = LineSink(descriptor=writer)
    sink.put(b"a\n")
    sink.put(b"b\n")
    assert sink.close()
    assert sink.trouble
    assert sink.dropped == 2
    assert sink.take_trouble() == "Broken pipe"
    assert sink.take_trouble() == ""
    os.close(writer)


def test_reopen_follows_the_name(tmp_path: Path) -> None:
    file, moved = tmp_path / "a.log", tmp_path / "a.log.1"
    sink = LineSink(file=file, poll_s=0.001)
    sink.put(b"old\n")
    while sink.queued:
        threading.Event().wait(0.001)
    file.rename(moved)
    sink.reopen()
    while not file.exists():
        threading.Event().wait(0.001)
    sink.put(b"new\n")
    assert sink.close()
    assert (moved.read_bytes(), file.read_bytes()) == (b"old\n", b"new\n")


def test_reopen_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = LineSink(file=folder / "a.log")
    folder.rename(tmp_path / "moved")
    sink.reopen()
    sink.put(b"line\n")
    assert sink.close()
    assert (tmp_path / "moved" / "a.log").read_bytes() == b"line\n"
    assert sink.take_trouble() == "No such file or directory"
