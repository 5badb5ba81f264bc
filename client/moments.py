"""Which state a round starts from: one file a finished round and kind, in a folder of the run's own at the site.

`optimizer-0007.safetensors` is the state after round 7. Round r starts from the newest state of an earlier round, so
that a site that is asked again for a round, or whose coordinator resumed an older state, gives the same answer again.
Other kinds of state are kept likewise, such as what an update lost on the way (`client.exchange.at_site`).
"""

import re
from pathlib import Path

from segformer3d.files import storage_errors

KEPT = 2
MOMENTS = "optimizer"
_STATE = re.compile(r"[a-z]+-(\d{4,})\.safetensors")


def moments_before(folder: Path, round_number: int, kind: str = MOMENTS) -> Path | None:
    """The newest state of a round before this one; states of this round and later ones are of a past that is redone.

    Raises:
        StorageError: such a state cannot be removed.
    """
    states = _states(folder, kind)
    for number in states:
        if number >= round_number:
            _remove(states[number])
    earlier = [number for number in states if number < round_number]
    return states[max(earlier)] if earlier else None


def moments_after(folder: Path, round_number: int, kind: str = MOMENTS) -> Path:
    """Where the state after this round belongs."""
    return folder / f"{kind}-{round_number:04d}.safetensors"


def superseded_moments(folder: Path, kind: str = MOMENTS) -> Path | None:
    """The state that will be one too many once another is written, if there is one."""
    states = _states(folder, kind)
    return states[min(states)] if len(states) >= KEPT else None


def forget_old_moments(folder: Path, kind: str = MOMENTS) -> None:
    """Keep the newest two states.

    Raises:
        StorageError: an old one cannot be removed.
    """
    states = _states(folder, kind)
    for number in sorted(states)[:-KEPT]:
        _remove(states[number])


def _states(folder: Path, kind: str) -> dict[int, Path]:
    matches = ((_STATE.fullmatch(path.name), path) for path in folder.glob(f"{kind}-*.safetensors"))
    return {int(match.group(1)): path for match, path in matches if match}


def _remove(path: Path) -> None:
    with storage_errors(path):
        path.unlink(missing_ok=True)
