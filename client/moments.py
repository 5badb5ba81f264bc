"""Which optimizer state a round starts from: one file a finished round, in a folder of the run's own at the site.

`optimizer-0007.safetensors` is the state after round 7. Round r starts from the newest state of an earlier round, so
that a site that is asked again for a round, or whose coordinator resumed an older state, gives the same answer again.
"""

import re
from pathlib import Path

from segformer3d.files import storage_errors

KEPT = 2
_STATE = re.compile(r"optimizer-(\d{4,})\.safetensors")


def moments_before(folder: Path, round_number: int) -> Path | None:
    """The newest state of a round before this one; states of this round and later ones are of a past that is redone.

    Raises:
        StorageError: such a state cannot be removed.
    """
    states = _states(folder)
    for number in states:
        if number >= round_number:
            _remove(states[number])
    earlier = [number for number in states if number < round_number]
    return states[max(earlier)] if earlier else None


def moments_after(folder: Path, round_number: int) -> Path:
    """Where the state after this round belongs."""
    return folder / f"optimizer-{round_number:04d}.safetensors"


def superseded_moments(folder: Path) -> Path | None:
    """The state that will be one too many once another is written, if there is one."""
    states = _states(folder)
    return states[min(states)] if len(states) >= KEPT else None


def forget_old_moments(folder: Path) -> None:
    """Keep the newest two states.

    Raises:
        StorageError: an old one cannot be removed.
    """
    states = _states(folder)
    for number in sorted(states)[:-KEPT]:
        _remove(states[number])


def _states(folder: Path) -> dict[int, Path]:
    matches = ((_STATE.fullmatch(path.name), path) for path in folder.glob("optimizer-*.safetensors"))
    return {int(match.group(1)): path for match, path in matches if match}


def _remove(path: Path) -> None:
    with storage_errors(path):
        path.unlink(missing_ok=True)
