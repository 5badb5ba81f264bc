"""How much is measured: the full report, or the quick one for a look after a change."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What to measure with.

    Attributes:
        device: "cpu" or "cuda".
        threads: of every contender's process.
        repeats, slow_repeats: turns of an interleaved comparison, and of one whose turns take many seconds.
        peers: names of the peers to compare with.
        forward_side, step_side: voxels along a side of the cubes of the networks' comparison.
        growth_sides: cubes of the comparison by size; none leaves it out.
        scan_shape: voxels of the synthetic scan that stands in for a real one.
        sites: federations of so many sites.
        rounds: rounds of each.
        private_side: voxels along a side of the cubes of the private steps.
        study_turns: how often a study is played in each way; 0 leaves it out.
        trivial_rounds: rounds of the federation between processes; 0 leaves it out.
        scans: a folder of labelled cases in the Decathlon layout.
        glioma: a folder with one scan in four contrasts, or None for a synthetic one.
        trained: a model of the cases' task, or None to leave out what needs one.
    """

    device: str
    threads: int
    repeats: int
    slow_repeats: int
    peers: tuple[str, ...]
    forward_side: int
    step_side: int
    growth_sides: tuple[int, ...]
    scan_shape: tuple[int, int, int]
    sites: tuple[int, ...]
    rounds: int
    private_side: int
    study_turns: int
    trivial_rounds: int
    scans: Path | None
    glioma: Path | None
    trained: Path | None


FULL = {
    "repeats": 9,
    "slow_repeats": 3,
    "peers": ("UNETR", "SwinUNETR", "SegResNet", "DynUNet", "UNet"),
    "forward_side": 128,
    "step_side": 96,
    "growth_sides": (64, 96, 128, 160, 192),
    "scan_shape": (240, 240, 155),
    "sites": (2, 4, 8, 16, 32),
    "rounds": 3,
    "private_side": 96,
    "study_turns": 3,
    "trivial_rounds": 8,
}
QUICK = {
    "repeats": 3,
    "slow_repeats": 1,
    "peers": (),
    "forward_side": 64,
    "step_side": 64,
    "growth_sides": (),
    "scan_shape": (140, 140, 100),
    "sites": (4,),
    "rounds": 1,
    "private_side": 32,
    "study_turns": 0,
    "trivial_rounds": 0,
}
