"""What keys decide in the flow: PINs for the upstream that is tried, and who may do nothing new."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from gateway.keys.key_table import KeyTable
from gateway.keys.message_security import PinFormat, PinKey
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey
from gateway.policy.decide import Refused
from gateway.policy.response_codes import Reason
from gateway.settings.schema_keys_use import UpstreamKeys
from gateway.telemetry.events import Event
from gateway.transactions.request import Reply, Request
from gateway.upstreams.zone_keys import KeyMeans, ZoneKeys
from gateway.wire.message import Message, kind_of
from loadtest.zone_crypto import decrypted, encrypted, new_key, pin_block_0, pin_of_block_0
from tests.support.acquirer import CODEC
from tests.support.message_keys import software, stored
from tests.support.rig import DEVICE, PAN, Rig, purchase, repeated, rig, upstream_settings

PIN = "4711"
TRANSLATING = UpstreamKeys(pin="translate")


class Keyed:
    """A rig whose upstreams translate PINs, each under a key of its own."""

    def __init__(
        self, made: Rig, *, without: Sequence[str] = (), keys: UpstreamKeys = TRANSLATING
    ) -> None:
        self.made = made
        self.table = KeyTable(keys_max=100)
        self.zone: dict[str, bytes] = {}
        self.terminal = new_key()
        self.means = KeyMeans(
            table=self.table,
            security=software(),
            keep=self._keep,
            clock=made.clock,
            emit=made.emit,
        )
        for upstream in made.pool:
            upstream.zone = self.zone_of(upstream.name, keys)
            self.zone[upstream.name] = new_key()
            if upstream.name not in without:
                self.table.install(
                    stored(
                        self.zone[upstream.name],
                        KeyPurpose.ZONE_PIN,
                        KeyAlgorithm.TDES_2,
                        owner=f"upstream:{upstream.name}",
                    )
                )

    def zone_of(self, name: str, keys: UpstreamKeys) -> ZoneKeys:
        return ZoneKeys(upstream_settings(name, keys=keys), CODEC, self.means)

    async def _keep(self, rows: Sequence[StoredKey]) -> None:
        self.table.install(*rows)

    def purchase(self, stan: int = 1) -> Message:
        block = encrypted(self.terminal, pin_block_0(PIN, PAN))
        return purchase(stan, {52: block.hex().upper()})

    async def ask(self, message: Message, *, key: bytes = b"", withheld: bool = False) -> Reply:
        made = self.made
        request = Request(
            message,
            kind_of(message),
            DEVICE,
            listener="shops",
            code_set="unionpay",
            wall_ms=made.clock.wall_ms(),
            started_s=trio.current_time(),
        )
        value = key or self.terminal
        source = stored(value, KeyPurpose.PIN, KeyAlgorithm.TDES_2)
        request.pins = [PinKey(key=source, format=PinFormat.ISO_0)]
        if withheld:
            request.withheld = Refused(Reason.NOT_SIGNED_ON, "not signed on")
        return await made.flow.serve(request)

    def pin_at(self, name: str) -> str:
        block = bytes.fromhex(self.made.acquirers[name].received[-1].get(52))
        return pin_of_block_0(decrypted(self.zone[name], block), PAN)


async def test_each_upstream_gets_the_pin_under_its_own_key() -> None:
    async with rig() as made:
        keyed = Keyed(made)
        assert (await keyed.ask(keyed.purchase())).message.response_code == "00"
        assert keyed.pin_at("a") == PIN
        await made.lose("a")
        assert (await keyed.ask(keyed.purchase(2))).message.response_code == "00"
        assert keyed.pin_at("b") == PIN


async def test_an_upstream_without_a_key_is_passed_over_and_the_last_one_told_of() -> None:
    async with rig() as made:
        keyed = Keyed(made, without=["a"])
        assert (await keyed.ask(keyed.purchase())).message.response_code == "00"
        assert made.acquirers["a"].received == []
        assert keyed.pin_at("b") == PIN
    async with rig() as made:
        keyed = Keyed(made, without=["a", "b"])
        assert (await keyed.ask(keyed.purchase())).message.response_code == "A7"
        assert made.store.transactions == {}


async def test_what_is_no_pin_is_refused_before_anything_is_intended() -> None:
    async with rig() as made:
        keyed = Keyed(made)
        assert (await keyed.ask(keyed.purchase(), key=new_key())).message.response_code == "99"
        assert made.store.transactions == {}
        assert not made.acquirers["a"].received
        assert not made.acquirers["b"].received


async def test_no_pin_block_is_kept_of_a_request() -> None:
    async with rig() as made:
        keyed = Keyed(made)
        message = keyed.purchase()
        await keyed.ask(message)
        blocks = [message.get(52), made.acquirers["a"].received[-1].get(52)]
        [kept] = made.store.transactions.values()
        for block in blocks:
            for image in (kept.image, kept.answer):
                assert block.encode() not in image
                assert bytes.fromhex(block) not in image


async def test_who_is_not_signed_on_hears_an_answer_again_and_does_nothing_new() -> None:
    async with rig() as made:
        keyed = Keyed(made)
        first = keyed.purchase()
        assert (await keyed.ask(first)).message.response_code == "00"
        for again in (first, repeated(first)):
            reply = await keyed.ask(again, withheld=True)
            assert reply.message.response_code == "00"
        assert (await keyed.ask(keyed.purchase(2), withheld=True)).message.response_code == "77"
        assert len(made.acquirers["a"].received) == 1


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        (UpstreamKeys(mac="x9.19"), "zone-mac"),
        (UpstreamKeys(pin="pass_through", data_fields=[2]), "zone-data"),
    ],
)
async def test_without_a_key_for_the_acquirers_mac_or_data_the_key_service_failed(
    keys: UpstreamKeys, missing: str
) -> None:
    async with rig() as made:
        keyed = Keyed(made, without=["a", "b"], keys=keys)
        reply = await keyed.ask(purchase(1))
        assert reply.message.response_code == "A7"
        assert made.store.transactions == {}
        event, told = made.events[-1]
        assert event is Event.REQUEST_REFUSED
        assert told["reason"] == "key_service_failed"
        assert str(told["rule"]).startswith(f"upstream:b has no {missing} key: ")
        assert made.acquirers["a"].received == made.acquirers["b"].received == []


async def test_an_upstream_without_a_key_for_its_mac_is_passed_over() -> None:
    async with rig() as made:
        keyed = Keyed(made, without=["a"])
        (first,) = (upstream for upstream in made.pool if upstream.name == "a")
        first.zone = keyed.zone_of("a", UpstreamKeys(mac="x9.19"))
        assert (await keyed.ask(keyed.purchase())).message.response_code == "00"
        assert len(made.acquirers["b"].received) == 1
