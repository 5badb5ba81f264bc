"""`python -m tests.faults.draw --seed S`: draw faults by chance and print them as `drawn.toml` lists them.

Cosmic Ray (`pip install cosmic-ray`) says what can be changed: an operator, a comparison, a number, a condition. Of all
such changes in an area each is drawn with the same chance; those of type annotations, which change nothing, are left
out. What is drawn is kept as it is: a change that turns out to mean the same is named in `drawn.toml`, and the next one
of its area takes its place.
"""

import argparse
import ast
import difflib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.mutating import mutate_code

TREE = Path(__file__).resolve().parents[2]
# What is drawn from, and the tests that should notice.
AREAS = {
    "aggregation": (("server/aggregation.py",), ("tests/server/test_aggregation.py", "tests/server/test_rounds.py")),
    "accounting": (("client/privacy/accounting.py",), ("tests/client/privacy/test_accounting.py",)),
    "gate": (("server/gate.py",), ("tests/server/test_gate.py", "tests/deployment/test_attackers.py")),
    "metrics": (("segformer3d/metrics.py", "segformer3d/surfaces.py"), ("tests/segformer3d/test_metrics.py",)),
    "geometry": (
        ("segformer3d/volumes.py", "segformer3d/dicom/geometry.py"),
        ("tests/segformer3d/test_volumes.py", "tests/segformer3d/dicom"),
    ),
}  # fmt: skip
# What hardly runs once (a name in another's place, bits of what is no integer), and what Cosmic Ray trips over.
LEFT_OUT = re.compile(r"core/(Variable|Exception|RemoveDecorator|.*(Shift|Bit|Invert|_Is))")
Change = tuple[str, str, str]  # the operator, the text before and after


def changes(path: Path) -> Iterator[Change]:
    """All changes of a file that leave it Python, with more than other annotations."""
    source = path.read_text(encoding="utf-8")
    bare = _bare(source)
    for name in sorted(cosmic_ray.plugins.operator_names()):
        if LEFT_OUT.match(name):
            continue
        operator, number = cosmic_ray.plugins.get_operator(name)(), 0
        while (changed := mutate_code(source, operator, number)) is not None:
            number += 1
            if _bare(changed) not in (bare, None):
                yield name, *_around(source, changed)


def _bare(source: str) -> str | None:
    """The program without its annotations; None if it is none."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # Cosmic Ray takes the stars of `{**one}` for an operator
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _around(before: str, after: str) -> tuple[str, str]:
    """The lines that differ, with as many above as it takes to find them once."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    differing = [
        code for code in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if code[0] != "equal"
    ]
    (_, first, end, new_first, _), (*_, new_end) = (differing[0], differing[-1])
    end = differing[-1][2]
    while before.count("".join(old[first:end])) != 1:
        first, new_first = first - 1, new_first - 1
    return "".join(old[first:end]), "".join(new[new_first:new_end])


def main() -> None:
    """Print the first faults of each area, drawn by a seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.draw", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--each", type=int, default=2, help="how many of each area (default: 2)")
    asked = parser.parse_args()
    for area, (files, tests) in AREAS.items():
        every = [(file, *change) for file in files for change in changes(TREE / file)]
        drawn = random.Random(f"{asked.seed} {area}").sample(every, len(every))[: asked.each]
        print(f"# --- {area}: {len(every)} changes")
        for number, (file, name, old, new) in enumerate(drawn, start=1):
            print(f'\n[[fault]]\nname = "drawn from {area}, {number}: {name.removeprefix("core/")}"\nfile = "{file}"')
            print(f"old = '''\n{old}'''\nnew = '''\n{new}'''\ntests = {json.dumps(tests)}")
        print()


if __name__ == "__main__":
    main()
