"""Private runs as a researcher starts them: what they cost before, what they spent after, what attacks found."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import segfed
from client.privacy.ledger import read_ledger

from .commands import federation, one_line, run, run_and_stop, simulate, summary


def test_the_cost_is_said_before_the_run_and_what_was_spent_after(private: tuple[Path, str]):
    folder, told = private
    before, _, after = told.partition("Round 1/3")
    for site in ("site-1", "site-2"):
        assert f"{site}: the run will cost each patient epsilon 7." in before
    assert "begin with a model of made-up patients" in " ".join(before.split())
    privacy = summary(folder)["privacy"]
    assert privacy["claimed"]
    assert privacy["unit"] == "patient"
    for site in privacy["sites"].values():
        assert 7.9 < site["spent"] <= site["epsilon"] <= 8.0
        assert site["delta"] == 1e-4
    assert "every patient has spent at most epsilon 7.9" in after
    assert "2 private steps" in before


def test_nothing_that_is_not_paid_for_is_in_the_rounds(private: tuple[Path, str]):
    folder, _ = private
    for line in (folder / "rounds.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["measured"]["mean_dice"] is None
        for site in record["sites"]:
            assert site["loss"] is site["validation_loss"] is site["training_seconds"] is None
    assert not (folder / "best.safetensors").exists()
    assert not (folder / "curves.png").exists()


def test_the_report_states_the_claim_and_what_attacks_found(private: tuple[Path, str]):
    folder, told = private
    text = (folder / "README.md").read_text()
    audit = summary(folder)["privacy"]["audit"]
    assert "differential privacy with epsilon 7.9" in text
    assert "Attacked: canary patients prove an epsilon of" in text
    assert "curves.png" not in text
    assert audit["verdict"] == "not refuted"
    assert 0 <= audit["epsilon_at_least"] < 8
    assert (folder / "privacy.json").is_file()
    assert "not refuted" in told


def test_the_ledgers_of_the_sites_hold_the_run(private: tuple[Path, str]):
    folder, _ = private
    for site in ("site-1", "site-2"):
        assert [spend.round for spend in read_ledger(folder / "work" / site / "ledger.jsonl").contents.spends] == [
            1,
            2,
            3,
        ]
        assert "all runs together" in run("ledger", "show", folder / "work" / site).stdout
        assert "lines hang together" in run("ledger", "verify", folder / "work" / site).stdout
        assert "rounds that fit" in run("ledger", "plan", folder / "work" / site, "--limit", 20).stdout


def test_a_finished_run_is_audited(private: tuple[Path, str], tmp_path: Path):
    folder = Path(shutil.copytree(private[0], tmp_path / "copy", symlinks=True))
    assert "Not refuted" in run("privacy", "audit", folder, "--canaries", 50).stdout


def test_the_run_is_verified(private: tuple[Path, str]):
    folder, _ = private
    told = run("privacy", "verify", folder, "--model", folder / "last.safetensors").stdout
    assert "The claim: a site's 3 rounds of 2 steps are differentially private with epsilon 7.9" in told


@pytest.fixture(scope="module")
def seeded(tmp_path_factory, dataset, config) -> tuple[Path, str, list[bytes]]:
    """A run whose noise came from a seed, what it printed, and the ledgers before it was resumed.

    Somebody presses Ctrl-C after its only round.
    """
    folder = tmp_path_factory.mktemp("seeded")
    file, out = folder / "seeded.toml", folder / "run"
    file.write_text(config.read_text() + '[privacy]\nnoise = "seeded"\n')
    words = [*federation(dataset, file, out), "--epsilon", 8, "--rounds", 1]
    stopped = run_and_stop(out / "state-0001.safetensors", *words)
    assert stopped.code == 130, stopped
    before = ledgers(out)
    return out, stopped.stdout + run("simulate", "--resume", out).stdout, before


def ledgers(folder: Path) -> list[bytes]:
    return [(folder / "work" / site / "ledger.jsonl").read_bytes() for site in ("site-1", "site-2")]


def test_seeded_noise_claims_nothing(seeded: tuple[Path, str, list[bytes]]):
    folder, told, _ = seeded
    assert "nothing is promised" in " ".join(told.split())
    assert "no privacy is claimed" in told
    assert not summary(folder)["privacy"]["claimed"]
    line = one_line(run("privacy", "verify", folder, code=1))
    assert "nothing can be claimed: it is not so that the noise cannot be worked out" in line


def test_a_run_whose_rounds_are_played_is_resumed_and_costs_nothing_more(seeded: tuple[Path, str, list[bytes]]):
    folder, _, before = seeded
    assert ledgers(folder) == before
    assert [len(read_ledger(path).contents.spends) for path in folder.glob("work/*/ledger.jsonl")] == [1, 1]
    assert (folder / "report.html").is_file()


def test_a_warm_start_is_made_and_begun_with(tmp_path):
    told = run("warm-start", "--task", "hippocampus", "--cases", 3, "--epochs", 1, "--out", tmp_path / "start").stdout
    assert "begin a private run with: segfed simulate --start" in " ".join(told.split())
    assert (tmp_path / "start" / "model.safetensors").is_file()
    for words in (["--task", "liver"], ["--task", "phantom", "--cases", 1]):
        assert "segfed: " in one_line(run("warm-start", *words, "--out", tmp_path / "no", code=1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epsilon", 0], "privacy.epsilon must be above 0"),
        (["--epsilon", -1], "privacy.epsilon must be above 0"),
        (["--epsilon", 1, "--delta", 0.0], "privacy.delta must be in (0, 1)"),
        (["--epsilon", 1, "--delta", 0.9], "privacy.delta must be below 1 / patients"),
        (["--delta", 1e-5], "need an --epsilon"),
        (["--epsilon", 1, "--start", "/nowhere.safetensors"], "there is no checkpoint /nowhere.safetensors"),
        (["--patient-pattern", "("], "is no regular expression"),
        (["--patient-pattern", "nobody"], "does not match patient_pattern"),
    ],
)
def test_settings_of_privacy_that_cannot_be_are_one_line(
    words: Sequence[object],
    said: str,
    dataset,
    config,
    tmp_path,
):
    assert said in one_line(simulate(dataset, config, tmp_path / "run", *words, code=1))


def test_batch_norm_with_privacy_is_an_error(dataset, config, tmp_path):
    batch = tmp_path / "batch.toml"
    batch.write_text(config.read_text().replace("[model]", '[model]\nnorm = "batch"'))
    assert "a private run cannot have it" in one_line(simulate(dataset, batch, tmp_path / "r", "--epsilon", 1, code=1))


def test_every_command_has_its_help(capsys):
    for words in (["privacy", "verify"], ["privacy", "audit"], ["ledger", "show"], ["ledger", "plan"], ["warm-start"]):
        with pytest.raises(SystemExit) as stopped:
            segfed.main([*words, "--help"])
        assert stopped.value.code == 0
        assert words[-1] in capsys.readouterr().out
