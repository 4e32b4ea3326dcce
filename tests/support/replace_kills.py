"""Kills a daemon while a device is replaced, and holds the ledgers against before and after."""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from gateway.errors import OperatorError
from tests.support.device_node import DeviceNode, device_node, settlement, void_of
from tests.support.node import purchase

SPREAD_S = 0.03  # the request, the audit log's fsync, the store's, and some more


def kill_during_replace(
    node: DeviceNode, old: str, new: str, *, keep_ids: bool, delay_s: float
) -> str:
    """Replace `old` by `new`, and kill the daemon so long after it was asked to; returns "before"
    or "after", by what is on disk. Whatever it is, asked for again it is done, and B may void."""
    node.enrol(old, new)
    first = node.connect_tls(old)
    sold, kept = purchase(1, old), purchase(2, old)
    assert [first.ask(one).response_code for one in (sold, kept)] == ["00", "00"]
    rows = {one: node.admin("show", terminal_id=one) for one in (old, new)}

    def ask() -> None:
        try:
            node.admin("replace", terminal_id=old, new_id=new, keep_ids=keep_ids)
        except OperatorError:
            return  # It was killed over it.

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(delay_s)
    node.kill()
    asking.join(20)
    node.start_patiently()
    found = {one: node.admin("show", terminal_id=one) for one in (old, new)}
    what = _said_by(rows, found, old, new, keep_ids=keep_ids)
    batches = node.admin("open", terminal_id=old)["batch"]
    heir = node.admin("open", terminal_id=new)["batch"]
    if what == "before":
        assert (batches["debits"], heir) in ((2, None), (2, _empty(heir))), (batches, heir)
    elif keep_ids:
        assert batches is None, batches
        assert (heir["debits"], heir["carries"]) == (2, [f"{old}/1"]), heir
    else:
        assert batches["debits"] == 2, batches
    again = node.admin("replace", terminal_id=old, new_id=new, keep_ids=keep_ids)
    assert again["again"] == (what == "after"), again
    serves = new if keep_ids else old
    assert again["serves_as"] == serves
    second = node.connect_tls(new)
    assert second.ask(void_of(sold, 1, serves)).response_code == "00"
    assert second.ask(settlement(2, serves)).get(76) == f"{1:010d}"
    return what


def _empty(batch: dict[str, object] | None) -> dict[str, object] | None:
    return batch if batch is not None and not batch["debits"] and not batch["carries"] else None


def _said_by(
    rows: dict[str, dict[str, object]],
    found: dict[str, dict[str, object]],
    old: str,
    new: str,
    *,
    keep_ids: bool,
) -> str:
    """Whether both devices are as before or as after; anything between is a broken promise."""
    names = ("state", "activation", "certificate_sha256", "serial", "keys_of", "inherits")
    if all(found[one][name] == rows[one][name] for one in rows for name in names):
        return "before"
    serving, frozen = (new, old) if keep_ids else (old, new)
    assert (found[serving]["state"], found[frozen]["state"]) == ("active", "replaced"), found
    assert found[serving]["inherits"] == f"{old}/1", found
    assert found[serving]["certificate_sha256"] == rows[new]["certificate_sha256"], found
    assert found[serving]["activation"] == (1 if keep_ids else 2), found
    return "after"


def run(node: DeviceNode, points: int, *, seed: int) -> Counter[str]:
    """Kill it at so many random points; how often it was before, and how often after."""
    dice = random.Random(seed)
    counts: Counter[str] = Counter()
    for point in range(points):
        delay_s = dice.uniform(0.0, SPREAD_S)
        counts[
            kill_during_replace(
                node,
                f"S{point:06d}A",
                f"S{point:06d}B",
                keep_ids=point % 2 == 1,
                delay_s=delay_s,
            )
        ] += 1
    return counts


def main() -> None:
    points = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    with (
        tempfile.TemporaryDirectory(prefix="gw") as folder,
        device_node(Path(folder) / "node") as node,
    ):
        node.switch("checks_originals=1")
        counts = run(node, points, seed=seed)
    print(f"seed {seed}: killed {points} times, {counts['before']} before, {counts['after']} after")


if __name__ == "__main__":
    main()
