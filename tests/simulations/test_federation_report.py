"""The federation's report, from a real federation: it answers what a hospital gained, leaves cases out, looks right."""

import json
import re
from pathlib import Path

import pytest

from segformer3d.dataset import DEFAULT_VALIDATION_SHARE, name_fraction, prepare
from segformer3d.tasks import task_from_json

from ..commands import blob_case, federation, run, summary
from ..looks import looks_right


def names() -> list[str]:
    """Most are of the tenth that sites keep from training: enough for a verdict without hundreds of cases."""
    everyone = sorted((f"patient_{number:03d}" for number in range(400)), key=name_fraction)
    kept = sum(name_fraction(name) < DEFAULT_VALIDATION_SHARE for name in everyone)
    return [*everyone[kept - 12 : kept], *everyone[-5:]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, make_dataset, config) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("compared")
    dataset = make_dataset(folder / "data", {name: blob_case(number) for number, name in enumerate(names())})
    words = federation(dataset, config, folder / "run")
    return folder / "run", run(*words, "--rounds", 1, "--compare").stdout


def own_cases(folder: Path, site: str) -> set[str]:
    """The cases that a site keeps from training, by the same rule as the site itself follows."""
    task = task_from_json(json.loads((folder / "run.json").read_text())["task"])
    data = prepare(folder / "sites" / site, task, folder / "work" / site / "cache")
    assert {case.name for case in data.train}.isdisjoint(case.name for case in data.validation)
    return {case.name for case in data.validation}


def csv_cases(path: Path) -> set[str]:
    return {line.split(",")[0] for line in path.read_text().splitlines()[1:]}


def test_every_model_is_measured_on_the_cases_that_sites_keep_from_training(compared):
    folder, _ = compared
    for model in ("pooled", "federated", "site-1", "site-2"):
        for site in ("site-1", "site-2"):
            assert csv_cases(folder / "compared" / model / "sites" / f"{site}.csv") == own_cases(folder, site)


def test_the_summary_tells_gains_and_matrix(compared):
    folder, _ = compared
    told = summary(folder)
    for site, gains in told["gains"]["sites"].items():
        assert gains["cases"] == len(own_cases(folder, site)) >= 5
        federated, pooled = (gains["against_alone"][way] for way in ("federated", "pooled"))
        expected = federated["mean_dice"]["mean"] - gains["alone"]["mean"]
        assert federated["difference"]["mean"] == pytest.approx(expected)
        assert {federated["verdict"], pooled["verdict"]} <= {"gained", "lost", "no difference shown"}
    matrix = told["cross_site"]
    assert matrix["models"] == ["site-1", "site-2", "federated", "pooled"]
    assert matrix["sites"] == ["site-1", "site-2"]
    own = matrix["mean_dice"][0][0]["mean"]
    assert own == pytest.approx(told["gains"]["sites"]["site-1"]["alone"]["mean"])


def test_the_report_answers_the_hospital(compared):
    folder, printed = compared
    text = (folder / "report.md").read_text()
    assert "## What each hospital gained" in text
    for site, gains in summary(folder)["gains"]["sites"].items():
        verdict = gains["against_alone"]["federated"]["verdict"]
        assert re.search(rf"^\| {site} \| {gains['cases']} \|.*\| {verdict} \|", text, re.M)
        assert re.search(rf"^{site} .* {verdict}$", printed, re.M)
    assert "## Every model at every hospital" in text
    assert re.search(r"^\| site-1 alone \| \*\*0\.\d{3}\*\* ", text, re.M)
    assert summary(folder)["weights_sha256"] in text


def test_three_kinds_of_training_stand_side_by_side(compared):
    folder, printed = compared
    assert re.search(r"^federated .*\n^pooled .*\n^site-1 alone .*\n^site-2 alone ", printed, re.M)
    assert set(summary(folder)["compared"]) == {"pooled", "site-1", "site-2"}
    assert (folder / "comparison.png").stat().st_size > 1000
    assert not list((folder / "compared").rglob("overlay-*")), "pictures that no page shows"


def test_no_case_is_named_and_no_patient_shown_in_the_report_that_may_leave(compared):
    folder, _ = compared
    assert "patient_" in (folder / "evaluation" / "report.html").read_text()  # the one that stays does name them
    for name in ("report.html", "report.md", "summary.json"):
        assert "patient_" not in (folder / name).read_text()
    pictures = {path.name for path in (folder / "report-pictures").iterdir()}
    assert pictures == {"comparison.png", "gains.png", "cross-site.png", "rounds-loss.png", "rounds-dice.png"}


def test_the_page_looks_right(compared, browser):
    """That of an evaluation is looked at with the evaluation."""
    folder, _ = compared
    looks_right(browser, folder / "report.html")
