"""Strategies side by side: real runs of a tiny federation, their table and figure, stopped and gone on with."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import torch

from segformer3d.checkpoint import load, read_weights
from segformer3d.errors import ConfigurationError
from segformer3d.terminal import make_console
from segformer3d.toml_file import read_toml
from simulations.outcomes import POOLED, Outcome, outcome_of
from simulations.sharing import Sharing
from simulations.study import Study, asked_for, study_from_json
from simulations.study_report import gains_of, lines_of, reached, spread_of, targets_of, write_study_report
from simulations.study_runs import _runs_of, _watched
from tests.commands import NORMS_KEPT, TINY, Done, blob_case, command, one_line, run, run_and_stop, summary, wait_for

MIXED = "compared/personal-site-1/model.safetensors"


@dataclass(frozen=True)
class Played:
    """A study that was stopped, in which a run then failed, and which ended at last; and what it said each time."""

    folder: Path
    stopped: Done
    failed: Done
    ended: Done
    second_written: int  # when the second run's summary was, while the first failed


@pytest.fixture(scope="module")
def asked(tmp_path_factory, dataset, config, trained) -> list[object]:
    """Two sites, two rounds, and one site at a time: no workers have to start."""
    start = shutil.copy(trained / "model" / "model.safetensors", tmp_path_factory.mktemp("start"))
    words = ["--start", start, "--data", dataset, "--config", config, "--sites", 2, "--rounds", 2, "--parallel", 1]
    return ["simulate", *words]


@pytest.fixture(scope="module")
def played(tmp_path_factory, asked) -> Played:
    """Two seeds of one strategy, from a model that finds some of what it looks for.

    Somebody presses Ctrl-C in the first run. Its record is damaged when the study goes on, and whole again when it goes
    on once more; the second run was killed before its first file.
    """
    out = tmp_path_factory.mktemp("study") / "out"
    first, second = (out / "runs" / f"fedavg-seed-{seed}" for seed in range(2))
    stopped = run_and_stop(first / "state-0001.safetensors", *asked, "--seeds", 2, "--out", out)
    assert stopped.code == 130, stopped
    second.mkdir()
    second.joinpath(f".{'0a' * 16}.run.json").touch()  # what is half written has a name of its own kind
    record = first.joinpath("run.json").read_text()
    first.joinpath("run.json").write_text("{}")
    failed = run("simulate", "--resume", out, code=1)
    written = second.joinpath("summary.json").stat().st_mtime_ns
    first.joinpath("run.json").write_text(record)
    start = Path(json.loads(record)["settings"]["start"])
    away = start.rename(start.with_name("away"))  # a run has a copy of what it began with
    ended = run("simulate", "--resume", out)
    away.rename(start)
    return Played(out, stopped, failed, ended, written)


@pytest.fixture(scope="module")
def study(played: Played) -> Path:
    return played.folder


def test_every_seed_is_a_run_and_one_table_ends_it(study: Path, played: Played) -> None:
    names = {f"fedavg-seed-{seed}" for seed in (0, 1)}
    assert {path.name for path in (study / "runs").iterdir()} == names
    check_outcomes(study, ["fedavg", POOLED])
    printed, text = played.ended.stdout, (study / "study.md").read_text()
    assert "\n## Gain on fedavg, seed by seed\n" in text
    assert "Gain on fedavg, seed by seed" in printed
    for said in (printed, text):
        assert "worst site" in said
        assert "pooled" in said
        assert "until their mean validation Dice first reached the target: 0." in said
        assert "(seed 0), 0." in said
    assert text.startswith("# Mean Dice on held-out cases\n")
    assert (study / "study.png").read_bytes().startswith(b"\x89PNG")
    assert site_one(study, "fedavg-seed-0") != site_one(study, "fedavg-seed-1")


def check_outcomes(study: Path, labels: list[str]) -> None:
    """Every combination's spread is that of its seeds, and all gain on the first."""
    told = json.loads((study / "outcomes.json").read_text())
    assert [line["label"] for line in told["lines"]] == labels
    assert [gain["label"] for gain in told["gains"]] == labels[1:]
    assert all(0 < each[score] < 1 for each in told["runs"] for score in ("dice", "worst")), "pooled has the same start"
    for line in told["lines"]:
        own = [each for each in told["runs"] if each["label"] == line["label"]]
        assert line["dice"]["mean"] == pytest.approx(sum(each["dice"] for each in own) / 2)
        assert line["dice"]["low"] <= line["dice"]["mean"] <= line["dice"]["high"]
    assert set(told["target_dice"]) == {"0", "1"}


