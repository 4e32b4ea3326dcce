"""Rows of the closed and open loops: what a transaction costs, and how long it takes."""

from __future__ import annotations

from gateway.faults import Fault
from loadtest.bench.figures import Figure, Measured
from loadtest.bench.load import Load, Said
from loadtest.bench.work import PLAIN, Bench, Row, took

# Targets, for a machine on which a sketch of the same work takes 81 to 86 us.
PLAIN_CPU_US_MAX, PLAIN_TPS_MIN, TLS_CPU_US_MAX = 130.0, 6_000.0, 200.0
STEADY_P50_MS_MAX, STEADY_P99_MS_MAX = 2.0, 10.0
EACH_PER_CORE_MIN, EACH_RESUMED_PER_CORE_MIN = 350.0, 700.0

TLS = Load(terminals=100, tls=True)
STEADY = Load(terminals=5_000, tls=True, rate=1_000, seconds=12, warmup_s=6, connect_per_s=0)
EACH = Load(terminals=32, tls=True, each_time=True, seconds=6, connect_per_s=200)
EACH_RESUMED = Load(
    terminals=32, tls=True, each_time=True, resume=True, seconds=6, connect_per_s=200
)


async def plain(bench: Bench, found: Measured) -> None:
    """100 terminals that ask again as soon as they are answered."""
    echo = await bench.unit_of()
    said = await bench.of_gateway(PLAIN)
    took(found, "gateway", said)
    found.raw["echo"] = echo.raw
    found.figures += [
        Figure(
            name="CPU a transaction",
            unit="us",
            value=said.cpu_us,
            at_most=PLAIN_CPU_US_MAX,
            echo=echo.cpu_us,
            compare="sketch 81-86, moov unguaranteed 67-102, jPOS 538-766",
        ),
        Figure(
            name="transactions a second",
            unit="tps",
            value=said.tps,
            at_least=PLAIN_TPS_MIN,
            echo=echo.tps,
            compare="sketch 12,000-13,000",
        ),
    ]


async def unkept(bench: Bench, found: Measured) -> None:
    """The same with a store that keeps no transaction: the difference is what durability costs."""
    echo = await bench.unit_of()
    said = await bench.of_gateway(PLAIN, Fault.KEEP_NOTHING)
    took(found, "gateway", said)
    found.figures += [
        Figure(name="CPU a transaction", unit="us", value=said.cpu_us, echo=echo.cpu_us),
        Figure(name="transactions a second", unit="tps", value=said.tps, echo=echo.tps),
    ]


async def mutual_tls(bench: Bench, found: Measured) -> None:
    """100 terminals over mutual TLS that ask again as soon as they are answered."""
    echo = await bench.of_echo(TLS)
    said = await bench.of_gateway(TLS)
    took(found, "gateway", said)
    found.raw["echo"] = echo.raw
    found.figures += [
        Figure(
            name="CPU a transaction",
            unit="us",
            value=said.cpu_us,
            at_most=TLS_CPU_US_MAX,
            echo=echo.cpu_us,
            compare="sketch 138-185",
        ),
        Figure(name="transactions a second", unit="tps", value=said.tps, echo=echo.tps),
    ]


async def steady(bench: Bench, found: Measured) -> None:
    """5,000 terminals over mutual TLS, 1,000 transactions a second, from the intended moment."""
    echo = await bench.of_echo(STEADY)
    said = await bench.of_gateway(STEADY)
    took(found, "gateway", said)
    found.raw["echo"] = echo.raw
    found.figures += [
        Figure(
            name="p50", unit="ms", value=said.p50_ms, at_most=STEADY_P50_MS_MAX, echo=echo.p50_ms
        ),
        Figure(
            name="p99",
            unit="ms",
            value=said.p99_ms,
            at_most=STEADY_P99_MS_MAX,
            echo=echo.p99_ms,
            compare="299 ms before the garbage collector was tuned",
        ),
        Figure(name="CPU a transaction", unit="us", value=said.cpu_us, echo=echo.cpu_us),
    ]


async def each_time(bench: Bench, found: Measured) -> None:
    """Connect, one purchase, hang up: what one processor takes of it, TLS resumed and not."""
    async with bench.stand.echo(tls=True) as echo:
        full_echo = await bench.run(echo, EACH)
        resumed_echo = await bench.run(echo, EACH_RESUMED)
    async with bench.stand.gateway() as gateway:
        full = await bench.run(gateway, EACH)
        resumed = await bench.run(gateway, EACH_RESUMED)
    for name, said in (("full", full), ("resumed", resumed)):
        took(found, name, said)
    found.raw |= {"full_echo": full_echo.raw, "resumed_echo": resumed_echo.raw}
    found.figures += [
        Figure(
            name="full handshakes, a second of CPU",
            unit="tps",
            value=_per_core(full),
            at_least=EACH_PER_CORE_MIN,
            echo=_per_core(full_echo),
            compare="about 2 ms a handshake",
        ),
        Figure(
            name="resumed, a second of CPU",
            unit="tps",
            value=_per_core(resumed),
            at_least=EACH_RESUMED_PER_CORE_MIN,
            echo=_per_core(resumed_echo),
        ),
    ]


def _per_core(said: Said) -> float:
    return 1e6 / said.cpu_us if said.cpu_us else 0.0


ROWS = (
    Row("plain", "100 terminals, plain, closed loop", plain),
    Row("unkept", "the same, nothing kept", unkept),
    Row("mtls", "100 terminals, mutual TLS, closed loop", mutual_tls),
    Row("steady", "5,000 over mutual TLS, 1,000 a second", steady),
    Row("each", "connect, one purchase, hang up; mutual TLS", each_time),
)
