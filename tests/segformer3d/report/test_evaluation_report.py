"""The report on an evaluation: numbers worked by hand are in it, it says that it stays, and it looks right."""

import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segformer3d.calibration import Bin, StructureCalibration
from segformer3d.cases import CaseFiles
from segformer3d.evaluation import evaluate_predictor
from segformer3d.published_scores import PublishedRow
from segformer3d.report.evaluation_report import STAYS, Circumstances, evaluation_report, write_evaluation_report
from segformer3d.report.markdown import to_markdown
from segformer3d.results import Evaluation
from segformer3d.tasks import get_task

from ...looks import looks_right

TASK = get_task("hippocampus")
SHAPE = (24, 20, 16)
ABOUT = Circumstances("runs/a/model.safetensors", "ab" * 32, "data", "cpu", True, 7, "0.1.0", "2026-01-31")
DAMAGED = "<script>alert(1)<|script>"


def write_case(folder: Path, name: str, wrong: int) -> CaseFiles:
    """A bar of 10 x 8 x 6 voxels of each structure, whose case's prediction will be `wrong` voxels further along X."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:11, 6:14, 2:8], label[1:11, 6:14, 8:14] = 1, 2
    image = np.random.default_rng(wrong).normal(wrong, 0.01, SHAPE).astype(np.float32)
    paths = folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz"
    for path, data in zip(paths, (image, label), strict=True):
        nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 1.0, 1.0])), path)
    return CaseFiles(name, (paths[0],), paths[1])


def predict(volume):
    """Like a model, it sees the image alone, whose mean says how far off it is to be."""
    wrong = round(float(volume.image.mean()))
    assert volume.label is not None
    return np.roll(TASK.structure_masks(volume.label), wrong, axis=1)


def predict_worse(volume):
    """Another voxel off."""
    return np.roll(predict(volume), 1, axis=1)


CALIBRATION = tuple(
    StructureCalibration(
        structure.name,
        (Bin(0.01, 0.5, 300, 0.2, 0.1), Bin(0.5, 0.9, 0, None, None), Bin(0.9, 1.0, 100, 0.95, 0.9)),
        0.09,
        0.25,
    )
    for structure in TASK.structures
)
PUBLISHED = (PublishedRow("SegFormer3D", 82.15, {"anterior": 89.9}, "a paper of 2024"),)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    cases = [write_case(folder, f"case-{wrong}", wrong) for wrong in range(6)]
    (folder / "damaged.nii.gz").write_bytes(b"no image")
    cases.append(CaseFiles(DAMAGED, (folder / "damaged.nii.gz",), cases[0].label))
    cases = [replace(case, facts=(("scanner", "A" if "5" in case.name else "B|C"),)) for case in cases]
    rival = ("runs/b/model.safetensors", predict_worse)
    evaluation = evaluate_predictor(predict, TASK, cases, folder / "out", seed=0, against=rival)
    whole = replace(evaluation, calibration=CALIBRATION, published=PUBLISHED)
    write_evaluation_report(whole, TASK, ABOUT, folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """Thirteen cases of as many hospitals, and the folder of their overlays."""
    folder = tmp_path_factory.mktemp("scattered")
    one = write_case(folder, "case", 1)
    cases = [replace(one, name=f"case-{n}", facts=(("site", f"hospital {n}"),)) for n in range(13)]
    return evaluate_predictor(predict, TASK, cases, folder / "out", seed=0), folder / "out"


def test_facts_that_make_too_many_groups_are_named(scattered):
    evaluation, out = scattered
    told = "site has 13 different values, and 12 at most make readable groups"
    assert evaluation.to_json()["ungrouped"] == [told]
    document = evaluation_report(evaluation, TASK, ABOUT, out)
    assert f"Not shown: {told}." in to_markdown(document, lambda picture: picture.name)


def test_it_says_at_its_head_that_it_stays(written):
    page, twin = ((written / name).read_text() for name in ("report.html", "report.md"))
    assert page.index(STAYS) < page.index("<h2")
    assert twin.index(STAYS) < twin.index("## ")


def test_scores_are_those_of_the_cases(written):
    """A shift by k of 10 voxels leaves Dice 1 - k/10: of k = 0 to 5 the mean is 0.75, the worst 0.5."""
    text = (written / "report.md").read_text()
    assert re.search(r"^- mean Dice: \*\*0\.750\*\* \(0\.6\d\d to 0\.8\d\d\)$", text, re.M)
    assert re.search(r"^\| anterior \| 0\.750 ", text, re.M)
    assert "- worst case: **0.500** (mean Dice of case-5)" in text
    order = re.findall(r"^\| (case-\d) \(", text, re.M)
    assert order == [f"case-{wrong}" for wrong in (5, 4, 3, 2, 1, 0)]
    assert "0.48 / 0.48 ml" in text  # 10 x 8 x 6 mm


def test_it_says_what_was_measured_and_how(written):
    text = (written / "report.md").read_text()
    for said in (ABOUT.model, ABOUT.model_sha256, "2026-01-31", "6 used, 1 set aside", "averaged", "- device: cpu"):
        assert said in text
    assert "arXiv:2404.10156" in text
    assert "Nature Communications" in text


def test_the_other_model_is_beaten_by_a_tenth(written):
    """Every case is one voxel of ten better, which all of six cases show with p = 2 / 2^6."""
    text = (written / "report.md").read_text()
    assert (
        "The other model is `runs/b/model.safetensors`. This model is better on these cases: mean Dice +0.100" in text
    )
    row = re.search(r"^\| mean \(Dice\) \| (.*) \|$", text, re.M)
    assert row is not None
    assert row[1].split(" | ") == ["0.750", "0.650", "+0.100 (+0.100 to +0.100)", "6 / 0 / 0", "0.031"]


def test_published_rows_are_marked_and_another_protocol_is_called_one(written):
    text = (written / "report.md").read_text()
    assert "| this model, measured | **75.00** | **75.00** | **75.00** |" in text
    assert "| SegFormer3D, published (a paper of 2024) | 89.90 | – | 82.15 |" in text
    assert (
        "This model is not comparable with them, and the rows show the order of magnitude: it was measured by" in text
    )
    assert "another protocol (--protocol published measures as the papers do)." in text


def test_the_worst_three_are_shown_with_the_median_and_the_best(written):
    text = (written / "report.md").read_text()
    told = re.findall(r"The ([a-z ]+) case, (case-\d): mean Dice", text)
    ranks = ("worst", "second worst", "third worst", "median", "best")
    assert told == list(zip(ranks, ("case-5", "case-4", "case-3", "case-3", "case-0"), strict=True))


def test_groups_of_few_cases_are_not_over_read(written):
    """Scanner A has a single case, of which nothing is told."""
    text = (written / "report.md").read_text()
    assert "| A | 1 | – | – | – |" in text
    assert re.search(r"^\| B\\\|C \| 5 \| 0\.800 ", text, re.M)
    assert "**By the size of the structure**" in text


def test_calibration_is_told_and_drawn(written):
    text = (written / "report.md").read_text()
    assert "| anterior | 0.090 | 25.0 % |" in text
    assert (written / "report-pictures" / "reliability-2.png").is_file()


def test_an_evaluation_that_has_nothing_more_has_no_empty_sections(scattered):
    evaluation, out = scattered
    bare = replace(evaluation, strata=(), ungrouped=())
    titles = [section.title for section in evaluation_report(bare, TASK, ABOUT, out).sections]
    assert titles == ["Scores", "Where it fails", "Set aside", "How it was measured", "How to cite"]


def test_the_page_looks_right(written, browser):
    looks_right(browser, written / "report.html")


def test_the_page_prints_well(written, browser, tmp_path):
    assert not browser.cut_off_in_print(written / "report.html")
    assert 2 <= browser.pages(written / "report.html") <= 20
    wide = tmp_path / "wide.html"
    wide.write_text("<!DOCTYPE html><div class=table style='overflow:visible'><p style='width:900px'>x</div>")
    assert browser.cut_off_in_print(wide), "the measurement itself"


def test_a_case_that_is_named_like_a_script_is_shown_by_its_name(written, browser):
    """As the browser itself understands the page."""
    browser.look(written / "report.html", (390, 844), "light")
    assert browser.evaluate("document.scripts.length") == 0
    cells = browser.evaluate("[...document.querySelectorAll('tbody th')].map(cell => cell.textContent)")
    assert DAMAGED in cells


def test_a_page_that_is_too_wide_is_noticed(tmp_path, browser):
    """The measurement itself: it must not call everything right."""
    page = tmp_path / "wide.html"
    page.write_text("<!DOCTYPE html><meta name=viewport content='width=device-width'><div style='width:900px'>x</div>")
    view = browser.look(page, (390, 844), "light")
    assert view.outside
    assert view.page_width > 390
