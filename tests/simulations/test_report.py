"""The summary of a run: what the federation cost, worked by hand."""

import pytest

from client.contract import PrepareReply
from segformer3d.training_reports import ValidationReport
from server.records import RunFinished, RunRecord, Score, SitesReady
from simulations.report import Journal


def journal_of(
    preparing: list[float], rounds: list[list[float]], final: list[float], wall: float, at_once: int
) -> Journal:
    """A journal of rounds whose sites computed for so many seconds."""
    journal = Journal(at_once, [])
    sites = {f"site-{n}": ValidationReport((0.5,), 1.0, 1, seconds) for n, seconds in enumerate(final)}
    score = Score(len(rounds), (0.5,), 0.5, 1.0, 1)
    journal.note(RunFinished(RunRecord("run", len(rounds), score, None, sites, (), 0, 0)))
    for seconds in rounds:
        journal._own_rounds.append({"sites": [{"training_seconds": s, "validation_seconds": 0.0} for s in seconds]})
    ready = [PrepareReply(f"site-{n}", "run", 1, 1, 0, (0.1,), seconds) for n, seconds in enumerate(preparing)]
    journal.note(SitesReady(tuple(ready)))
    journal._seconds = wall
    return journal


def test_overhead_is_what_the_sites_did_not_compute():
    """Two cores. 4 + 4 + 2 + 2 s take 6 s; 7 + 1 s take 7 s, the longest; 1 + 1 s take 1 s; 2 s before: 16 of 18."""
    journal = journal_of([2, 2], [[4, 4, 2, 2], [7, 1]], [1, 1], wall=18.0, at_once=2)
    assert journal.overhead_share == pytest.approx(1 - (2 + 6 + 7 + 1) / 18)


def test_a_site_is_not_divided_over_cores():
    """Three sites of 3 s on two cores take 6 s, not 4.5 s, with no federation at all."""
    assert journal_of([0], [[3, 3, 3]], [0], wall=6.0, at_once=2).overhead_share == pytest.approx(0)


def test_overhead_is_never_negative():
    assert journal_of([0], [[4, 4]], [0, 0], wall=3.9, at_once=2).overhead_share == 0.0


def test_rounds_of_an_earlier_session_count_in_its_seconds():
    journal = Journal(2, [{"seconds": 2.5, "sites": []}, {"seconds": 2.5, "sites": []}])
    assert journal.earlier_seconds == 5.0
    assert len(journal.rounds) == 2
