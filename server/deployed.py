"""The ServerApp between hospitals. Flower starts it in a process of its own for each run that is submitted.

It finds the coordinator's folder by SEGFED_COORDINATOR and the run by the one setting of the bundle; everything else
lies in the run's folder. A process that is killed leaves the state of its last complete round there, and the next one
goes on from it.
"""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from client.bundle import RUN
from segformer3d.allocator import keep_freed_memory
from segformer3d.errors import ConfigurationError, FederationError, SegfedError
from server.control import open_control
from server.coordinator import COORDINATOR, Coordinator, open_coordinator
from server.progress import Journal
from server.pulling import BESIDE
from server.records import Event
from server.rounds import Federation
from server.run_folder import newest_state, read_settings
from server.state import read_state
from server.trail import TRAIL, Trail

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation to its end, from wherever it was."""
    keep_freed_memory()
    coordinator = open_coordinator(Path(os.environ[COORDINATOR]))
    folder = coordinator.run_folder(str(context.run_config[RUN]))
    settings = read_settings(folder)
    journal = Journal(folder, settings.rounds)
    try:
        newest = newest_state(folder)
        if newest is None:
            raise ConfigurationError(f"{folder} holds no state; submit the run with: segfed server run")
        names = _Names(coordinator)
        trail = Trail(coordinator.folder / TRAIL, folder.name, names.of)

        def on_event(event: Event) -> None:
            trail.event(event)
            journal.note(event)

        Federation(grid, settings, folder, read_state(newest), on_event, names.of, trail.message, BESIDE).run()
    except SegfedError as error:
        journal.close(str(error))
        raise
    journal.close(None)


class _Names:
    """The names that nodes are registered under; asked for again when a node is not known."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._known: dict[int, str] = {}

    def of(self, node: int) -> str | None:
        """The name of a node; None for one that is not registered."""
        if node not in self._known:
            try:
                with open_control(self._coordinator) as control:
                    self._known = {found.node: found.name for found in control.nodes()}
            except FederationError:  # SuperLink is starting again; the site is asked again later
                return None
        return self._known.get(node)
