"""The rules of an upstream's network messages and of its health."""

from __future__ import annotations

from gateway.settings.draft import Part
from gateway.settings.findings import Findings
from gateway.wire.message import EXPIRY, PAN, PIN_BLOCK, STAN, TRACK_1, TRACK_2, TRACK_3

_CARD_FIELDS = frozenset((PAN, EXPIRY, 34, TRACK_2, TRACK_3, TRACK_1, PIN_BLOCK))
_FIELD_MAX = 128
# Bitmaps and MACs are the codec's and the security module's.
_NOT_SET = frozenset((1, 64, 65, 128))


def check_network(network: Part, findings: Findings) -> None:
    """Report network messages that could not be sent, or would not be answered."""
    if network.flag("prove") and not network.flag("echo"):
        findings.error(
            network.at("prove" if network.has("prove") else "echo"),
            "prove asks each link for an echo before its first request, and echo = false says that"
            " the host answers none",
            "write prove = false too, or echo = true",
        )
    seen: set[int] = set()
    for path, entry in network.texts("fields"):
        number = int(entry.split("=", 1)[0])
        if number > _FIELD_MAX or number in _NOT_SET:
            findings.error(
                path, f"sets field {number}", "name a field from 2 to 127, but not 64, 65"
            )
        elif number == STAN:
            findings.error(path, "sets DE11, which the gateway itself sets", "remove it")
        elif number in _CARD_FIELDS:
            findings.error(path, "sets card data", "no card data stands in a configuration")
        elif number in seen:
            findings.error(path, f"sets field {number} once more", "keep one")
        seen.add(number)


def check_health(health: Part, findings: Findings) -> None:
    """Report bounds of which the lower is above the upper."""
    for low, high, remedy in (
        ("eject_first_s", "eject_max_s", "set eject_max_s to the longest ejection"),
        ("suspect_min_s", "suspect_max_s", "a link is down only after it was suspect for a while"),
    ):
        low_s, high_s = health.number(low), health.number(high)
        if low_s is not None and high_s is not None and high_s < low_s:
            findings.error(
                health.at(high if health.has(high) else low),
                f"{high} ({high_s:g}) is shorter than {low} ({low_s:g})",
                remedy,
            )
