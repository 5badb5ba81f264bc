"""The Flower ServerApp of a federation. The same app serves every engine."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.federation import FederationSettings
from server.records import OnEvent
from server.rounds import Federation
from server.state import ServerState


def make_server_app(
    settings: FederationSettings, run_folder: Path, initial_state: ServerState, on_event: OnEvent
) -> ServerApp:
    """A ServerApp that runs a federation from `initial_state` to its final model.

    Args:
        settings: of the federation.
        run_folder: where states, records and models go; a new one, or the one that `initial_state` was read from.
        initial_state: `server.state.begin(...)` for a new run, `server.state.read_state(...)` to resume one.
        on_event: told what happens, as it happens; see `server.records.Event`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        Federation(grid, settings, run_folder, initial_state, on_event).run()

    return app
