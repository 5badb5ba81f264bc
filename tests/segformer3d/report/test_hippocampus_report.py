"""Two models, trained on real hippocampi, compared on others, and the report looked at in a browser."""

import json
from pathlib import Path

import pytest

import segfed

from ...looks import looks_right

EPOCHS = {"longer": 6, "shorter": 2}


def some_cases(shared: Path, folder: Path, part: slice) -> Path:
    """A dataset of some of the real cases, which stay where they are."""
    source = shared / "data" / "hippocampus"
    described = json.loads((source / "dataset.json").read_text())
    training = described["training"][part]
    for place in (Path(entry[kind]) for entry in training for kind in ("image", "label")):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).symlink_to((source / place).resolve())
    (folder / "dataset.json").write_text(json.dumps({**described, "training": training}))
    return folder


@pytest.mark.slow
def test_two_models_on_real_hippocampi_are_compared_in_a_report(shared, tmp_path, browser):
    train, held_out = (
        some_cases(shared, tmp_path / n, p) for n, p in (("train", slice(40)), ("test", slice(-16, None)))
    )
    for name, epochs in EPOCHS.items():
        words = ["train", "--data", train, "--epochs", epochs, "--out", tmp_path / name]
        assert segfed.main([str(word) for word in words]) == 0
    longer, shorter = (tmp_path / name / "model.safetensors" for name in EPOCHS)
    words = ["evaluate", "--model", longer, "--against", shorter, "--data", held_out, "--out", tmp_path / "out"]
    assert segfed.main([str(word) for word in words]) == 0
    mean = json.loads((tmp_path / "out" / "comparison.json").read_text())["differences"][0]
    assert mean["difference"]["low"] > 0
    assert mean["p_value"] < 0.01
    text = (tmp_path / "out" / "report.md").read_text()
    assert "This model is better on these cases" in text
    assert "## Calibration" in text
    looks_right(browser, tmp_path / "out" / "report.html")
