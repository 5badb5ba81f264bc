"""The faults still fit the source: what they change is there once, what is left is Python, and their tests exist.

No fault is planted here; `python -m tests.faults` does that, which takes an hour.
"""

import ast
from functools import cache
from pathlib import Path

from .__main__ import TREE, Fault, Outcome, is_there, read_faults

FAULTS = read_faults()


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len(FAULTS) >= 34
    assert len({fault.name.lower() for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)


def test_what_each_changes_is_there_once_and_the_change_is_one() -> None:
    """More than one of spaces and comments."""
    assert [fault.name for fault in FAULTS if not _is_one_change(fault)] == []


def _is_one_change(fault: Fault) -> bool:
    before = (TREE / fault.file).read_text(encoding="utf-8")
    after = before.replace(fault.old, fault.new)
    return before.count(fault.old) == 1 and ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))


def test_their_tests_exist_and_are_not_slow() -> None:
    assert all(fault.tests for fault in FAULTS)
    assert [test for fault in FAULTS for test in fault.tests if not _is_played(test)] == []


def _is_played(test: str) -> bool:
    file, _, name = test.partition("::")
    there = test.startswith("tests/") and is_there(TREE, test)
    return there and (not name or name.partition("[")[0] not in _slow(TREE / file))


@cache
def _slow(path: Path) -> set[str]:
    """The tests that are marked so as a whole, or are in a file that is; single parameters of others may be."""
    tree = ast.parse(path.read_text())
    assigned = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
    all_are = any(text.startswith("pytestmark") and "mark.slow" in text for text in assigned)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if all_are or "pytest.mark.slow" in map(ast.unparse, node.decorator_list)}


def test_a_row_of_the_table_keeps_its_columns() -> None:
    fault = Fault("a | b", "a.py", "x", "y", ("tests/test_a.py",))
    assert Outcome(fault, "ESCAPED", False, 1.4).row() == "| a \\| b | `a.py` | ESCAPED | 1 |"


def test_a_test_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_one(): ...\n")
    there = {"test_a.py": True, "test_a.py::test_one[x]": True, "test_a.py::test_two": False, "test_b.py": False}
    assert {test: is_there(tmp_path, test) for test in there} == there
