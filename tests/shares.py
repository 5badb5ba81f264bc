"""What pytest-xdist deals to a worker as one, the longest first, so that all workers end at about the same time."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# What one worker does alone: tests of one federation, and of graphs, for which much has to be imported.
TOGETHER = (("tests/deployment",), ("tests/segformer3d/export", "tests/test_export_command.py"))
TIMES = Path(__file__).with_name("times.json")  # `pytest --times` measures it anew


def share_of(nodeid: str) -> str:
    """The file of a test, or the first name of the group that it is in; likewise of a fixture."""
    groups = (group[0] for group in TOGETHER if nodeid.startswith(group))
    return next(groups, re.split(r"::|: ", nodeid)[0])


def write_times(measured: Iterable[tuple[str, float]]) -> None:
    """Take what tests and fixtures took for the next runs; less than a second is not worth a line."""
    shares: Counter[str] = Counter()
    for name, seconds in measured:
        shares[share_of(name)] += seconds  # type: ignore[assignment]
    times = Counter({**json.loads(TIMES.read_text()), **{name: round(seconds) for name, seconds in shares.items()}})
    groups = {group[0] for group in TOGETHER}
    kept = {name: s for name, s in times.most_common() if s >= 1 and (name in groups or name.endswith(".py"))}
    TIMES.write_text(json.dumps(kept, indent=0) + "\n")


class LongestFirst(LoadFileScheduling):
    """Deals shares by the seconds that they took when they were measured."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        self._seconds: dict[str, float] = json.loads(TIMES.read_text())

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda share: self._seconds.get(share, 0.0))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
