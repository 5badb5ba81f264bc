"""The quarantine list: what it may look like, and that nobody trains on or measures with what it names."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site import SiteSettings
from client.site_file import read_site_file
from segformer3d.cases import find_cases
from segformer3d.dataset import SiteData, prepare
from segformer3d.errors import CaseError, ConfigurationError, DataError
from segformer3d.fit import initial_model
from segformer3d.prediction import NIFTI, Prediction, predict_cases
from segformer3d.quarantine import QUARANTINE_FILE, read_quarantine, with_quarantine, write_quarantine
from segformer3d.task import Task
from segformer3d.volumes import read_case
from simulations.partitions import write_partition
from tests.conftest import MakeDataset
from tests.examples import examples
from tests.segformer3d.test_dataset import names_of, scans

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=12)


def test_a_list_written_by_a_person_is_read(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('case,reason\nb,"moved, and blurred"\n\na,\n')
    assert read_quarantine(path) == {"b": "moved, and blurred", "a": "no reason is given"}


def test_a_list_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With semicolons, a byte order mark and the line ends of Windows."""
    path = tmp_path / "list.csv"
    path.write_bytes("\ufeffcase;reason\r\nbeta;Bewegung, stark\r\n".encode())
    assert read_quarantine(path) == {"beta": "Bewegung, stark"}


@settings(max_examples=examples(30))
@given(listed=st.dictionaries(TEXT, TEXT, max_size=6))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, listed: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("q") / "list.csv"
    write_quarantine(path, listed)
    assert read_quarantine(path) == listed
    assert path.read_text().startswith("case,reason\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must begin with the line case,reason"),
        (b"a,moved\n", "must begin with the line case,reason"),
        (b"case,reason\na,moved,much\n", "line 2 .* must hold a case and a reason"),
        (b"case,reason\n,moved\n", "line 2 .* must hold a case and a reason"),
        (b"case,reason\na\n", "line 2 .* must hold a case and a reason"),
        (b"case,reason\na,x\na,y\n", "line 3 .* names a case again"),
        (b"case,reason\n\xff,x\n", "is no UTF-8 text"),
        (b"case,reason\n" + b"a" * 200_000 + b",x\n", "is no CSV"),
    ],
)
def test_a_malformed_list_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as refused:
        read_quarantine(path)
    assert "\n" not in str(refused.value)


