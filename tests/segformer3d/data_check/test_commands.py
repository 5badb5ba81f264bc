"""`segfed data check` as a hospital meets it: what it prints, what it leaves, how it ends, and what happens next."""

import csv
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segformer3d.data_check.report import SHOWN
from segformer3d.data_check.rules import RULES, Severity
from segformer3d.quarantine import read_quarantine
from tests.commands import Done, one_line, run_here
from tests.segformer3d.data_check.conftest import image_of, label_of, read, write

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Check:
    """A folder, what `segfed data check` said of it, and where it wrote."""

    data: Path
    done: Done
    out: Path


def check(*words: object) -> Done:
    """`segfed data check`, however it ends."""
    return run_here(("data", "check", *words))


@pytest.fixture(scope="module")
def of_sound(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Checked without --out."""
    before, here = Path.cwd(), tmp_path_factory.mktemp("here")
    os.chdir(here)
    try:
        done = check(sound)
    finally:
        os.chdir(before)
    return Check(sound, done, here / "data-check" / sound.name)


@pytest.fixture(scope="module")
def of_damaged(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Check:
    """A truncated case, a copied one, and one with another contrast."""
    place = tmp_path_factory.mktemp("damaged")
    folder = Path(shutil.copytree(sound, place / "data"))
    image_of(folder, "b").write_bytes(image_of(folder, "b").read_bytes()[:500])
    for kind in (image_of, label_of):
        kind(folder, "k").write_bytes(kind(folder, "c").read_bytes())
    values = read(image_of(folder, "e"))
    write(image_of(folder, "e"), values.max() + values.min() - values)
    return Check(folder, check(folder, "--out", place / "checked"), place / "checked")


def test_sound_cases_end_well(of_sound: Check) -> None:
    done = of_sound.done
    assert (done.code, done.stderr) == (0, "")
    assert "12 cases of task tiny looked at" in done.stdout
    assert "0 must not be used, 0 should be looked at" in done.stdout
    assert "spacing 1 mm" not in done.stdout
    assert "1 x 1 x 1 mm, 26 x 24 x 22 voxels" in done.stdout
    assert "Nothing stands out." in done.stdout
    assert (of_sound.out / "quarantine.csv").read_text() == "case,reason\n"


def test_without_out_it_says_where_it_wrote(of_sound: Check) -> None:
    assert f"are in data-check/{of_sound.data.name}." in of_sound.done.stdout
    assert (of_sound.out / "check.json").is_file()


def test_what_is_wrong_is_said_with_case_rule_and_remedy(of_damaged: Check) -> None:
    done = of_damaged.done
    assert done.code == 1
    assert "2 must not be used, 1 should be looked at" in done.stdout
    table = " ".join(done.stdout.split())
    for words in (
        "error unreadable b",
        "error duplicate k",
        "warning brightness e",
        "keep one of them, with the right",
    ):
        assert words in table
    assert "They name cases and show images: keep them here." in table
    (line,) = done.stderr.splitlines()
    assert line.startswith("segfed: 2 of 12 cases must not be used; mend them, or leave them out: cp ")


def test_the_files_say_the_same(of_damaged: Check) -> None:
    told = json.loads((of_damaged.out / "check.json").read_text())
    assert (told["task"], told["looked_at"], told["usable"]) == ("tiny", 12, 10)
    assert [(f["severity"], f["rule"], f["case"]) for f in told["findings"]][:2] == [
        ("error", "unreadable", "b"),
        ("error", "duplicate", "k"),
    ]
    assert all(f["found"] and f["remedy"] for f in told["findings"])
    facts = {case["name"]: case for case in told["cases"]}
    assert set(facts) == set("acdefghijkl")
    assert facts["a"]["geometry"]["shape"] == [26, 24, 22]
    with (of_damaged.out / "quarantine.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["case", "reason"]
    assert [row[0] for row in rows[1:]] == ["b", "k"]
    assert rows[2][1] == "duplicate: it is the scan of c (the same file)"


def test_the_pictures_show_what_stands_out(of_damaged: Check, of_sound: Check) -> None:
    """Each is a picture with something on it; where nothing stands out, there are no suspects."""
    for name in ("distributions.png", "histograms.png", "suspects.png"):
        with Image.open(of_damaged.out / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 200
        assert pixels.std() > 10
    assert {path.name for path in of_sound.out.glob("*.png")} == {"distributions.png", "histograms.png"}


def test_once_the_lists_are_made_the_check_ends_well(of_damaged: Check, tmp_path: Path) -> None:
    """One beside the data, as the error says, and one elsewhere. What is listed is kept, and the old picture goes."""
    data = Path(shutil.copytree(of_damaged.data, tmp_path / "data"))
    out = Path(shutil.copytree(of_damaged.out, tmp_path / "checked"))
    copy = of_damaged.done.stderr.partition("leave them out: ")[2].partition(" (where")[0].split()
    assert copy == ["cp", str(of_damaged.out / "quarantine.csv"), str(of_damaged.data)]
    shutil.copy(of_damaged.out / "quarantine.csv", data)
    (tmp_path / "elsewhere.csv").write_text("case,reason\ne,another contrast\n")
    done = check(data, "--out", out, "--quarantine", tmp_path / "elsewhere.csv")
    assert (done.code, done.stderr) == (0, "")
    assert "9 cases of task tiny looked at" in done.stdout
    assert "3 cases are on the quarantine list" in done.stdout
    listed = {**read_quarantine(data / "quarantine.csv"), **read_quarantine(tmp_path / "elsewhere.csv")}
    assert read_quarantine(out / "quarantine.csv") == listed
    assert set(listed) == set("bek")
    assert not (out / "suspects.png").exists()


def test_a_folder_of_unreadable_cases_is_checked_to_its_end(folder: Path, tmp_path: Path) -> None:
    """One rule, many cases: the screen is cut short, the files have them all."""
    for name in "abcdefghijkl":
        image_of(folder, name).write_bytes(b"broken")
    done = check(folder, "--out", tmp_path / "checked")
    assert done.code == 1
    assert f"and {12 - SHOWN} more, see check.json" in done.stdout
    assert "12 of 12 cases must not be used" in done.stderr
    assert len(json.loads((tmp_path / "checked" / "check.json").read_text())["findings"]) == 12
    assert not (tmp_path / "checked" / "distributions.png").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["{data}", "--workers", "0"], "--workers must be 1 or more, got 0"),
        (["{data}", "--patient-pattern", "("], "is no regular expression"),
        (["{data}", "--quarantine", "nowhere.csv"], "cannot read the quarantine list nowhere.csv"),
        (["{data}", "--against", "nowhere"], "there is no folder nowhere"),
        (["{data}", "--task", "nothing"], "nothing"),
    ],
)
def test_a_mistake_is_one_line(sound: Path, tmp_path: Path, words: list[str], line: str) -> None:
    done = check(*(word.replace("{data}", str(sound)) for word in words), "--out", tmp_path)
    assert done.code == 1
    assert line in one_line(done)


def test_the_documentation_names_every_rule_and_no_other() -> None:
    """The tables of docs/check-data.md are the rules' own words."""
    page = (ROOT / "docs" / "check-data.md").read_text()
    for severity in Severity:
        named = [rule.name for rule in RULES if rule.severity is severity]
        section = page.partition(f"<!-- {severity}s -->")[2].partition("<!-- end -->")[0]
        rows = [line.split("|")[1].strip(" `") for line in section.splitlines() if line.startswith("| `")]
        assert rows == named
