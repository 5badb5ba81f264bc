"""A simulated run: its folder, and what it was asked to do."""

import json
from dataclasses import dataclass
from pathlib import Path

from segformer3d.cases import find_cases
from segformer3d.errors import CheckpointError, DataError
from segformer3d.patients import patient_of
from segformer3d.tasks import Task, task_from_json
from server.federation import FederationSettings
from simulations.settings import SimulationSettings
from simulations.site_folders import FederationFolders

RUN_FILE = "run.json"
SITES, WORK = "sites", "work"
START_FILE = "start.safetensors"  # the model that a run was told to begin with


@dataclass(frozen=True)
class Run:
    """A run folder and what it was asked to do."""

    folder: Path
    name: str
    settings: SimulationSettings
    task: Task
    threads: int

    @property
    def sites(self) -> FederationFolders:
        """Where the sites' data lies."""
        base = self.folder / SITES
        return FederationFolders(
            tuple(base / f"site-{number}" for number in range(1, self.settings.sites + 1)), base / "held-out"
        )

    @property
    def honest(self) -> tuple[Path, ...]:
        """The folders of the sites that are not hostile: those that a model is made for, and judged by."""
        return tuple(site for site in self.sites.sites if site.name not in self.settings.hostile_sites)

    @property
    def federation(self) -> FederationSettings:
        """What the coordinator is told."""
        asked = self.settings
        return FederationSettings(
            self.task,
            rounds=asked.rounds,
            local_epochs=asked.local_epochs,
            seed=asked.seed,
            minimum_sites=asked.needed_sites,
            round_deadline_s=asked.round_deadline,
            prepare_deadline_s=asked.round_deadline,
            again_s=0,  # on one machine the same message fails again
            pace=0,
            training=asked.training,
            privacy=asked.privacy_of(self._fewest_patients() if asked.epsilon is not None else None),
            strategy=asked.strategy,
            exchange=asked.exchange,
        )

    def _fewest_patients(self) -> int:
        """The smallest site's; it is public, since the cases were dealt out here."""
        pattern = self.settings.patient_pattern
        return min(len({patient_of(case, pattern) for case in find_cases(site)}) for site in self.sites.sites)


def read_run(folder: Path) -> Run:
    """The run of a folder.

    Raises:
        DataError: the folder is no run folder.
        CheckpointError: it was made by another version, or is damaged.
    """
    path = folder / RUN_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        settings = SimulationSettings.from_json({**described["settings"], "parallel": described["parallel"]})
        return Run(folder, described["run"], settings, task_from_json(described["task"]), described["threads"])
    except OSError as error:
        raise DataError(f"{folder} is no run folder: {RUN_FILE} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or of another version ({error}); start a new run") from error
