"""What training and validation tell when they are done. Whoever only reads the numbers does without PyTorch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingReport:
    """A finished part.

    Attributes:
        loss: mean over its steps.
        cases, samples, steps: training cases, patches, optimizer steps.
        seconds: how long its steps took, patches included, reading and writing the optimizer's state excluded.
        waited: the part of these seconds in which a step waited for its patches.
    """

    loss: float
    cases: int
    samples: int
    steps: int
    seconds: float
    waited: float = 0.0


@dataclass(frozen=True)
class ValidationReport:
    """A model measured on whole cases.

    Attributes:
        dice: mean Dice per structure over the cases whose labels tell it; NaN where there is none.
        loss: mean Dice-plus-cross-entropy loss of whole cases.
        cases: how many cases.
        seconds: how long it took.
    """

    dice: tuple[float, ...]
    loss: float
    cases: int
    seconds: float
