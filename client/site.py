"""The settings of one site: where its data lies, where it may write, and what it computes on."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from client.limits import SiteLimits
from client.names import SITE_NAME
from segformer3d.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

MOST_THREADS, MOST_WORKERS = 1024, 256
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
