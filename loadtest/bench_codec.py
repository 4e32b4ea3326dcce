"""What a purchase of 16 fields costs to read and to write: by pyiso8583, and compiled."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect, shipped_dialects
from gateway.wire.message import Message

_ROUNDS = 9
# What is promised where pyiso8583 takes 37 us to read and 34 us to write; elsewhere in proportion.
READ_RATIO_MIN, WRITE_RATIO_MIN = 37 / 8, 34 / 5
_MEASURED = ("iso87_ascii", "iso87_ascii_binbitmap", "iso87_bcd", "iso87_ebcdic", "visa_like")

_PAN = "4761739001010010"
_PURCHASE = {
    2: _PAN,
    3: "000000",
    4: "000000001000",
    7: "1121203354",
    11: "000001",
    12: "203354",
    13: "1121",
    14: "2912",
    22: "051",
    24: "100",
    25: "00",
    35: _PAN + "=29122011143804400000",
    37: "000000000001",
    41: "T0000001",
    42: "MERCHANT0000001",
    49: "840",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Microseconds of the processor, the best of some rounds."""

    dialect: str
    reference_decode_us: float
    decode_us: float
    reference_encode_us: float
    encode_us: float  # with three fields changed, as on the way to an acquirer

    @property
    def decode_ratio(self) -> float:
        return self.reference_decode_us / self.decode_us

    @property
    def encode_ratio(self) -> float:
        return self.reference_encode_us / self.encode_us


def measure(dialect: Dialect, *, calls: int) -> Figures:
    """Both ways through the codec, each timed over `calls` calls."""
    codec = Codec(dialect)
    message = _purchase(dialect)
    body = codec.encode(message)
    codec.decode(body)
    changes = {11: "000002", 41: "T0000002", 37: "000000000002"}

    def changed(encode: Callable[[Message], bytes]) -> Callable[[], object]:
        return lambda: encode(message.changed(changes))

    return Figures(
        dialect.name,
        _best_us(lambda: codec.reference_decode(body), calls),
        _best_us(lambda: codec.decode(body), calls),
        _best_us(changed(codec.reference_encode), calls),
        _best_us(changed(codec.encode), calls),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; 0, or 1 where compiled is not as much faster as is promised."""
    parser = argparse.ArgumentParser(prog="loadtest.bench_codec", description=__doc__)
    parser.add_argument("--calls", type=int, default=5_000, help="calls in each round")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    dialects = shipped_dialects()
    figures = [measure(dialects[name], calls=chosen.calls) for name in _MEASURED]
    if chosen.json:
        print(json.dumps([asdict(each) for each in figures], indent=2))
    else:
        print(f"{'':22} {'decode, us':>26}   {'encode after 3 changes, us':>28}")
        for each in figures:
            print(
                f"{each.dialect:22} {each.reference_decode_us:8.1f} -> {each.decode_us:5.2f}"
                f" ({each.decode_ratio:4.1f} x)   {each.reference_encode_us:10.1f} ->"
                f" {each.encode_us:5.2f} ({each.encode_ratio:4.1f} x)"
            )
    first = figures[0]
    kept = first.decode_ratio >= READ_RATIO_MIN and first.encode_ratio >= WRITE_RATIO_MIN
    return 0 if kept else 1


def _purchase(dialect: Dialect) -> Message:
    """The purchase with its values in the forms that the dialect has."""
    fields = {}
    for number, value in _PURCHASE.items():
        keys = dialect.spec[str(number)]
        packed = value.replace("=", "D") if keys["data_enc"] == "b" else value
        fields[number] = packed if keys["len_type"] else packed.rjust(keys["max_len"], "0")
    return Message("0200", fields)


def _best_us(call: Callable[[], object], calls: int) -> float:
    """Microseconds of one call in the best round: all that others do to the machine only adds."""
    rounds = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(_ROUNDS):
            started = time.process_time()
            for _ in range(calls):
                call()
            rounds.append((time.process_time() - started) / calls * 1e6)
    finally:
        gc.enable()
    return min(rounds)


if __name__ == "__main__":
    sys.exit(main())
