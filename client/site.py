"""The settings of one site: where its data lies, where it may write, and what it computes on."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from client.limits import SiteLimits
from client.names import SITE_NAME
from segformer3d.errors import ConfigurationError
from segformer3d.patients import check_pattern

if TYPE_CHECKING:
    import torch

MOST_THREADS, MOST_WORKERS, MOST_PATIENTS = 1024, 256, 10_000_000
LEDGER = "ledger.jsonl"
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class SiteSettings:
    """One site, as its operator set it up. Nothing of this but the name ever travels.

    Attributes:
        name: what the coordinator sees: 1 to 40 letters, digits, - and _; no two sites of a federation share one.
        data: the dataset folder.
        work: the folder for the cache, the optimizer's states and the log.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        threads: threads of one computation on the CPU, 1 to 1024; None leaves PyTorch's choice.
        workers: processes that read cases and cut patches, 0 to 256; 0 does it in the training process.
        limits: what it insists on, whatever the coordinator asks.
        ledger: the file that holds what private runs have cost its patients; None keeps it in the work folder.
        patients: a number of patients that the site publishes, no larger than it has: private sums are divided by it
            and updates weighted; None takes the smaller one that the coordinator asks for.
        patient_pattern: what of a case's name is the patient, a regular expression, see `segformer3d.patients`; None
            takes what the dataset says, or else each case for a patient.
        quarantine: a list of cases that are not used, beside `quarantine.csv` in the dataset folder.
        leave_out_published: whether the held-out cases of published protocols are left out; else they are
            refused.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    name: str
    data: Path
    work: Path
    device: str = "auto"
    threads: int | None = None
    workers: int = 0
    limits: SiteLimits = field(default_factory=SiteLimits)
    ledger: Path | None = None
    patients: int | None = None
    patient_pattern: str | None = None
    leave_out_published: bool = False
    quarantine: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not SITE_NAME.fullmatch(self.name):
            raise ConfigurationError(f"a site's name takes 1 to 40 letters, digits, - and _, got {self.name!r}")
        for setting in ("data", "work"):
            if not isinstance(getattr(self, setting), Path):
                raise ConfigurationError(
                    f"{setting} of site {self.name} must be a folder, got {getattr(self, setting)!r}"
                )
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ConfigurationError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {self.device!r}")
        if self.threads is not None:
            _whole("threads", self.threads, 1, MOST_THREADS)
        _whole("workers", self.workers, 0, MOST_WORKERS)
        if self.patients is not None:
            _whole("patients", self.patients, 1, MOST_PATIENTS)
        if self.patient_pattern is not None:
            check_pattern(self.patient_pattern)
        if type(self.leave_out_published) is not bool:
            raise ConfigurationError(f"leave_out_published must be true or false, got {self.leave_out_published!r}")

    @property
    def ledger_file(self) -> Path:
        """Where the ledger is."""
        return self.ledger or self.work / LEDGER

    def torch_device(self) -> "torch.device":
        """The device to compute on.

        Raises:
            ConfigurationError: this machine has no such device.
        """
        from segformer3d.inference import choose_device  # commands that compute nothing do without PyTorch

        return choose_device(self.device)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigurationError(f"{name} must be a whole number in [{low}, {high}], got {value!r}")
