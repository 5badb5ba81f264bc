"""What a site keeps from round to round: one file a finished round and kind, in a folder of the run's own at the site.

`optimizer-0007.safetensors` is the optimizer's state after round 7. Round r starts from the newest file of an earlier
round, so that a site that is asked again for a round, or whose coordinator resumed an older state, gives the same
answer again.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from segformer3d.files import storage_errors

KEPT = 3  # while sites are in a round, the server holds the states of the two before, and may have to resume the older
OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class RoundFiles:
    """The files of one kind, such as "optimizer", in a run's folder."""

    folder: Path
    kind: str

    def before(self, round_number: int) -> Path | None:
        """The newest file of a round before this one; those of this round and later ones are of a past that is redone.

        Raises:
            StorageError: such a file cannot be removed.
        """
        files = self._files()
        for number in files:
            if number >= round_number:
                _remove(files[number])
        earlier = [number for number in files if number < round_number]
        return files[max(earlier)] if earlier else None

    def after(self, round_number: int) -> Path:
        """Where what is kept after this round belongs."""
        return self.folder / f"{self.kind}-{round_number:04d}.safetensors"

    def superseded(self) -> Path | None:
        """The file that will be one too many once another is written, if there is one."""
        files = self._files()
        return files[min(files)] if len(files) >= KEPT else None

    def forget_old(self) -> None:
        """Keep the newest three.

        Raises:
            StorageError: an old one cannot be removed.
        """
        files = self._files()
        for number in sorted(files)[:-KEPT]:
            _remove(files[number])

    def _files(self) -> dict[int, Path]:
        name = re.compile(rf"{re.escape(self.kind)}-(\d{{4,}})\.safetensors")
        matches = ((name.fullmatch(path.name), path) for path in self.folder.glob(f"{self.kind}-*.safetensors"))
        return {int(match.group(1)): path for match, path in matches if match}


def _remove(path: Path) -> None:
    with storage_errors(path):
        path.unlink(missing_ok=True)
