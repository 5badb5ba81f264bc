"""What `segfed server run|stop` do and print."""

from pathlib import Path

from rich.console import Console

from segformer3d.errors import ConfigurationError
from segformer3d.terminal import make_console
from server.control import open_control
from server.coordinator import Coordinator, open_coordinator
from server.submissions import stop, submit


def run_and_print(folder: str, federation: str | None, resume: str | None) -> None:
    """Begin a run, or go on with one.

    Raises:
        SegfedError: the federation file is not as it must be, or the coordinator does not run.
    """
    if (federation is None) == (resume is None):
        raise ConfigurationError("name a federation file to begin a run, or --resume RUN to go on with one")
    coordinator, console = open_coordinator(Path(folder)), make_console()
    with open_control(coordinator) as control:
        control.nodes()  # before a run folder is made: SuperLink answers
        run = resume or _begin(console, coordinator, Path(federation or ""))
        submit(control, coordinator, run)
    console.print(f"run {run} {'goes on' if resume else 'is submitted'}; its folder is {coordinator.run_folder(run)}")
    console.print(f"Follow it with: segfed server status {folder}")


def _begin(console: Console, coordinator: Coordinator, path: Path) -> str:
    from server.federation import told_of_start  # making a network takes PyTorch
    from server.runs import new_run, read_federation_file

    asked = read_federation_file(path)
    told = None if asked.start is None else told_of_start(asked.start)
    if told is not None:
        console.print(told, soft_wrap=True, highlight=False)
    return new_run(coordinator, asked)


def stop_and_print(folder: str, run: str) -> None:
    """Stop a run after its last complete round.

    Raises:
        SegfedError: it does not go on, or the coordinator does not run.
    """
    coordinator = open_coordinator(Path(folder))
    with open_control(coordinator) as control:
        stop(control, coordinator, run)
    make_console().print(f"run {run} is stopped; go on with: segfed server run --resume {run} --folder {folder}")
