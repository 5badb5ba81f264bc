"""What people see while segfed works: rich output on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Logs and pipes have no width of their own; a table must not be folded there.
PLAIN_WIDTH = 110


def make_console() -> Console:
    """Standard output: colours and live bars on a terminal, plain text in a pipe or a log file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


class SpeedColumn(ProgressColumn):
    """Steps a second, once some were made."""

    def render(self, task: Task) -> Text:
        """The text of one bar's rate."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="dim")


class Bar:
    """A progress bar with a rate and the time left, which is silent where the output is no terminal."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def show(self, done: int, total: int, text: str) -> None:
        """Set the bar to `done` of `total`, with a text behind it."""
        self._progress.update(self._task, completed=done, total=total, description=text)


@contextmanager
def progress_bar(console: Console, text: str) -> Iterator[Bar]:
    """A bar that vanishes when its block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        SpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(text, total=1))


def plain_duration(seconds: float) -> str:
    """Seconds for people: "8.4 s", "2 min 05 s", "1 h 12 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plain_bytes(count: float) -> str:
    """Bytes for people, in powers of 1000: "18.1 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
