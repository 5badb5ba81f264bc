"""`segfed ledger show|verify|plan`: what a site's patients have spent, whether the record is whole, what is left."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.privacy.accounting import MOST_ROUNDS, Event, calibrate, rounds_that_fit, spent
from client.privacy.ledger import LEDGER, read_ledger
from client.privacy.ledger_file import Found
from client.privacy.ledger_lines import Contents, Spend, merged, rounded_up
from client.privacy.settings import MOST_DELTA, PrivacySettings
from client.site_file import SITE_FILE, read_site_file
from segformer3d.errors import ConfigurationError
from segformer3d.terminal import make_console

MULTIPLIERS = (0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
ROUNDS = (10, 20, 50, 100)
_UNFINISHED = (
    "behind them stands a line that a crash left unfinished; its training never started, and the site's next private "
    "run cuts it off"
)
_BEHIND = "the .head beside it is one line behind, as a crash leaves it; the site's next private run moves it"


def show_and_print(ledger: str, delta: float | None) -> None:
    """Print what each run was charged with, and what all of them have cost every patient.

    Args:
        ledger: the file, or the folder of a site.
        delta: of the epsilons; None for 1e-5.

    Raises:
        SegfedError: there is no ledger, it is damaged, or delta is outside (0, 1).
    """
    delta, path, console = _checked_delta(delta), _path(ledger), make_console()
    contents = read_ledger(path).contents
    opened, last = _minute(contents.opened), _minute(contents.time)
    _tell(console, f"privacy ledger {path}: opened {opened}, last line {last} (all times are UTC)")
    if not contents.spends:
        _tell(console, "nothing was charged yet: epsilon 0")
        return
    console.print()
    console.print(_runs(contents, delta))
    console.print()
    total = rounded_up(contents.spent(delta))
    _tell(console, f"all runs together: every patient of this ledger has spent epsilon {total} at delta {delta:g}")
    _tell(console, "This is what counts against a limit. The table tells what each run alone would have cost.")


def verify_and_print(ledger: str) -> None:
    """Check a ledger from its first line to its last, and against its head.

    Args:
        ledger: the file, or the folder of a site.

    Raises:
        SegfedError: there is no ledger, or it is damaged.
    """
    found, console = read_ledger(_path(ledger)), make_console()
    for text in _verdict(found):
        _tell(console, text)


def plan_and_print(
    ledger: str,
    limit: float,
    delta: float | None,
    sampling_rate: float | None,
    local_steps: int | None,
    noise: float | None,
) -> None:
    """Print how many rounds fit in what is left under a limit, and the noise that some numbers of rounds need.

    Args:
        ledger: the file, or the folder of a site.
        limit: the epsilon that the patients may come to over all runs, above 0.
        delta: of the limit, in (0, 1); None for 1e-5.
        sampling_rate, local_steps: of the planned rounds; None for what a federation file has by default.
        noise: noise multiplier of the planned rounds; None for a table of several.

    Raises:
        SegfedError: there is no ledger, it is damaged, or a value is outside its range.
    """
    if not 0 < limit < math.inf:
        raise ConfigurationError(f"the limit must be an epsilon above 0, got {limit:g}; for example 8")
    delta, console = _checked_delta(delta), make_console()
    rate = PrivacySettings.sampling_rate if sampling_rate is None else sampling_rate
    steps = PrivacySettings.local_steps if local_steps is None else local_steps
    tried = [Event(rate, multiplier, steps) for multiplier in (MULTIPLIERS if noise is None else (noise,))]
    contents = read_ledger(_path(ledger)).contents
    used = contents.spent(delta)
    _tell(console, f"spent so far: epsilon {rounded_up(used)} of {limit:g} at delta {delta:g}")
    if used >= limit:
        _tell(console, "nothing is left: these patients can take part in no further private run under this limit")
        return
    _tell(console, f"what is left allows, at {steps} steps a round and a sampling rate of {rate:g}:")
    console.print()
    console.print(_fitting(tried, limit, delta, contents.events))
    console.print()
    console.print(_needed(rate, steps, limit, delta, contents.events))
    console.print()
    _tell(console, "The noise multiplier is the noise's standard deviation over the clipping norm: more noise,")
    _tell(console, "more rounds, a less exact model. Charging a run is still what decides; a plan reserves nothing.")


def _runs(contents: Contents, delta: float) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("run", "charged", "rounds", "training", "replies", "epsilon"):
        table.add_column(name, overflow="fold", no_wrap=name == "training")
    for run in dict.fromkeys(spend.run for spend in contents.spends):
        spends = [spend for spend in contents.spends if spend.run == run]
        events = merged([spend.event for spend in spends])
        table.add_row(
            Text(run),
            _period(_minute(spends[0].time), _minute(spends[-1].time)),
            _rounds(spends),
            "\n".join(_event(event) for event in events),
            str(sum(release.run == run for release in contents.releases)),
            rounded_up(spent(events, delta)),
        )
    return table


def _fitting(tried: Sequence[Event], limit: float, delta: float, before: Sequence[Event]) -> Table:
    table = Table("noise multiplier", "rounds that fit", box=None, pad_edge=False)
    for event in tried:
        rate, multiplier, steps = event.sampling_rate, event.noise_multiplier, event.steps
        rounds = rounds_that_fit(limit, delta, rate, multiplier, steps, before=before)
        table.add_row(f"{multiplier:g}", f"{rounds} or more" if rounds >= MOST_ROUNDS else str(rounds))
    return table


def _needed(rate: float, steps: int, limit: float, delta: float, before: Sequence[Event]) -> Table:
    table = Table("rounds", "noise multiplier needed", box=None, pad_edge=False)
    for rounds in ROUNDS:
        table.add_row(str(rounds), _least_noise(rate, rounds * steps, limit, delta, before))
    return table


def _least_noise(rate: float, steps: int, limit: float, delta: float, before: Sequence[Event]) -> str:
    try:
        return f"{calibrate(limit, delta, rate, steps, before=before):.4g}"
    except ConfigurationError:  # so little is left that no noise is enough
        return "none is enough"


def _verdict(found: Found) -> list[str]:
    contents = found.contents
    texts = [f"{contents.lines} lines hang together; the digest of the last is {contents.digest}"]
    if found.unfinished:
        texts.append(_UNFINISHED)
    if found.behind:
        texts.append(_BEHIND)
    return texts


def _rounds(spends: Sequence[Spend]) -> str:
    """The rounds that were charged: "1-3, 5"; and how many charges, where a round was charged again."""
    numbers = sorted({spend.round for spend in spends})
    groups = [
        [number for _, number in group] for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    text = ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
    again = len(spends) - len(numbers)
    return f"{text} (+{again} again)" if again else text


def _event(event: Event) -> str:
    return f"{event.steps} steps, noise {event.noise_multiplier:.4g}, rate {event.sampling_rate:.4g}"


def _period(first: str, last: str) -> str:
    return first if first == last else f"{first}\nto {last}"


def _path(ledger: str) -> Path:
    path = Path(ledger)
    if (path / SITE_FILE).is_file():
        return read_site_file(path).site.ledger_file
    return path / LEDGER if path.is_dir() else path


def _checked_delta(delta: float | None) -> float:
    if delta is None:
        return MOST_DELTA
    if not 0 < delta < 1:
        raise ConfigurationError(f"delta must be in (0, 1), got {delta:g}; for example 1e-5")
    return delta


def _minute(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def _tell(console: Console, text: str) -> None:
    """One line, whatever brackets a name in it has."""
    console.print(Text(text), soft_wrap=True)
