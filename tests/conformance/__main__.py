"""`make conformance`: what becomes of each published message and vector; status 1 if one fails."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.conformance.crypto import VECTORS, crypto_outcome, vectors
from tests.conformance.published import RECORDS, outcome, records


def main() -> int:
    """Prints both tables, each with a line of counts, on standard output."""
    results = [messages(), cryptography()]
    return max(results)


def messages() -> int:
    """The messages: each read, and written back, or refused."""
    if not RECORDS.is_file():
        print(f"skipped: {RECORDS.name} is not in ../shared/domain beside this checkout")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [outcome(record, Path(folder)) for record in records()]
    width = max(len(result.record.id) for result in outcomes)
    counts: Counter[str] = Counter()
    for result in outcomes:
        verdict = "ok" if result.as_it_should else "FAILED"
        record = result.record
        print(
            f"{verdict:6}  {record.kind:8}  {record.dialect:21}  {record.id:{width}}  {result.text}"
        )
        counts[f"{record.kind} {verdict}"] += 1
    print(", ".join(f"{counts[key]} {key}" for key in sorted(counts)))
    return 0 if all(result.as_it_should for result in outcomes) else 1


def cryptography() -> int:
    """The vectors of MACs, PINs, keys and ciphers, each through our own interfaces."""
    if not VECTORS.is_file():
        print(f"skipped: {VECTORS.name} is not in ../shared/domain beside this checkout")
        return 0
    everything = {vector["id"]: vector for vector in vectors()}
    outcomes = [crypto_outcome(vector, everything) for vector in everything.values()]
    width = max(len(result.id) for result in outcomes)
    counts: Counter[str] = Counter()
    for result in outcomes:
        verdict = ("ok" if result.in_scope else "-") if result.as_it_should else "FAILED"
        print(f"{verdict:6}  {'vector':8}  {result.id:{width}}  {result.text}")
        counts["out of scope" if verdict == "-" else f"vectors {verdict}"] += 1
    print(", ".join(f"{counts[key]} {key}" for key in sorted(counts)))
    return 0 if all(result.as_it_should for result in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
