"""The audit log: order, durability, masks, rotation, what a killed writer leaves, and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from gateway.telemetry.audit import AuditLog, opened, patiently
from gateway.telemetry.audit_chain import DAMAGED, GENESIS, PRUNED, TORN, Head
from gateway.telemetry.audit_files import HEAD_FILE, AuditFailed, chain_files
from gateway.telemetry.audit_reader import records, verify
from gateway.telemetry.events import Event
from tests.support.audit_logs import ANNA, Events, audit_log

ROOT = Path(__file__).parents[3]


async def filled(folder: Path, count: int = 5, **changes: int) -> Head:
    async with opened(audit_log(folder, **changes)) as log:
        for number in range(count):
            await log.record("terminals.suspend", who=ANNA, subject=f"T{number:07d}")
        return log.head


async def test_a_record_says_who_what_where_and_what_became_of_it(tmp_path: Path) -> None:
    async with opened(audit_log(tmp_path / "audit")) as log:
        first = await log.record(
            "terminals.suspend",
            who=ANNA,
            subject="T0000001",
            old={"state": "active"},
            new={"state": "suspended", "reason": "being repaired"},
        )
        second = await log.record("terminals.resume", who=ANNA, outcome="refused: no", refers=first)
    found = list(records(tmp_path / "audit"))
    assert [record["seq"] for record in found] == [first, second] == [1, 2]
    assert found[0]["previous"] == GENESIS
    assert found[1]["previous"] == found[0]["hash"]
    shown = {key: found[0][key] for key in ("who", "uid", "pid", "origin", "subject", "old")}
    assert shown == {
        "who": "anna",
        "uid": 1001,
        "pid": 77,
        "origin": "socket",
        "subject": "T0000001",
        "old": {"state": "active"},
    }
    assert (found[1]["outcome"], found[1]["refers"]) == ("refused: no", 1)
    assert verify(tmp_path / "audit").ok


async def test_card_numbers_and_secrets_never_stand_in_it(tmp_path: Path) -> None:
    pan = "4111111111111111"
    async with opened(audit_log(tmp_path)) as log:
        await log.record(
            f"card {pan}"[:4],
            who=ANNA,
            subject=f"card {pan} in a text that is much longer than what is safe: " + "x" * 80,
            old=f"paid with {pan}",
            new={"reason": pan, "pin": "1234", "raw": b"1234", "deep": [{"track": pan}]},
            outcome=f"failed: {pan}",
        )
    content = chain_files(tmp_path)[0].read_text()
    assert pan not in content
    assert '1234"' not in content
    assert "411111******1111" in content
    assert verify(tmp_path).ok


async def test_values_of_any_kind_are_kept(tmp_path: Path) -> None:
    async with opened(audit_log(tmp_path)) as log:
        await log.record("x", who=ANNA, old=float("nan"), new={"a": "\ud800", "b": 1 << 80})
        await log.record("x", who=ANNA, old=[1, 2.5, None], new=True)
    assert verify(tmp_path).ok
    assert list(records(tmp_path))[1]["old"] == [1, 2.5, None]


async def test_records_that_come_together_keep_their_order(tmp_path: Path) -> None:
    async with opened(audit_log(tmp_path)) as log, trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(lambda n: log.record("x", who=ANNA, subject=str(n)), number)
    assert sorted(int(record["subject"]) for record in records(tmp_path)) == list(range(60))
    assert verify(tmp_path).records == 60


async def test_a_cancelled_writer_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with opened(audit_log(tmp_path)) as log, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            await log.record("x", who=ANNA)
        nursery.start_soon(lambda: log.record("y", who=ANNA))
    assert "y" in [record["action"] for record in records(tmp_path)]
    assert verify(tmp_path).ok


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    log = audit_log(tmp_path, waiting_max=2)
    refused = 0

    async def one() -> None:
        nonlocal refused
        try:
            await log.record("x", who=ANNA)
        except AuditFailed:
            refused += 1

    async with opened(log), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert refused > 0
    assert verify(tmp_path).records == 20 - refused


async def test_the_chain_goes_on_over_restarts_and_files(tmp_path: Path) -> None:
    for _ in range(3):
        await filled(tmp_path, 4, file_bytes_max=900)
    files = chain_files(tmp_path)
    assert len(files) > 3
    verdict = verify(tmp_path)
    assert (verdict.ok, verdict.records, verdict.files) == (True, 12, len(files))
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


async def test_the_oldest_file_goes_and_the_chain_says_so(tmp_path: Path) -> None:
    await filled(tmp_path, 20, file_bytes_max=900, files_kept=3)
    assert len(chain_files(tmp_path)) == 3
    found = list(records(tmp_path))
    assert found[0]["seq"] > 1
    assert PRUNED in [record["action"] for record in found]
    assert verify(tmp_path).ok
    chain_files(tmp_path)[0].unlink()
    assert "no record says that their time was over" in str(verify(tmp_path).problems[0])


async def test_a_torn_line_is_marked_at_the_next_start(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    file = chain_files(tmp_path)[0]
    with file.open("ab") as opened_file:
        opened_file.write(b'{"action":"termi')
    before = verify(tmp_path)
    assert before.ok
    assert "not whole" in str(before.remarks[0])
    await filled(tmp_path, 1)
    verdict = verify(tmp_path)
    assert (verdict.ok, verdict.records, verdict.remarks) == (True, 5, [])
    assert [record["action"] for record in records(tmp_path)].count(TORN) == 1
    file.write_bytes(file.read_bytes().replace(b'{"action":"termi\n', b'{"action":"termj\n'))
    assert not verify(tmp_path).ok


async def test_a_whole_line_without_its_end_is_a_record(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    file, head = chain_files(tmp_path)[0], tmp_path / HEAD_FILE
    second = list(records(tmp_path))[1]
    head.write_text(json.dumps({"hash": second["hash"], "seq": 2}, separators=(",", ":")) + "\n")
    file.write_bytes(file.read_bytes()[:-1])  # killed between the line and its end
    assert verify(tmp_path).ok
    await filled(tmp_path, 1)
    verdict = verify(tmp_path)
    assert (verdict.ok, verdict.records, verdict.remarks) == (True, 4, [])


async def test_a_tail_that_was_cut_off_is_noticed_and_stays_noticed(tmp_path: Path) -> None:
    await filled(tmp_path, 5)
    file = chain_files(tmp_path)[0]
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    assert "4 to 5 are missing from the end" in str(verify(tmp_path).problems[0])
    events = Events()
    async with opened(audit_log(tmp_path, events)) as log:
        await log.record("x", who=ANNA)
    assert Event.AUDIT_DAMAGED in events.names()
    assert list(records(tmp_path))[3]["action"] == DAMAGED
    assert "4 to 5 are missing" in str(verify(tmp_path).remarks[0])


async def test_a_chain_made_up_anew_is_found_with_a_head_kept_elsewhere(tmp_path: Path) -> None:
    kept = await filled(tmp_path / "real", 5)
    await filled(tmp_path / "forged", 6)
    assert verify(tmp_path / "real", anchor=kept).ok
    forged = verify(tmp_path / "forged", anchor=Head(kept.seq, "f" * 64))
    assert "the chain was rewritten" in str(forged.problems[0])
    assert not verify(tmp_path / "real", anchor=Head(9, kept.hash)).ok


async def test_only_one_process_writes_it(tmp_path: Path) -> None:
    async with opened(audit_log(tmp_path)):
        with pytest.raises(AuditFailed, match="another process"):
            await audit_log(tmp_path).open()
    await filled(tmp_path, 1)


async def test_what_cannot_be_written_is_not_there_and_the_next_one_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events()
    async with opened(audit_log(tmp_path, events)) as log:
        await log.record("a", who=ANNA)
        real = os.fsync

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(AuditFailed, match="No space left"):
            await log.record("b", who=ANNA)
        monkeypatch.setattr(os, "fsync", real)
        await log.record("c", who=ANNA)
    assert [record["action"] for record in records(tmp_path)] == ["a", "c"]
    assert verify(tmp_path).ok
    assert events.names()[-3:] == [
        Event.AUDIT_FAILED,
        Event.AUDIT_RECOVERED,
        Event.AUDIT_HEAD,
    ]


async def test_a_start_on_a_full_disk_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    await filled(tmp_path, 3)
    events = Events()
    real = os.open
    full_until_s = trio.current_time() + 10

    def full(*args: Any, **how: Any) -> int:
        if trio.current_time() < full_until_s:
            raise OSError(28, "No space left on device")
        return real(*args, **how)

    log = audit_log(tmp_path, events)
    monkeypatch.setattr(log._writer, "_take_lock", lambda: full("/dev/null", os.O_RDONLY))
    writer_open = log._writer.open

    async def attempt() -> None:
        await trio.lowlevel.checkpoint()
        writer_open()

    await patiently(attempt, log.tell_full)
    assert 10 <= trio.current_time() < 12
    assert events.names() == [Event.AUDIT_FAILED]  # once


WRITER = """
import sys, trio
from pathlib import Path
from tests.support.audit_logs import ANNA, audit_log

async def main():
    log = audit_log(Path(sys.argv[1]), file_bytes_max=4000, files_kept=1000)
    await log.open()
    number = 0
    while True:
        number += 1
        print(await log.record("x", who=ANNA, subject=str(number), new="y" * 300), flush=True)

trio.run(main)
"""


def test_a_killed_writer_loses_nothing_it_has_confirmed(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        confirmed = 0
        for _ in range(40):
            confirmed = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split(b"\n")[:-1]
        process.stdout.close()
        process.wait()
        confirmed = max([confirmed, *map(int, rest)])
        verdict = verify(tmp_path)
        assert verdict.ok, verdict.problems
        assert verdict.last is not None
        assert verdict.last["seq"] >= confirmed


async def test_an_empty_folder_is_an_empty_log(tmp_path: Path) -> None:
    assert verify(tmp_path / "nothing").ok
    async with opened(audit_log(tmp_path)) as log:
        assert isinstance(log, AuditLog)
    verdict = verify(tmp_path)
    assert (verdict.ok, verdict.records) == (True, 0)