def site_one(study: Path, name: str) -> str:
    return (study / "runs" / name / "sites" / "site-1" / "dataset.json").read_text()


@pytest.mark.slow
def test_every_combination_is_a_run_and_seeds_are_shared(asked, tmp_path: Path) -> None:
    study = tmp_path / "out"
    printed = run(*asked, "--strategy", "fedavg,fedprox", "--seeds", 2, "--out", study).stdout
    names = {f"{name}-seed-{seed}" for name in ("fedavg", "fedprox") for seed in (0, 1)}
    assert {path.name for path in (study / "runs").iterdir()} == names
    check_outcomes(study, ["fedavg", "fedprox", POOLED])
    assert "fedprox" in printed

    def cases(name: str) -> list[str]:
        return sorted(path.name for path in (study / "runs" / name / "sites").rglob("*.nii.gz"))

    assert cases("fedavg-seed-0") == cases("fedprox-seed-1")
    for seed in (0, 1):
        assert site_one(study, f"fedavg-seed-{seed}") == site_one(study, f"fedprox-seed-{seed}")
    assert site_one(study, "fedavg-seed-0") != site_one(study, "fedavg-seed-1")


def test_runs_of_a_study_differ_in_what_is_compared_and_in_their_seed_alone() -> None:
    study = asked_for({"data": "data", "strategy": "fedavg,fedprox", "exchange": "fp32,int8", "seed": 3, "seeds": 2})
    assert isinstance(study, Study)
    runs = _runs_of(study, Path("out"))
    found = {run.place.name: (run.settings.strategy.name, run.settings.exchange, run.settings.seed) for run in runs}
    assert found == {
        f"{strategy}-{exchange}-seed-{seed}": (strategy, exchange, seed)
        for strategy, exchange, seed in itertools.product(("fedavg", "fedprox"), ("fp32", "int8"), (3, 4))
    }
    alike = {"strategy": study.strategies[0], "exchange": "fp32", "seed": 0}
    assert len({json.dumps(replace(run.settings, **alike).to_json()) for run in runs}) == 1


def test_a_study_goes_on_where_it_stopped(played: Played) -> None:
    hint = f"nothing that was finished is lost; go on with: segfed simulate --resume {played.folder}"
    assert played.stopped.stderr.endswith(f"segfed: stopped; {hint}\n")
    for done, runs in (
        (played.stopped, ["run 1 of 2: fedavg, seed 0"]),
        (played.failed, ["run 1 of 2: fedavg, seed 0", "run 2 of 2: fedavg, seed 1"]),
        (played.ended, ["run 1 of 1: fedavg, seed 0"]),
    ):
        assert re.findall(r"run \d of \d: fedavg, seed \d", done.stdout) == runs
    second = played.folder / "runs" / "fedavg-seed-1" / "summary.json"
    assert second.stat().st_mtime_ns == played.second_written, "finished runs are not played again"
    assert [len(rounds.read_text().splitlines()) for rounds in played.folder.glob("runs/*/rounds.jsonl")] == [2] * 2
    assert not list(played.folder.rglob(".*")), "what was half written"


def test_a_run_that_fails_is_in_no_others_way(played: Played) -> None:
    line, hint = one_line(played.failed), f" (the study goes on with: segfed simulate --resume {played.folder})"
    assert line.startswith("segfed: fedavg, seed 0: ")
    assert line.endswith(hint)
    assert line.removeprefix("segfed: ").removesuffix(hint) in played.failed.stdout
    assert "run 2 of 2: fedavg, seed 1" in played.failed.stdout
    assert "all data pooled" not in played.failed.stdout
    assert "all data pooled" in played.ended.stdout


