"""A customer who buys without a pause, and notices when the gateway is busy with something else."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.node import RunningNode, purchase

PAUSE_S = 0.01


class Customer:
    """What one terminal met with, on one connection over mutual TLS."""

    def __init__(self, node: RunningNode, stans: Iterator[int]) -> None:
        self.codes: Counter[str] = Counter()
        self.worst_s = 0.0
        self.worst_own_s = 0.0  # less what all involved waited for a processor
        self._node = node
        self._stans = stans
        self._peer = node.connect_tls()
        self._enough = threading.Event()
        self._errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run, name="customer")

    def start(self) -> None:
        self._buy()
        self._thread.start()

    def stop(self) -> None:
        """Raises what the purchases raised."""
        self._enough.set()
        self._thread.join()
        self._peer.close()
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            while not self._enough.wait(PAUSE_S):
                self._buy()
        except Exception as error:
            self._errors.append(error)

    def _waited_s(self) -> float:
        """How long those who have part in a purchase have waited for a processor, ready to run.

        A gateway that keeps itself busy runs, and does not wait: that stays its own. 0 where the
        system does not say.
        """
        gateway, acquirer = self._node.gateway, self._node.acquirer
        assert gateway is not None
        assert acquirer is not None
        threads = [Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}")]
        for process in (gateway, acquirer):
            threads += Path(f"/proc/{process.pid}/task").glob("*")
        waited_ns = 0
        for thread in threads:
            with contextlib.suppress(OSError):  # It has ended, or there is no /proc.
                waited_ns += int((thread / "schedstat").read_text().split()[1])
        return waited_ns / 1e9

    def _buy(self) -> None:
        request = purchase(next(self._stans))
        waited_s, began_s = self._waited_s(), time.monotonic()
        answer = self._peer.ask(request)
        took_s = time.monotonic() - began_s
        self.worst_s = max(self.worst_s, took_s)
        if took_s > self.worst_own_s:
            self.worst_own_s = max(self.worst_own_s, took_s - (self._waited_s() - waited_s))
        self.codes[answer.response_code] += 1


class Street:
    """The customers of one node; no two purchases have the same STAN."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self._stans = itertools.count(1)

    @contextmanager
    def undisturbed(self, what: str, *, worst_s: float = 1.0) -> Iterator[None]:
        """Somebody buys all the while, is always approved, and never waits longer than this.

        What a busy machine makes all wait for a processor is not the gateway's, and not counted.
        """
        customer = Customer(self._node, self._stans)
        customer.start()
        try:
            yield
        finally:
            customer.stop()
        bought = customer.codes.total()
        print(f"beside {what}: {bought} purchases, worst {customer.worst_s * 1000:.0f} ms")
        assert set(customer.codes) == {"00"}
        assert customer.worst_own_s < worst_s
