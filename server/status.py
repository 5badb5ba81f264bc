"""`segfed server status`: the coordinator's processes, its sites and its runs, now."""

import shutil
import time
from datetime import datetime
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from segformer3d.errors import FederationError
from segformer3d.health import is_serving
from segformer3d.terminal import make_console, plain_bytes, plain_duration
from server.control import Node, open_control
from server.coordinator import Coordinator, open_coordinator, site_keys
from server.run_folder import DONE, SUBMITTED_FILE, Progress, read_outcome, read_progress
from server.running import EXECUTOR, GATE, SUPERLINK, running_now

SHOWN_RUNS = 5
LOOK_S = 1.0
LEAST_SPACE = 256 * 2**20  # bytes; a round's state of the published model takes some 40 MB


def status_and_print(folder: str, watch: bool) -> None:
    """Show how things are, once or until Ctrl-C.

    Raises:
        SegfedError: there is no coordinator in the folder.
    """
    coordinator, console = open_coordinator(Path(folder)), make_console()
    if not watch:
        console.print(_picture(coordinator))
        return
    with Live(_picture(coordinator), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(LOOK_S)
            live.update(_picture(coordinator), refresh=True)


def _picture(coordinator: Coordinator) -> Group:
    try:
        with open_control(coordinator) as control:
            nodes, note = control.nodes(), f"coordinator {coordinator.address} is up"
    except FederationError as error:
        nodes, note = (), str(error)
    note = "\n".join([note, *_parts(coordinator), *_disk(coordinator)])
    runs = sorted((f.parent for f in coordinator.runs.glob(f"*/{SUBMITTED_FILE}")), key=lambda f: f.name, reverse=True)
    return Group(note, "", _sites(coordinator, nodes), *(_run(folder) for folder in runs[:SHOWN_RUNS]))


def _parts(coordinator: Coordinator) -> list[str]:
    """Which of the coordinator's programs run, by their health; nothing when it does not run at all."""
    running, again = running_now(coordinator), f"is being started again; see {coordinator.logs}"
    if running is None:
        return []
    parts = (SUPERLINK, EXECUTOR, GATE)
    return [f"  {part}: {'runs' if is_serving(running.health, part) else f'{again}/{part}.log'}" for part in parts]


def _disk(coordinator: Coordinator) -> list[str]:
    free = shutil.disk_usage(coordinator.runs).free
    return [f"  the disk is full: {plain_bytes(free)} free for {coordinator.runs}"] if free < LEAST_SPACE else []


def _sites(coordinator: Coordinator, nodes: tuple[Node, ...]) -> Table:
    table = Table("site", "connected", "last change", box=None, pad_edge=False)
    known = {node.name: node for node in nodes}
    for name in site_keys(coordinator):
        node = known.get(name)
        online = "yes" if node and node.online else "no" if node else "unknown"
        table.add_row(name, online, _local(node.last_seen) if node else "-")
    return table


def _run(folder: Path) -> Group:
    progress, (over, reason) = read_progress(folder), read_outcome(folder)
    table = Table("site", "now", box=None, pad_edge=False)
    for site, deed in (progress.sites if progress else {}).items():
        table.add_row(Text(site), Text(deed))
    return Group(Text(f"\nrun {folder.name}: {_state(progress, over, reason)}"), *([table] if table.row_count else []))


def _state(progress: Progress | None, over: bool, reason: str | None) -> str:
    if over:
        return f"stopped, {reason}" if reason else "complete"
    if progress is None:
        return "submitted"
    if progress.phase == DONE:
        return "closing"
    if not progress.is_alive():
        return f"its program ended in round {progress.round}, and is started again; see logs/executor.log if it goes on"
    spent = plain_duration(time.time() - progress.since)
    text = f"{progress.phase}, round {progress.round} of {progress.rounds}, for {spent}"
    if progress.round_seconds:
        mean = sum(progress.round_seconds) / len(progress.round_seconds)
        text += f", about {plain_duration((progress.rounds - progress.round + 1) * mean)} left"
    return f"{text}; {plain_bytes(progress.bytes_down)} down, {plain_bytes(progress.bytes_up)} up"


def _local(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}" if moment else "never"
