"""Ranges of BINs, cut into pieces that lie beside each other."""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Sequence

from gateway.policy.blocklists import Bins, Entries

NESTED_MAX = 64  # ranges over one number


def cut(ranges: Sequence[tuple[int, int]], entries: Entries) -> tuple[Bins, int | None]:
    """The pieces of ranges (both ends of each belong to it), and which range is one too many.

    From left to right, with those that are open in order of width: the narrowest decides, and the
    wider ones follow it where its entry does not hold for ever. Where more than NESTED_MAX lie over
    each other the index of the one that begins there is said, and the pieces end.
    """
    cuts = sorted(
        [(first, 1, index) for index, (first, _) in enumerate(ranges)]
        + [(last + 1, 0, index) for index, (_, last) in enumerate(ranges)]
    )
    firsts: list[int] = []
    narrowest = array("i")
    following: dict[int, tuple[int, ...]] = {}
    open_now: list[tuple[int, int]] = []  # (width, index)
    one_too_many = None
    for number, (at, begins, index) in enumerate(cuts):
        width = ranges[index][1] - ranges[index][0]
        if not begins:
            open_now.remove((width, index))
        else:
            insort(open_now, (width, index))
            if len(open_now) > NESTED_MAX:
                one_too_many = index
                break
        if number + 1 < len(cuts) and cuts[number + 1][0] == at:
            continue
        if open_now and not entries.is_for_ever(open_now[0][1]):
            following[len(firsts)] = tuple(index for _, index in open_now[1:])
        firsts.append(at)
        narrowest.append(open_now[0][1] if open_now else -1)
    return Bins(firsts, narrowest, following, entries), one_too_many
