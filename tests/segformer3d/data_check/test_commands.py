"""`segfed data check` as a hospital meets it: what it prints, what it leaves, how it ends, and what happens next."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segfed
from segformer3d.data_check.report import SHOWN
from segformer3d.data_check.rules import RULES, Severity
from segformer3d.quarantine import read_quarantine
from tests.segformer3d.data_check.conftest import image_of, label_of, read, write

ROOT = Path(__file__).resolve().parents[3]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, output and errors of `segfed data check`."""
    code = segfed.main(["data", "check", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def damaged(folder: Path) -> Path:
    """A truncated case, a copied one, and one with another contrast."""
    image_of(folder, "b").write_bytes(image_of(folder, "b").read_bytes()[:500])
    for place in (image_of, label_of):
        place(folder, "k").write_bytes(place(folder, "c").read_bytes())
    values = read(image_of(folder, "e"))
    write(image_of(folder, "e"), values.max() + values.min() - values)
    return folder


def test_sound_cases_end_well(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, sound, "--out", tmp_path / "checked")
    assert (code, err) == (0, "")
    assert "12 cases of task tiny looked at" in out
    assert "0 must not be used, 0 should be looked at" in out
    assert "spacing 1 mm" not in out
    assert "1 x 1 x 1 mm, 26 x 24 x 22 voxels" in out
    assert "Nothing stands out." in out
    assert (tmp_path / "checked" / "quarantine.csv").read_text() == "case,reason\n"


def test_what_is_wrong_is_said_with_case_rule_and_remedy(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, damaged, "--out", tmp_path / "checked")
    assert code == 1
    assert "2 must not be used, 1 should be looked at" in out
    table = " ".join(out.split())
    for words in (
        "error unreadable b",
        "error duplicate k",
        "warning brightness e",
        "keep one of them, with the right",
    ):
        assert words in table
    assert "They name cases and show images: keep them here." in table
    (line,) = err.splitlines()
    assert line.startswith("segfed: 2 of 12 cases must not be used; mend them, or leave them out: cp ")


def test_the_files_say_the_same(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, damaged, "--out", tmp_path)
    told = json.loads((tmp_path / "check.json").read_text())
    assert (told["task"], told["looked_at"], told["usable"]) == ("tiny", 12, 10)
    assert [(f["severity"], f["rule"], f["case"]) for f in told["findings"]][:2] == [
        ("error", "unreadable", "b"),
        ("error", "duplicate", "k"),
    ]
    assert all(f["found"] and f["remedy"] for f in told["findings"])
    facts = {case["name"]: case for case in told["cases"]}
    assert set(facts) == set("acdefghijkl")
    assert facts["a"]["geometry"]["shape"] == [26, 24, 22]
    with (tmp_path / "quarantine.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["case", "reason"]
    assert [row[0] for row in rows[1:]] == ["b", "k"]
    assert rows[2][1] == "duplicate: it is the scan of c (the same file)"


def test_once_the_list_lies_beside_the_data_the_check_ends_well(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that the error names does it; a second check keeps what is listed."""
    _, _, err = run(capsys, damaged, "--out", tmp_path / "checked")
    copy = err.partition("leave them out: ")[2].partition(" (where")[0].split()
    assert copy == ["cp", str(tmp_path / "checked" / "quarantine.csv"), str(damaged)]
    (damaged / "quarantine.csv").write_bytes((tmp_path / "checked" / "quarantine.csv").read_bytes())
    code, out, err = run(capsys, damaged, "--out", tmp_path / "again")
    assert (code, err) == (0, "")
    assert "10 cases of task tiny looked at" in out
    assert "2 cases are on the quarantine list" in out
    assert read_quarantine(tmp_path / "again" / "quarantine.csv") == read_quarantine(damaged / "quarantine.csv")


def test_a_list_elsewhere_does_as_well(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, damaged, "--out", tmp_path / "checked")
    listed = tmp_path / "checked" / "quarantine.csv"
    code, _, _ = run(capsys, damaged, "--out", tmp_path / "again", "--quarantine", listed)
    assert code == 0


def test_the_pictures_show_what_stands_out(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a picture with something on it, and the suspects are gone once there are none."""
    run(capsys, damaged, "--out", tmp_path / "checked")
    for name in ("distributions.png", "histograms.png", "suspects.png"):
        with Image.open(tmp_path / "checked" / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 200
        assert pixels.std() > 10
    for name in "bek":
        image_of(damaged, name).unlink()
    described = json.loads((damaged / "dataset.json").read_text())
    kept = [entry for entry in described["training"] if not any(f"/{name}.nii" in entry["image"] for name in "bek")]
    (damaged / "dataset.json").write_text(json.dumps({**described, "training": kept}))
    run(capsys, damaged, "--out", tmp_path / "checked")
    assert not (tmp_path / "checked" / "suspects.png").exists()


def test_a_folder_of_unreadable_cases_is_checked_to_its_end(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One rule, many cases: the screen is cut short, the files have them all."""
    for name in "abcdefghijkl":
        image_of(folder, name).write_bytes(b"broken")
    code, out, err = run(capsys, folder, "--out", tmp_path / "checked")
    assert code == 1
    assert f"and {12 - SHOWN} more, see check.json" in out
    assert "12 of 12 cases must not be used" in err
    assert len(json.loads((tmp_path / "checked" / "check.json").read_text())["findings"]) == 12
    assert not (tmp_path / "checked" / "distributions.png").exists()


def test_without_out_it_says_where_it_wrote(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, sound)
    assert f"are in data-check/{sound.name}." in out
    assert (tmp_path / "data-check" / sound.name / "check.json").is_file()


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
def test_a_mistake_is_one_line(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    told: list[Any] = [word.replace("{data}", str(sound)) for word in words]
    code, _, err = run(capsys, *told, "--out", tmp_path)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert line in err


def test_the_documentation_names_every_rule_and_no_other() -> None:
    """The tables of docs/check-data.md are the rules' own words."""
    page = (ROOT / "docs" / "check-data.md").read_text()
    for severity in Severity:
        named = [rule.name for rule in RULES if rule.severity is severity]
        section = page.partition(f"<!-- {severity}s -->")[2].partition("<!-- end -->")[0]
        rows = [line.split("|")[1].strip(" `") for line in section.splitlines() if line.startswith("| `")]
        assert rows == named
