"""One round of a site under its rule: what changes gradients, what is remembered, what travels beside the update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from client.round_files import RoundFiles
from client.strategies.fedbn import own_norms
from client.strategies.feddyn import Dynamic
from client.strategies.proximal import proximal_pull
from client.strategies.rule import LocalRule
from client.strategies.scaffold import Control
from client.weights import Weights
from segformer3d.checkpoint import read_weights
from segformer3d.errors import CheckpointError
from segformer3d.model import SegFormer3D
from segformer3d.tensor_file import write_tensors
from segformer3d.training import Adjust

MEMORY = "memory"
_CONTROL, _DYNAMIC = "control:", "dynamic:"


@dataclass(frozen=True, eq=False)
class LocalRound:
    """The parts of a rule, at work on one model.

    Attributes:
        adjust: what is done to the gradients between clipping and the optimizer's step, or None.
    """

    rule: LocalRule
    model: SegFormer3D
    adjust: Adjust | None
    control: Control | None
    dynamic: Dynamic | None

    def control_change(self) -> Weights | None:
        """SCAFFOLD's c_i' - c_i, by parameter."""
        return None if self.control is None else {n: v.numpy() for n, v in self.control.change().items()}

    def memory(self, update: Weights, control: Weights | None) -> dict[str, Tensor]:
        """What the site must remember after the round.

        Args:
            update: the round's, as the server will see it.
            control: `control_change()`, likewise.
        """
        kept: dict[str, Tensor] = {}
        if self.control is not None and control is not None:
            kept |= {_CONTROL + name: value for name, value in self.control.kept(_tensors(control)).items()}
        if self.dynamic is not None:
            kept |= {_DYNAMIC + name: value for name, value in self.dynamic.renewed(_tensors(update)).items()}
        if self.rule.local_norms:
            kept |= own_norms(self.model)
        return kept


def begin_round(
    rule: LocalRule, model: SegFormer3D, memory: Mapping[str, Tensor], common: Weights | None
) -> LocalRound:
    """Make a rule ready for a model that has the round's weights and lies where it will be trained.

    Args:
        rule: of the strategy.
        model: its norms are the site's own already, see `client.strategies.fedbn.put_own_norms`.
        memory: what the site has remembered, see `recall`.
        common: SCAFFOLD's c.
    """
    parameters = dict(model.named_parameters())
    control = dynamic = None
    adjustments: list[Adjust] = []
    if rule.control:
        given = {} if common is None else {name: torch.tensor(value) for name, value in common.items()}
        control = Control(parameters, _part(memory, _CONTROL), given)
        adjustments.append(control.correct)
    if rule.dynamic:
        dynamic = Dynamic(parameters, _part(memory, _DYNAMIC), rule.dynamic)
        adjustments.append(dynamic.correct)
    if rule.proximal:
        adjustments.append(proximal_pull(list(parameters.values()), rule.proximal))
    return LocalRound(rule, model, in_turn(adjustments), control, dynamic)


def in_turn(adjustments: Sequence[Adjust]) -> Adjust | None:
    """Several adjustments of the gradients as one, or None."""
    if not adjustments:
        return None

    def all_of_them() -> None:
        for adjust in adjustments:
            adjust()

    return all_of_them


def memory_files(folder: Path) -> RoundFiles:
    """Where a site keeps what it remembers of a run."""
    return RoundFiles(folder, MEMORY)


def recall(rule: LocalRule, folder: Path, round_number: int) -> Mapping[str, Tensor]:
    """What the site remembers from the rounds before this one; nothing in its first.

    What it remembers of this round and later ones is of a past that is redone, or that did not count, and is removed.

    Raises:
        CheckpointError: the file is damaged.
        StorageError: what belongs to a past that is redone cannot be removed.
    """
    path = memory_files(folder).before(round_number) if rule.remembers else None
    if path is None:
        return {}
    try:
        return read_weights(path)[0]
    except CheckpointError as error:
        raise CheckpointError(
            f"what this site remembers of the run is damaged ({path.name}); remove it, and the site goes on from what "
            "it kept of an earlier round, if anything"
        ) from error


def remember(kept: Mapping[str, Tensor], folder: Path, round_number: int) -> None:
    """Write what the site must remember, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    if kept:
        files = memory_files(folder)
        arrays = {name: value.numpy() for name, value in kept.items()}
        write_tensors(files.after(round_number), arrays, {}, files.superseded())
        files.forget_old()


def _tensors(weights: Weights) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in weights.items()}


def _part(memory: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}
