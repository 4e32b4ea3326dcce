"""After a rotation all that is sealed comes under the newest key, and none of it is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.errors import KeyUnavailable, StoreError
from gateway.keys.keyring import Key, Keyring
from gateway.keys.records import KeyPurpose
from gateway.keys.security_module import SoftwareSecurityModule
from gateway.settings.schema_backup import Sealing
from gateway.store.sqlite import SqliteStore
from gateway.store.store import Operation, PutUpload, Reseal, Sealed, Settle, State
from gateway.telemetry.events import Event
from gateway.transactions import images
from gateway.transactions.resealing import Resealing
from gateway.transactions.uploads import context_of_upload
from tests.support.canaries import PAN, search
from tests.support.stores import Emitted, a_transaction

COUNT = 23
SETTINGS = Sealing(step_rows=4, pause_ms=1)


def ring(*versions: int, active: int) -> Keyring:
    def key(purpose: KeyPurpose, version: int, *, is_active: bool) -> Key:
        material = bytes((version,)) * 32
        return Key(purpose=purpose, version=version, active=is_active, material=material)

    return Keyring(
        [
            *(key(KeyPurpose.STORE_DATA, one, is_active=one == active) for one in versions),
            key(KeyPurpose.CARD_TOKEN, 1, is_active=True),
            key(KeyPurpose.CONTENT, 1, is_active=True),
        ]
    )


@asynccontextmanager
async def a_store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, queue_max=1_000, batch_max=100, emit=Emitted())
    try:
        yield store
    finally:
        await store.aclose()


async def filled(store: SqliteStore, security: SoftwareSecurityModule) -> None:
    for number in range(1, COUNT + 1):
        context = images.context_of(number)
        image = security.seal(b"image of %d, %s" % (number, PAN.encode()), context=context)
        await store.intend(a_transaction(number, image=image))
        answer = security.seal(b"answer to %d" % number, context=context)
        wipe = number % 3 == 0
        await store.commit(Settle(number, State.ANSWERED, "00", "1", answer, 5, wipe))
        bound = context_of_upload("T0000001", 7, f"{number:06d}")
        record = security.seal(b"record %d" % number, context=bound)
        await store.commit(PutUpload("T0000001", 7, f"{number:06d}", 5, record))


async def assert_all_there(store: SqliteStore, security: SoftwareSecurityModule) -> None:
    for number in range(1, COUNT + 1):
        found = await store.transaction(number)
        assert found is not None
        context = images.context_of(number)
        assert security.unseal(found.answer, context=context) == b"answer to %d" % number
        if number % 3 == 0:
            assert found.image == b""
        else:
            assert security.unseal(found.image, context=context).startswith(b"image of %d" % number)
    step = await store.sealed_otherwise(Sealed.UPLOADS, version=99, after_id=0, limit=1_000)
    assert len(step.values) == COUNT
    for value in step.values:
        bound = context_of_upload(value.terminal_id, value.batch, value.stan)
        assert security.unseal(value.value, context=bound) == b"record %d" % int(value.stan)


async def test_everything_comes_under_the_newest_key(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    security = SoftwareSecurityModule(ring(1, active=1))
    emitted = Emitted()
    async with a_store(tmp_path / "s.db") as store:
        await filled(store, security)
        values = 3 * COUNT - COUNT // 3
        assert await store.sealed_under() == {1: values}
        security.take_up(ring(1, 2, active=2))
        job = Resealing(store=store, security=security, settings=lambda: SETTINGS, emit=emitted)
        done = await job.once()
        assert (done.version, done.values, done.unreadable) == (2, values, 0)
        assert await store.sealed_under() == {2: values}
        assert emitted == [(Event.RESEALED, {"version": 2, "values": values})]
        # The old key may go: nothing needs it.
        await assert_all_there(store, SoftwareSecurityModule(ring(2, active=2)))
        # With nothing to do it does nothing, in its next life too.
        before = store.health().operations
        assert (await job.once()).values == 0
        again = Resealing(store=store, security=security, settings=lambda: SETTINGS, emit=emitted)
        assert (await again.once()).values == 0
        assert store.health().operations == before
    assert search("the store", (tmp_path / "s.db").read_bytes()) == []


async def test_a_kill_at_any_commit_loses_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    class Killed(BaseException):
        """The process is no more."""

    class Mortal(SqliteStore):
        left = 0

        async def commit(self, *operations: Operation) -> None:
            if not self.left:
                raise Killed
            self.left -= 1
            await super().commit(*operations)

    security = SoftwareSecurityModule(ring(1, active=1))
    async with a_store(tmp_path / "s.db") as store:
        await filled(store, security)
    security.take_up(ring(1, 2, active=2))
    lives = 0
    while True:
        lives += 1
        store = await Mortal.open(tmp_path / "s.db", queue_max=1_000, batch_max=100, emit=Emitted())
        store.left = 2
        job = Resealing(store=store, security=security, settings=lambda: SETTINGS, emit=Emitted())
        try:
            await job.once()
        except Killed:
            await assert_all_there(store, security)
        else:
            break
        finally:
            await store.aclose()
    assert lives > 5
    async with a_store(tmp_path / "s.db") as whole:
        assert list(await whole.sealed_under()) == [2]
        await assert_all_there(whole, SoftwareSecurityModule(ring(2, active=2)))


async def test_what_was_wiped_or_answered_meanwhile_stays_so(tmp_path: Path) -> None:
    async with a_store(tmp_path / "s.db") as store:
        await store.intend(a_transaction(1, image=b"\x01\x00\x01old"))
        await store.commit(Settle(1, State.ANSWERED, "00", "", b"\x01\x00\x01later", 5, True))
        await store.commit(
            Reseal(Sealed.IMAGES, 1, b"\x01\x00\x01old", b"\x01\x00\x02new"),
            Reseal(Sealed.ANSWERS, 1, b"\x01\x00\x01before", b"\x01\x00\x02new"),
        )
        found = await store.transaction(1)
        assert found is not None
        assert (found.image, found.answer) == (b"", b"\x01\x00\x01later")


async def test_what_does_not_open_is_told_and_left_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    gone = SoftwareSecurityModule(ring(1, active=1))
    security = SoftwareSecurityModule(ring(2, 3, active=3))
    emitted = Emitted()
    async with a_store(tmp_path / "s.db") as store:
        await filled(store, gone)
        job = Resealing(store=store, security=security, settings=lambda: SETTINGS, emit=emitted)
        done = await job.once()
        assert (done.values, done.unreadable) == (0, 3 * COUNT - COUNT // 3)
        assert emitted.names() == [Event.RESEAL_FAILED]
        await assert_all_there(store, gone)


async def test_a_failing_store_or_key_is_told_and_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    class Failing(SoftwareSecurityModule):
        broken = True

        @property
        def sealing_version(self) -> int:
            if self.broken:
                raise KeyUnavailable("the token is gone")
            return super().sealing_version

    security = Failing(ring(1, active=1))
    emitted = Emitted()
    over = trio.Event()

    def emit(event: Event, /, **fields: object) -> None:
        emitted(event, **fields)
        if event is Event.RESEALED:
            over.set()

    async with a_store(tmp_path / "s.db") as store:
        await filled(store, security)
        job = Resealing(store=store, security=security, settings=lambda: SETTINGS, emit=emit)
        async with trio.open_nursery() as nursery:
            await nursery.start(job.run)
            await trio.sleep(40)
            assert emitted.names() == [Event.RESEAL_FAILED]
            security.broken = False
            security.take_up(ring(1, 2, active=2))
            await over.wait()
            nursery.cancel_scope.cancel()
    with pytest.raises(StoreError):
        await store.sealed_under()