def test_a_run_without_report_or_record_is_somebodys(study: Path, tmp_path: Path) -> None:
    """It is not finished, and not begun anew over what is there."""
    study = Path(shutil.copytree(study, tmp_path / "study", symlinks=True))
    for name in ("run.json", "report.html"):
        study.joinpath("runs", "fedavg-seed-1", name).unlink()
    assert "is not empty" in one_line(run("simulate", "--resume", study, code=1))


@pytest.mark.slow
def test_runs_that_are_played_at_once_end_with_the_study_and_go_on_with_it(
    dataset: Path, config: Path, tmp_path: Path
) -> None:
    """Then one after the other, with the threads that they had."""
    out = tmp_path / "out"
    words = ["simulate", "--data", dataset, "--config", config, "--sites", 2, "--rounds", 10]
    words += ["--parallel", 2, "--seeds", 2, "--out", out]
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    places = [out / "runs" / f"fedavg-seed-{seed}" for seed in range(2)]
    try:
        while not all(map(rounds_of, places)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        playing = psutil.Process(process.pid).children(recursive=True)
        assert len(playing) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
        printed, errors = process.communicate(timeout=60)
        _, left = psutil.wait_procs(playing, timeout=30)
        assert not left
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert f"2 runs, 2 at once, each with 1 site at a time; what they print is in {out / 'logs'}" in printed
    assert process.returncode == 130
    hint = f"nothing that was finished is lost; go on with: segfed simulate --resume {out}"
    assert errors.strip() == f"segfed: stopped; {hint}"
    assert not (out / "study.md").exists()
    told = run("simulate", "--resume", out, "--parallel", 1).stdout
    for seed, place in enumerate(places):
        assert f"run {seed + 1} of 2: fedavg, seed {seed}" in told
        assert f"run folder: {place}" in (out / "logs" / f"{place.name}.log").read_text()
        asked = json.loads((place / "run.json").read_text())
        assert (asked["parallel"], asked["settings"]["round_deadline"]) == (1, 7200), "half of the machine"
        assert rounds_of(place) == 10
        assert not list(place.rglob(".*")), "what was half written"
    assert (out / "study.md").is_file()


def rounds_of(place: Path) -> int:
    path = place / "rounds.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def in_two_processes(study: Path, tmp_path: Path) -> Path:
    """A copy of a study that plays two runs at once."""
    study = Path(shutil.copytree(study, tmp_path / "study", symlinks=True))
    described = json.loads((study / "study.json").read_text())
    described["sharing"] = {"runs": 2, "sites": 1, "threads": 1}
    (study / "study.json").write_text(json.dumps(described))
    return study


def test_a_run_in_a_process_of_its_own_fails_there(study: Path, tmp_path: Path) -> None:
    study = in_two_processes(study, tmp_path)
    failing = study / "runs" / "fedavg-seed-0"
    failing.joinpath("report.html").unlink()
    failing.joinpath("run.json").write_text("{}")
    done = run("simulate", "--resume", study, code=1)
    line = one_line(done)
    assert line.startswith("segfed: fedavg, seed 0: ")
    assert line.endswith(f"(the study goes on with: segfed simulate --resume {study})")
    assert "1 run, 1 at once, each with 1 site at a time" in done.stdout
    assert "fedavg, seed 0: " in (study / "logs" / "fedavg-seed-0.log").read_text()


def test_runs_that_end_in_their_processes_are_told(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = _runs_of(study_from_json(json.loads((study / "study.json").read_text())), study)
    with _watched(make_console(), runs):
        pass
    told = capsys.readouterr().out
    for seed in range(2):
        dice = summary(study / "runs" / f"fedavg-seed-{seed}")["mean_dice"]
        assert f"fedavg, seed {seed}: mean Dice {dice:.4f} ({seed + 1} of 2)" in told


@pytest.mark.slow
def test_a_run_that_fails_is_in_no_others_way_in_processes(study: Path, tmp_path: Path) -> None:
    study = in_two_processes(study, tmp_path)
    failing, other = (study / "runs" / f"fedavg-seed-{seed}" for seed in range(2))
    for place in (failing, other):
        place.joinpath("report.html").unlink()
    failing.joinpath("run.json").write_text("{}")
    done = run("simulate", "--resume", study, code=1)
    assert "segfed: fedavg, seed 0: " in one_line(done)
    assert "2 runs, 2 at once" in done.stdout
    assert f"fedavg, seed 1: mean Dice {summary(other)['mean_dice']:.4f} (1 of 2)" in done.stdout
    assert "fedavg, seed 0: " in (study / "logs" / "fedavg-seed-0.log").read_text()
    assert other.joinpath("report.html").is_file()


@pytest.mark.slow
def test_a_run_whose_process_dies_is_told_with_a_remedy(study: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(study, tmp_path / "study", symlinks=True))
    described = json.loads((study / "study.json").read_text())
    described["sharing"] = {"runs": 2, "sites": 2, "threads": 1}
    (study / "study.json").write_text(json.dumps(described))
    shutil.rmtree(study / "runs" / "fedavg-seed-0")
    process = subprocess.Popen(
        command("simulate", "--resume", study), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(study / "logs" / "fedavg-seed-0.log", process)
        for child in psutil.Process(process.pid).children():
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert errors.startswith("segfed: a run's process died, most likely because memory ran out; ")
    assert errors.rstrip().endswith(f"segfed simulate --resume {study} --parallel 2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--parallel", 0], "--parallel must be a whole number in [1,"),
        (["--parallel", 2, "--rounds", 3], "leave the other options out"),
    ],
)
def test_a_study_goes_on_as_it_was_asked_for(study: Path, words: list[object], told: str) -> None:
    assert told in one_line(run("simulate", "--resume", study, *words, code=1))


