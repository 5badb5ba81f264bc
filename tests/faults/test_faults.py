"""The faults still fit the source: what they change is there once, what is left is Python, and their tests exist.

No fault is planted here; `python -m tests.faults` does that, which takes an hour.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

from .__main__ import TREE, Fault, Outcome, is_there, read_faults

FAULTS = read_faults()
EACH = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len(FAULTS) >= 34
    assert len({fault.name.lower() for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)


@EACH
def test_what_it_changes_is_there_once_and_the_change_is_one(fault: Fault) -> None:
    before = (TREE / fault.file).read_text(encoding="utf-8")
    assert before.count(fault.old) == 1
    after = before.replace(fault.old, fault.new)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before)), "more than spaces and comments"


@EACH
def test_its_tests_exist_and_are_not_slow(fault: Fault) -> None:
    assert fault.tests
    for test in fault.tests:
        assert is_there(TREE, test), test
        assert test.startswith("tests/")
        file, _, name = test.partition("::")
        assert not name or name.partition("[")[0] not in _slow(TREE / file), test


@cache
def _slow(path: Path) -> set[str]:
    """The tests that are marked so as a whole; single parameters of others may be."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if "pytest.mark.slow" in map(ast.unparse, node.decorator_list)}


def test_a_row_of_the_table_keeps_its_columns() -> None:
    fault = Fault("a | b", "a.py", "x", "y", ("tests/test_a.py",))
    assert Outcome(fault, "ESCAPED", False, 1.4).row() == "| a \\| b | `a.py` | ESCAPED | 1 |"


def test_a_test_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_one(): ...\n")
    there = {"test_a.py": True, "test_a.py::test_one[x]": True, "test_a.py::test_two": False, "test_b.py": False}
    assert {test: is_there(tmp_path, test) for test in there} == there
