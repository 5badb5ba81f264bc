"""What an engine is told: how many sites may work at the same time, and where its log goes."""

from dataclasses import dataclass
from pathlib import Path

from segformer3d.errors import ConfigurationError


@dataclass(frozen=True)
class EngineSettings:
    """The same for every engine.

    Attributes:
        parallel: sites that work at the same time, at least 1; more than there are sites is as good as all of them.
        log: a file that the engine appends to: what Flower, Ray and the sites' processes print, and tracebacks.

    Raises:
        ConfigurationError: `parallel` is not a whole number of at least 1.
    """

    parallel: int
    log: Path

    def __post_init__(self) -> None:
        if type(self.parallel) is not int or self.parallel < 1:
            raise ConfigurationError(f"parallel must be a whole number of at least 1, got {self.parallel!r}")

    def workers(self, sites: int) -> int:
        """How many processes it takes to serve `sites` sites.

        Raises:
            ConfigurationError: there is no site.
        """
        if sites < 1:
            raise ConfigurationError(f"a federation needs at least 1 site, got {sites}")
        return min(self.parallel, sites)