def test_a_list_that_is_named_must_be_there(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b"))
    with pytest.raises(DataError, match=r"cannot read the quarantine list .*none.csv: No such file"):
        prepare(folder, tiny_task, tmp_path / "cache", quarantine=tmp_path / "none.csv")


# --- What honours it -------------------------------------------------------------------------------------------------


def aside(data: SiteData) -> dict[str, str]:
    return {item.case: item.reason for item in data.set_aside}


@pytest.mark.parametrize("layout", ["decathlon", "plain"])
def test_both_lists_hold_and_what_they_name_is_counted(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset, layout: str
) -> None:
    """The one in the folder, and the one of a site whose folder cannot be written to."""
    folder = make_dataset(tmp_path / "data", scans("a", "b", "c", "d"), layout)
    before = prepare(folder, tiny_task, tmp_path / "cache")
    write_quarantine(folder / QUARANTINE_FILE, {"a": "a duplicate", "elsewhere": "of another folder"})
    write_quarantine(tmp_path / "own.csv", {"c": "moved"})
    data = prepare(folder, tiny_task, tmp_path / "cache", quarantine=tmp_path / "own.csv")
    assert names_of(data) == ["b", "d"]
    assert aside(data) == {"a": "quarantined: a duplicate", "c": "quarantined: moved"}
    assert data.describe() == "2 used, 2 set aside"
    assert before.describe() == "4 used, 0 set aside", "that a case is in the cache does not bring it back"
    (folder / QUARANTINE_FILE).unlink()
    assert names_of(prepare(folder, tiny_task, tmp_path / "cache")) == ["a", "b", "c", "d"]


def test_a_damaged_list_in_the_folder_ends_a_run_rather_than_being_passed_over(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset
) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b"))
    (folder / QUARANTINE_FILE).write_text("a\n")
    with pytest.raises(DataError, match="must begin with the line"):
        prepare(folder, tiny_task, tmp_path / "cache")


def test_a_quarantined_case_cannot_be_measured_with_either(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset
) -> None:
    """`segfed evaluate` reads cases like this, and counts those that it cannot."""
    folder = make_dataset(tmp_path / "data", scans("a", "b"))
    write_quarantine(folder / QUARANTINE_FILE, {"a": "seen in training"})
    first, second = find_cases(folder)
    with pytest.raises(CaseError, match=r"^quarantined: seen in training$"):
        read_case(first, tiny_task)
    read_case(second, tiny_task)


def test_a_quarantined_image_can_still_be_predicted(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b"))
    write_quarantine(folder / QUARANTINE_FILE, {"a": "no good label"})
    told: list[object] = []
    model, cpu = initial_model(tiny_task, 0), torch.device("cpu")
    predict_cases(model, tiny_task, find_cases(folder), tmp_path / "out", cpu, told.append, way=NIFTI)
    assert [isinstance(result, Prediction) for result in told] == [True, True]


def test_the_list_goes_with_the_cases_into_a_simulation(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset
) -> None:
    folder = make_dataset(tmp_path / "data", scans(*"abcdefgh"))
    write_quarantine(folder / QUARANTINE_FILE, dict.fromkeys("abcdefgh", "a duplicate"))
    folders = write_partition(folder, tmp_path / "sites", "iid", 2, 0, 0.2)
    for place in (*folders.sites, folders.held_out):
        assert all(case.quarantined == "a duplicate" for case in find_cases(place))


def test_a_site_names_its_list_in_its_file(tmp_path: Path) -> None:
    settings = 'name = "north"\ndata = "data"\nquarantine = "lists/own.csv"\n'
    text = settings + '[coordinator]\naddress = "a:1"\ncertificate = "c"\n'
    (tmp_path / "site.toml").write_text(text)
    assert read_site_file(tmp_path).site.quarantine == tmp_path.resolve() / "lists" / "own.csv"
    (tmp_path / "site.toml").write_text(text.replace('"lists/own.csv"', "3"))
    with pytest.raises(ConfigurationError, match="needs a text 'quarantine', got 3"):
        read_site_file(tmp_path)


def test_a_sites_run_honours_its_list(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    from client.phases import _prepare

    folder = make_dataset(tmp_path / "data", scans("a", "b", "c"))
    write_quarantine(tmp_path / "own.csv", {"b": "moved"})
    site = SiteSettings("north", folder, tmp_path / "work", quarantine=tmp_path / "own.csv")
    assert aside(_prepare(site, tiny_task, private=False)) == {"b": "quarantined: moved"}


def test_patients_of_the_pattern_stay_on_one_side(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    names = [f"p{number:02d}_{visit}" for number in range(12) for visit in "xy"]
    folder = make_dataset(tmp_path / "data", scans(*names))
    data = prepare(folder, tiny_task, tmp_path / "cache", patient_pattern=r"p\d+", validation_share=0.3)
    train, validation = ({case.name[:3] for case in side} for side in (data.train, data.validation))
    assert train
    assert validation
    assert train.isdisjoint(validation)


def test_marking_leaves_the_rest_of_a_case_alone(tmp_path: Path, make_dataset: MakeDataset) -> None:
    cases = find_cases(make_dataset(tmp_path / "data", scans("a", "b")))
    write_quarantine(tmp_path / "own.csv", {"a": "moved"})
    assert with_quarantine(cases, tmp_path / "own.csv") == (replace(cases[0], quarantined="moved"), cases[1])
    assert with_quarantine(cases, None) == cases
