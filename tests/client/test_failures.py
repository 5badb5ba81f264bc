"""What a site says of its failures: enough to act on, and nothing of the data."""

import errno

import pytest
import torch
from flwr.app import Error

from client.contract import EVALUATE, PREPARE, TRAIN
from client.failures import SITE_FAILURE, SiteFailure, describe, read_error
from segformer3d.errors import CheckpointError, ConfigurationError, DataError, ReplyError
from segformer3d.files import StorageError
from segformer3d.held_out import HeldOutError

SECRET = "/data/Jane_Doe/scan.nii.gz"


def storage_error(number: int) -> StorageError:
    wrapped = StorageError(f"cannot write {SECRET}")
    wrapped.__cause__ = OSError(number, "text", SECRET)
    return wrapped


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError(SECRET), "no usable case; see the log at the site"),
        (HeldOutError(SECRET), "its data hold held-out cases of the published protocol; leave them out at the site"),
        (OSError(errno.ENOSPC, "x", SECRET), "its disk is full; free space at the site"),
        (storage_error(errno.ENOSPC), "its disk is full; free space at the site"),
        (storage_error(errno.EACCES), "a file could not be read or written (EACCES); see the log at the site"),
        (OSError(SECRET), "a file could not be read or written (unknown); see the log at the site"),
        (
            CheckpointError(SECRET),
            "a file that it keeps for this run is damaged; see the log at the site, which names it",
        ),
        (ConfigurationError(SECRET), "its settings do not fit this run; see the log at the site"),
        (MemoryError(SECRET), "not enough memory; choose a smaller patch or batch size, or see the log at the site"),
        (torch.OutOfMemoryError(SECRET), "not enough memory; choose a smaller patch"),
        (ReplyError("the message lacks 'run'"), "the message lacks 'run'; install the same segfed at both ends"),
        (ZeroDivisionError(SECRET), "its program failed (ZeroDivisionError); see the log at the site"),
    ],
)
def test_reason_and_remedy_but_never_the_exceptions_text(error: Exception, said: str) -> None:
    text = str(describe("site-2", TRAIN, error))
    assert text.startswith(f"site-2 could not train: {said}")
    assert "Jane" not in text


def test_the_text_that_the_brief_of_an_operator_shows() -> None:
    failure = describe("site-2", PREPARE, DataError(SECRET))
    assert failure.encode().reason == "site-2 could not prepare its data: no usable case; see the log at the site"


def test_the_coordinator_reads_what_the_site_wrote() -> None:
    for phase in (PREPARE, TRAIN, EVALUATE):
        failure = SiteFailure("site-2", phase, "reason: with colon", "remedy")
        assert read_error(failure.encode(), "node 5", phase) == failure


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Error(5, SECRET), "the site went offline"),
        (Error(8, SECRET), "its process died"),
        (Error(3, SECRET), "its reply was lost or came too late"),
        (Error(2, f"<class 'ValueError'>:<'{SECRET}'>"), "its client failed (Flower's code 2)"),
        (Error(SITE_FAILURE, None), "its client failed (Flower's code 100)"),
        (Error(SITE_FAILURE, "x" * 10_000), "its client failed (Flower's code 100)"),
        (Error(SITE_FAILURE, f"\x1b[0m{SECRET}"), "its client failed (Flower's code 100)"),
    ],
)
def test_foreign_texts_are_not_repeated(error: Error, reason: str) -> None:
    failure = read_error(error, "site-9", TRAIN)
    assert (failure.site, failure.reason) == ("site-9", reason)
    assert failure.remedy