def test_a_study_of_another_version_is_said(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"settings": {}, "strategies": [], "exchanges": [], "seeds": []}')
    told = one_line(run("simulate", "--resume", tmp_path, code=1))
    assert "study.json is damaged or of another version ('sharing'); begin the study anew in another folder" in told


def test_data_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    words = ["--data", tmp_path / "none", "--seeds", 2, "--out", tmp_path / "out"]
    assert "there is no folder" in one_line(run("simulate", *words, code=1))
    assert not (tmp_path / "out").exists()


def test_an_outcome_is_what_the_run_wrote(study: Path) -> None:
    place = study / "runs" / "fedavg-seed-0"
    found = outcome_of(place, "fedavg", 0)
    rounds = [json.loads(line) for line in (place / "rounds.jsonl").read_text().splitlines()]
    final = json.loads((place / "result.json").read_text())
    assert found.curve[0][2] == rounds[1]["measured"]["mean_dice"], "round 2 measures what round 1 left"
    assert found.curve[1][2] == final["final"]["mean_dice"]
    assert found.curve[1][0] == sum(record["bytes_up"] for record in rounds)
    assert found.kept == tuple(site["cases"] for site in final["sites"].values())
    own = [sum(site["dice"]) / len(site["dice"]) for site in final["sites"].values() if site["cases"]]
    assert found.worst == pytest.approx(min(own))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--strategy", "fedavg,fedbest"], "there is no strategy 'fedbest'; known are fedavg"),
        (["--strategy", "fedavg,fedavg"], "names one strategy twice"),
        (["--exchange", "fp32,morse"], "morse"),
        (["--exchange", "int8,int8"], "names one exchange twice"),
        (["--seeds", 0], "--seeds must be a whole number in [1, 100]"),
        (
            ["--strategy", "krum,fedavg", "--sites", 4],
            "krum needs 5 sites or more (2 hostile + 3, with hostile = 1), got --sites 4",
        ),
        (["--strategy", "fedavg,scaffold", "--epsilon", 8], "a private run cannot have the strategy scaffold"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(tmp_path: Path, words: list[object], told: str) -> None:
    assert told in one_line(run("simulate", *words, "--out", tmp_path / "out", code=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ditto", "fedbn"])
def test_models_of_the_sites_own_are_compared_there(tmp_path: Path, make_dataset, strategy: str) -> None:
    make_dataset(tmp_path / "data", {f"case_{number:02d}": blob_case(number) for number in range(40)})
    (tmp_path / "tiny.toml").write_text(TINY)
    words = ["--data", tmp_path / "data", "--config", tmp_path / "tiny.toml", "--sites", 2, "--rounds", 1]
    run("simulate", *words, "--parallel", 2, "--strategy", strategy, "--compare", "--out", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["strategy"] == strategy
    for site in summary["gains"]["sites"].values():
        assert set(site["against_alone"]) == {"federated", "pooled", "personal"}
    assert (tmp_path / "out" / "compared" / "personal-site-1" / "sites" / "site-1.csv").is_file()
    assert "personal" in (tmp_path / "out" / "report.md").read_text()
    if strategy == "fedbn":  # everyone's weights but for the norms, which are of this site
        own, last = (load(tmp_path / "out" / name).state_dict() for name in (MIXED, "last.safetensors"))
        (memory,) = (tmp_path / "out" / "work" / "site-1").glob("*/memory-0001.safetensors")
        kept = {name.removeprefix("norms:"): value for name, value in read_weights(memory)[0].items()}
        assert all(torch.equal(own[name], kept.get(name, last[name])) for name in own)
        assert any(not torch.equal(kept[name], last[name]) for name in kept)


def test_exchanges_vary_beside_strategies() -> None:
    study = asked_for({"strategy": ["fedavg", {"name": "fedprox", "proximal": 1.0}], "exchange": "fp32,compact"})
    assert isinstance(study, Study)
    labels = [study.label(strategy, exchange) for strategy in study.strategies for exchange in study.exchanges]
    assert labels == ["fedavg-fp32", "fedavg-compact", "fedprox-proximal-1-fp32", "fedprox-proximal-1-compact"]
    assert study_from_json(json.loads(json.dumps(study.to_json()))) == study


def test_variants_of_one_strategy_are_told_apart_by_what_they_change(tmp_path: Path) -> None:
    (tmp_path / "asked.toml").write_text(
        'strategy = ["krum", {name = "fedprox"}, {name = "fedprox", proximal = 0.1, average = 0.8},\n'
        '{name = "krum", hostile = 2}, {name = "fedavg", normalised = true, shares = "equal"}]\nsites = 7\n'
    )
    study = asked_for(read_toml(tmp_path / "asked.toml", ""))
    assert isinstance(study, Study)
    assert [study.label(strategy, "fp32") for strategy in study.strategies] == [
        "krum", "fedprox", "fedprox-proximal-0.1-average-0.8", "krum-hostile-2", "fedavg-shares-equal-normalised-true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("strategies", "told"),
    [
        (["fedprox", {"name": "fedprox", "proximal": 0.01}], "names one strategy twice"),
        ([{"name": "fedprox", "proximal": 1}, {"name": "fedprox", "proximal": 1.0}], "names one strategy twice"),
        ([], "strategy is an empty list"),
    ],
)
def test_true_duplicates_are_refused(strategies: list[object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        asked_for({"strategy": strategies})


def test_one_strategy_and_one_seed_are_a_single_run() -> None:
    settings = asked_for({"sites": 3, "strategy": "fedprox"})
    assert not hasattr(settings, "seeds")
    assert settings.strategy.name == "fedprox"  # type: ignore[union-attr]


# --- By hand ---------------------------------------------------------------------------------------------------------


def outcome(label: str, seed: int, dice: float, *curve: tuple[int, int, float | None]) -> Outcome:
    return Outcome(label, seed, dice, dice - 0.1, 60.0, curve)


def test_the_interval_is_students() -> None:
    """Of 1, 2 and 3: mean 2, standard error 1/√3, t(0.975, 2) = 4.303."""
    spread = spread_of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.low, spread.high) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert spread_of([0.5]).low is None


def test_bytes_and_rounds_count_until_the_target_is_first_reached() -> None:
    quick = outcome("a", 0, 0.8, (10, 20, 0.5), (20, 40, 0.79), (30, 60, 0.8))
    slow = outcome("b", 0, 0.7, (1, 1, None), (2, 2, 0.7))
    targets = targets_of([quick, slow])
    assert targets == {0: pytest.approx(0.98 * 0.8)}
    assert reached(quick, targets[0]) == (20, 40, 2)
    assert reached(slow, targets[0]) is None
    first, second = lines_of([quick, slow], targets)
    assert (first.bytes_up, first.bytes_down, first.rounds) == (20, 40, 2)
    assert second.bytes_up is None
    assert targets_of([outcome("c", 0, 0.5)]) == {}


def test_gains_are_seed_by_seed() -> None:
    """Seeds differ by 0.2 and strategies by 0.01 to 0.03: mean 0.02, standard error 0.01/√3, t(0.975, 2) = 4.303."""
    plain = [outcome("a", seed, 0.5 + 0.2 * seed) for seed in range(3)]
    better = [outcome("b", seed, 0.51 + 0.21 * seed) for seed in range(3)]
    alone = [replace(outcome("c", 7, 0.9), worst=None), replace(outcome("d", 1, 0.6), worst=None)]
    first, second = gains_of([*plain, *better, *alone])
    half = 4.302653 * 0.01 / 3**0.5
    assert (first.label, second.label) == ("b", "d")
    assert (first.dice.mean, first.dice.low) == pytest.approx((0.02, 0.02 - half))
    assert first.worst is not None
    assert (first.worst.mean, first.worst.low) == pytest.approx((first.dice.mean, first.dice.low))
    assert second.dice.mean == pytest.approx(-0.1)
    assert (second.dice.low, second.worst) == (None, None)
    assert gains_of(plain) == []


def test_the_report_says_of_which_model_its_numbers_are(tmp_path: Path) -> None:
    asked = {"data": "data", "strategy": "fedavg,fedbn,ditto", "scenario": "hostile-sign", "sites": 8, "parallel": 1}
    study = asked_for(asked)
    assert isinstance(study, Study)
    told = [outcome("fedavg", 0, 0.8, (1, 1, 0.8)), outcome("fedbn", 0, 0.9, (1, 1, 0.9)), outcome(POOLED, 0, 0.7)]
    write_study_report(make_console(), study, told, tmp_path)
    text = (tmp_path / "study.md").read_text()
    assert text.index("| fedavg | 0.800 | 0.700 |") < text.index("| fedbn | 0.900 | 0.800 |") < text.index("| pooled |")
    gains = text.partition("\n## Gain on fedavg, seed by seed\n")[2]
    assert gains.index("| fedbn | +0.100 | +0.100 |") < gains.index("| pooled | -0.100 | -0.100 |")
    assert f"- fedbn: the norms of the model are {NORMS_KEPT}.\n" in text
    assert "- ditto: the worst site is by the sites' personal models; all else is of the global model.\n" in text
    assert "- site-8 is hostile: it counts for no worst site and no target" in text
    assert "fedavg:" not in text
    assert "keeps from training.\n" in text
    assert "Times" not in text
    several, study = replace(outcome("fedavg", 0, 0.8), kept=(3, 0, 1, 5)), replace(study, sharing=Sharing(2, 1, 1))
    write_study_report(make_console(), study, [several], tmp_path)
    assert "Times are those of runs that share a machine, 2 at once.\n" in (tmp_path / "study.md").read_text()
    assert "keeps from training; a site that keeps any has 1 to 5 of them.\n" in (tmp_path / "study.md").read_text()


def test_a_private_study_has_a_title_and_no_target(tmp_path: Path) -> None:
    study = asked_for({"strategy": "fedavg,median", "epsilon": 8.0})
    assert isinstance(study, Study)
    private = Outcome("fedavg", 0, 0.8, None, 60.0, ((1, 1, None),))
    write_study_report(make_console(), study, [private], tmp_path)
    text = (tmp_path / "study.md").read_text()
    assert text.startswith("# Mean Dice on held-out cases\n")
    assert "target" not in text.replace(" | ".join(["worst site", "to the target: up"]), "")
    assert "hostile" not in text


def test_each_seed_has_a_target_of_its_own() -> None:
    """The cases of seed 1 are harder: 0.6 is the best there, and is reached after its second round."""
    easy = outcome("a", 0, 0.8, (10, 20, 0.8), (20, 40, 0.8))
    hard = outcome("a", 1, 0.7, (10, 20, 0.5), (20, 40, 0.6))
    targets = targets_of([easy, hard])
    assert targets == {0: pytest.approx(0.98 * 0.8), 1: pytest.approx(0.98 * 0.6)}
    (line,) = lines_of([easy, hard], targets)
    assert (line.bytes_up, line.bytes_down, line.rounds) == (15, 30, 1.5)
