"""What the docs tell people to type: each command is one, and by night those that one machine can play are played."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

import segfed

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = " --rounds 1 --local-epochs 1"  # that a run goes through; what comes out of whole ones is in docs/accuracy.md


def blocks(page: Path, language: str = "sh") -> list[str]:
    """The blocks of a page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


# Every line of a shell that starts with `segfed`, and its page.
COMMANDS = [
    (str(page.relative_to(ROOT)), line)
    for page in PAGES
    for block in blocks(page)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("segfed ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_of_the_docs_is_one(page: str, line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    assert segfed.parser().parse_args(words).command == words[0]


def test_files_that_the_docs_name_are_there() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?<![\w/])docs/examples/[\w.-]+", text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def play(script: str, folder: Path) -> None:
    """What a shell makes of it, where `segfed` is installed."""
    values = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=values, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, script + done.stdout[-2000:] + done.stderr[-4000:]


def with_data(block: str, shared: Path, more: str = "") -> str:
    """A block about the Decathlon's hippocampi, on those of the shared data; `segfed simulate` has more options."""
    block = re.sub(r"(/path/to/)?Task04_Hippocampus", str(shared / "data" / "hippocampus"), block)
    block = block.replace("docs/examples", str(ROOT / "docs" / "examples"))
    return re.sub(r"^segfed simulate.*$", rf"\g<0>{more}", block, flags=re.M)


@pytest.mark.slow
def test_the_readme(tmp_path: Path, shared: Path) -> None:
    _, _, simulate = blocks(ROOT / "README.md")
    (model,) = blocks(ROOT / "README.md", "python")
    play(f"{sys.executable} -c {shlex.quote(model)}", tmp_path)
    play(with_data(simulate, shared, SHORT), tmp_path)


@pytest.mark.slow
def test_the_quickstart(tmp_path: Path, shared: Path) -> None:
    _, watch, use, bring = blocks(ROOT / "docs" / "quickstart.md")
    play(watch, tmp_path)  # whole: it is what everybody tries first
    play(use, tmp_path)
    assert (tmp_path / "scores" / "report.html").is_file()
    play(with_data(bring, shared, SHORT), tmp_path)


@pytest.mark.slow
def test_comparing_and_handing_on_models(tmp_path: Path, shared: Path) -> None:
    """docs/evaluate.md, then docs/export.md with what came out, in other programs too."""
    first, compare, strata = blocks(ROOT / "docs" / "evaluate.md")
    play(with_data(compare, shared, SHORT), tmp_path)
    play(f"cp best/last.safetensors . && cp -r best/sites/held-out . && rm -r scores\n{first}", tmp_path)
    cases = sorted(path.name.split(".")[0] for path in (tmp_path / "held-out" / "labelsTr").iterdir())
    rows = [f"{case},{scanner}" for case, scanner in zip(cases, ["GE", "Siemens"] * len(cases), strict=False)]
    (tmp_path / "scanners.csv").write_text("\n".join(["case,scanner", *rows]) + "\n")
    play(f"rm -r scores\n{strata}", tmp_path)
    export, bundle = blocks(ROOT / "docs" / "export.md")
    play(export.replace("runs/RUN", "default"), tmp_path)
    images = tmp_path / "held-out" / "imagesTr"
    run_bundle = bundle.partition("\n")[2]  # what it installs the tests have
    play(run_bundle.replace("IMAGES", str(images)).replace("LABELS", "labels"), tmp_path)
    assert sorted(path.name for path in (tmp_path / "labels").rglob("*.nii.gz"))
    nib.save(nib.load(next(images.iterdir())), tmp_path / "scan.nii.gz")
    for program in blocks(ROOT / "docs" / "export.md", "python"):
        play(f"{sys.executable} -c {shlex.quote(program)}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number"), [("simulate", 0), ("accuracy", 1), ("exchange", 0), ("exchange", 2), ("heterogeneity", 0)]
)
def test_simulations(page: str, number: int, tmp_path: Path, shared: Path) -> None:
    play(with_data(blocks(ROOT / "docs" / f"{page}.md")[number], shared, SHORT), tmp_path)


@pytest.mark.slow
def test_privacy(tmp_path: Path, shared: Path) -> None:
    private, ledger, verify, audit = blocks(ROOT / "docs" / "privacy.md")
    (tmp_path / "federation.toml").write_text(blocks(ROOT / "docs" / "privacy.md", "toml")[0])
    play(with_data(private, shared, " --rounds 1 --out RUN"), tmp_path)
    play(verify, tmp_path)
    play(audit.splitlines()[0], tmp_path)
    assert "/srv/segfed" in ledger, "a site's; tests/client/privacy has them"
