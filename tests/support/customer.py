"""A customer who buys without a pause, and notices when the gateway is busy with something else."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

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

    def _buy(self) -> None:
        request = purchase(next(self._stans))
        since, began_s = self._node.waits(), time.monotonic()
        answer = self._peer.ask(request)
        took_s = time.monotonic() - began_s
        self.worst_s = max(self.worst_s, took_s)
        if took_s > self.worst_own_s:
            self.worst_own_s = max(self.worst_own_s, took_s - self._node.waited_s(since))
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
