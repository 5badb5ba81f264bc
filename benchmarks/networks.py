"""Section: the networks side by side, and how they grow with the volume."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from benchmarks.contenders import BASELINE, OURS, OURS_HALF, PEERS, TUNED_BASELINE, Contender
from benchmarks.measure import Series, interleaved, spoken, table, times_as_fast
from benchmarks.settings import Settings
from benchmarks.subject import network_deeds
from benchmarks.worker import Worker

VARIANTS = (BASELINE, TUNED_BASELINE, OURS, OURS_HALF)


def measure_networks(settings: Settings) -> dict[str, Any]:
    """Parameters, arithmetic, time, memory and message size of every contender.

    The peers, some of which take half a minute a turn, take their turns with the baseline alone, and fewer of them.
    """
    peers = tuple(peer for peer in PEERS if peer.name in settings.peers)
    rows = _timed_rows(VARIANTS, settings.repeats, settings)
    rows |= {n: r for n, r in _timed_rows((BASELINE, *peers), settings.slow_repeats, settings).items() if n not in rows}
    for contender in (*VARIANTS, *peers):
        row = rows[contender.name]
        row["forward_mb"] = _alone(contender, "forward memory", settings.forward_side, settings)
        row["step_mb"] = _alone(contender, "step memory", settings.step_side, settings)
        with _worker(contender, settings) as worker:
            row["step_tensor_mb"] = worker.ask("step tensors", settings.step_side)
            row |= worker.ask("facts", settings.forward_side)
    return {"forward_side": settings.forward_side, "step_side": settings.step_side, "rows": rows}


def _timed_rows(contenders: Sequence[Contender], repeats: int, settings: Settings) -> dict[str, dict[str, Any]]:
    if len(contenders) < 2:
        return {}
    with _workers(contenders, settings) as workers:
        forward = _timed("forward", workers, settings.forward_side, repeats)
        step = _timed("step", workers, settings.step_side, repeats)
    return {
        name: {
            "forward_seconds": forward[name].seconds,
            "forward_ratio": times_as_fast(forward[BASELINE.name], forward[name]),
            "step_seconds": step[name].seconds,
            "step_ratio": times_as_fast(step[BASELINE.name], step[name]),
        }
        for name in forward
    }


def describe_networks(found: Mapping[str, Any]) -> str:
    """The section in Markdown."""
    plain = found["rows"][BASELINE.name]
    header = ("network", "forward ratio", "step ratio", "forward", "step", "step's tensors", "of plain", "process")
    rows = [
        (
            name,
            f"{row['forward_ratio']:.2f}",
            f"{row['step_ratio']:.2f}",
            spoken(Series(row["forward_seconds"])),
            spoken(Series(row["step_seconds"])),
            f"{row['step_tensor_mb']:.0f} MB",
            f"{row['step_tensor_mb'] / plain['step_tensor_mb']:.2f}",
            f"{row['step_mb']:.0f} MB",
        )
        for name, row in found["rows"].items()
    ]
    return (
        f"Forward at {found['forward_side']}³ and training step (AdamW) at {found['step_side']}³, one volume of four "
        "contrasts, three classes. A ratio of 2 is twice as fast as the plain transcription. Every contender has a "
        "process of its own. The step's tensors are the most that PyTorch's allocator had handed out at once, weights, "
        "gradients and moments included; the process is what a fresh one grows by, code and scratch space of the "
        f"libraries included.\n\n{table(header, rows)}\n\n{_arithmetic(found)}"
    )


def _arithmetic(found: Mapping[str, Any]) -> str:
    ours = found["rows"][OURS.name]
    header = (
        "network",
        "GMAC",
        "of segfed's",
        "parameters",
        "of segfed's",
        "update in fp32",
        "as sent",
        "forward memory",
    )
    rows = [
        (
            name,
            f"{row['multiply_accumulates'] / 1e9:.2f}",
            f"{row['multiply_accumulates'] / ours['multiply_accumulates']:.2f}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['parameters'] / ours['parameters']:.1f}",
            f"{row['update_bytes'] / 1e6:.2f} MB",
            f"{row['message_bytes'] / 1e6:.2f} MB",
            f"{row['forward_mb']:.0f} MB",
        )
        for name, row in found["rows"].items()
    ]
    method = (
        "Multiply-accumulates as PyTorch's FlopCounterMode counts what runs: matrix products, convolutions and both "
        "products of attention; interpolation where it is a matrix product (segfed), not where it is a kernel."
    )
    return f"{method}\n\n{table(header, rows)}"


def measure_growth(settings: Settings) -> dict[str, Any] | None:
    """Forward time and memory of the plain transcription and ours by size; None in a quick run."""
    if not settings.growth_sides:
        return None
    rows = []
    for side in settings.growth_sides:
        with _workers((BASELINE, OURS), settings) as workers:
            seconds = _timed("forward", workers, side, settings.slow_repeats)
        memory = {c.name: _alone(c, "forward memory", side, settings) for c in (BASELINE, OURS)}
        ratio = times_as_fast(seconds[BASELINE.name], seconds[OURS.name])
        rows.append({"side": side, "ratio": ratio, "seconds": {n: s.seconds for n, s in seconds.items()}, "mb": memory})
    return {"rows": rows}


def describe_growth(found: Mapping[str, Any] | None) -> str:
    """The section in Markdown."""
    if found is None:
        return "Not measured: a quick run leaves this out."
    rows = [
        (
            f"{row['side']}³",
            f"{row['ratio']:.2f}",
            *(spoken(Series(row["seconds"][c.name])) for c in (BASELINE, OURS)),
            *(f"{row['mb'][c.name]:.0f} MB" for c in (BASELINE, OURS)),
        )
        for row in found["rows"]
    ]
    return table(("volume", "forward ratio", "plain", "segfed", "plain memory", "segfed memory"), rows)


@contextmanager
def _workers(contenders: Sequence[Contender], settings: Settings) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        yield {c.name: stack.enter_context(_worker(c, settings)) for c in contenders}


def _timed(deed: str, workers: Mapping[str, Worker], side: int, repeats: int) -> dict[str, Series]:
    return interleaved({name: partial(worker.ask, deed, side) for name, worker in workers.items()}, repeats)


def _alone(contender: Contender, deed: str, side: int, settings: Settings) -> Any:
    with _worker(contender, settings) as worker:
        return worker.ask(deed, side)


def _worker(contender: Contender, settings: Settings) -> Worker:
    make = partial(network_deeds, contender, settings.device)
    return Worker(make, product=contender.product, threads=settings.threads)
