"""`segfed warm-start`: a model that has seen made-up patients only, for private runs to begin with.

Noise leaves room for a few thousand parameters to be learnt from patients. The others must know their trade before,
from cases that owe nobody privacy.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from segformer3d.allocator import keep_freed_memory
from segformer3d.dataset import prepare
from segformer3d.errors import ConfigurationError
from segformer3d.files import write_whole
from segformer3d.fit import Fitted, Plan, fit
from segformer3d.inference import choose_device
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import adjust, get_task
from segformer3d.terminal import make_console, plain_duration, progress_bar
from server.federation import model_settings
from simulations.hippocampus_phantoms import write_hippocampus_phantoms
from simulations.phantoms import write_phantom_site

# Not a seed of `segfed simulate`'s own phantoms: what is trained with privacy must be new to the model.
SEED_OFFSET = 2**31


def _write_tumours(folder: Path, cases: int, seed: int) -> None:
    """From several scanners, as the sites' are."""
    write_phantom_site(folder, cases, seed, 1, "warm")


WRITERS: Mapping[str, Callable[[Path, int, int], None]] = {
    "hippocampus": write_hippocampus_phantoms,
    "phantom": _write_tumours,
}


def warm_start_and_print(task: str, cases: int, epochs: int, seed: int, device: str, out: str) -> None:
    """Write made-up cases of a task, train on them, and leave `model.safetensors` in `out`.

    Raises:
        SegfedError: there are no made-up cases of this task, an option breaks its rule, or the disk is full.
    """
    if task not in WRITERS:
        raise ConfigurationError(f"there are no made-up patients for task {task!r}; there are for {', '.join(WRITERS)}")
    if cases < 2 or epochs < 1 or not 0 <= seed < SEED_OFFSET:
        raise ConfigurationError("--cases takes 2 or more, --epochs 1 or more, --seed 0 or more")
    keep_freed_memory()
    console, folder = make_console(), Path(out)
    chosen = adjust(get_task(task), model_settings({}, private=True), {})
    made = folder / "made-up"
    if not made.is_dir():
        with console.status(f"making up {cases} cases"):
            write_whole(made, lambda folder: WRITERS[task](folder, cases, seed + SEED_OFFSET))
    with console.status("reading them"):
        data = prepare(made, chosen, folder / "cache")
    with progress_bar(console, "training") as bar:

        def on_part(fitted: Fitted) -> None:
            dice = fitted.validation.dice
            console.print(
                f"epoch {fitted.part}/{epochs}: Dice {sum(dice) / len(dice):.3f} on made-up cases, "
                f"{plain_duration(fitted.training.seconds)}"
            )

        fit(
            data,
            chosen,
            TrainingSettings(),
            Plan(epochs, seed=seed),
            folder,
            device=choose_device(device),
            on_part=on_part,
            on_step=lambda step: bar.show(step.number, step.steps, f"loss {step.loss:.3f}"),
        )
    model = folder / "model.safetensors"
    console.print(f"The model is in {model}; begin a private run with: segfed simulate --start {model}", soft_wrap=True)
