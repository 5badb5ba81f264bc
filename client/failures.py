"""What a site says when it cannot do its part: site, phase and remedy, but never a path, a case or a value.

An exception's own text may name patients' files, so it goes to the site's log and nowhere else; the coordinator gets
one of the sentences below. What reaches the coordinator from anywhere but this module is not repeated there either.
"""

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from flwr.app import Error
from flwr.common.constant import ErrorCode

from client.contract import EVALUATE, PREPARE, TRAIN
from client.exchange.parcel import MissingBaseError
from client.limits import RefusalError
from client.privacy.ledger import LedgerError
from client.weights import printable
from segformer3d.audit import AuditError
from segformer3d.errors import CheckpointError, ConfigurationError, DataError, ReplyError
from segformer3d.held_out import HeldOutError

SITE_FAILURE, SITE_REFUSAL, SITE_LACKS = 100, 101, 102  # our own error codes; Flower's are 0 to 8
DEEDS: Mapping[str, str] = {PREPARE: "prepare its data", TRAIN: "train", EVALUATE: "measure the model"}
SEE_LOG = "see the log at the site"

_LONGEST = 400
_TOLD = re.compile(r"(?P<site>[\w -]{1,40}) could not [\w ]+: (?P<reason>.+); (?P<remedy>.+)")
_FINAL = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.INVALID_FAB, SITE_REFUSAL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REASONS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    ((HeldOutError,), "its data hold held-out cases of the published protocol", "leave them out at the site"),
    ((DataError,), "no usable case", SEE_LOG),
    ((CheckpointError,), "a file that it keeps for this run is damaged", SEE_LOG + ", which names it"),
    ((ConfigurationError,), "its settings do not fit this run", SEE_LOG),
    ((AuditError,), "its audit trail is damaged", SEE_LOG),
    ((LedgerError,), "its privacy ledger is in use, damaged or of other patients", SEE_LOG),
    ((MemoryError, torch.OutOfMemoryError), "not enough memory", "choose a smaller patch or batch size, or " + SEE_LOG),
)
_LASTING = (DataError, ConfigurationError)  # what a minute more does not mend
SAME_VERSION = "install the same segfed at both ends"
_CODES: Mapping[int, tuple[str, str]] = {
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: ("the site could not load its client", SAME_VERSION),
    ErrorCode.MESSAGE_UNAVAILABLE: ("its reply was lost or came too late", "check its connection and the deadline"),
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: (
        "its reply was lost or came too late",
        "check its connection and the deadline",
    ),
    ErrorCode.NODE_UNAVAILABLE: ("the site went offline", "check its SuperNode and its connection"),
    ErrorCode.INVALID_FAB: ("the site refused the app", SAME_VERSION),
    ErrorCode.CLIENT_APP_CRASHED: ("its process died", "check the site's memory, and " + SEE_LOG),
}


@dataclass(frozen=True)
class SiteFailure:
    """One failed message.

    Attributes:
        site: its name.
        phase: the message's type.
        reason, remedy: what was wrong, and what to do about it.
        final: whether the same message would fail again, whatever happens at the site meanwhile.
        lacks_base: whether it is only that the site does not hold the model whose change it was sent.
    """

    site: str
    phase: str
    reason: str
    remedy: str
    final: bool = False
    lacks_base: bool = False

    def __str__(self) -> str:
        return f"{self.site} could not {DEEDS[self.phase]}: {self.reason}; {self.remedy}"

    def encode(self) -> Error:
        """What travels instead of a reply."""
        return Error(SITE_LACKS if self.lacks_base else SITE_REFUSAL if self.final else SITE_FAILURE, str(self))


def describe(site: str, phase: str, error: Exception) -> SiteFailure:
    """What may be said of an exception outside the site."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in _FULL:
        return SiteFailure(site, phase, "its disk is full", "free space at the site")
    if isinstance(error, ReplyError):  # written by our own modules about the coordinator's message
        remedy, lacks_base = getattr(error, "remedy", SAME_VERSION), isinstance(error, MissingBaseError)
        return SiteFailure(site, phase, str(error), remedy, not lacks_base, lacks_base)
    if isinstance(error, RefusalError):
        return SiteFailure(site, phase, str(error), "settle it with the site, whose limits these are", final=True)
    for kinds, reason, remedy in _REASONS:
        if isinstance(error, kinds):
            return SiteFailure(site, phase, reason, remedy, final=isinstance(error, _LASTING))
    if isinstance(cause, OSError):
        return SiteFailure(site, phase, f"a file could not be read or written ({_symbol(cause)})", SEE_LOG)
    return SiteFailure(site, phase, f"its program failed ({type(error).__name__})", SEE_LOG, final=True)


def read_error(error: Error, site: str, phase: str) -> SiteFailure:
    """What an error reply says, whoever wrote it. `site` is who sent it, as far as that is known."""
    own, final = error.code in (SITE_FAILURE, SITE_REFUSAL, SITE_LACKS), error.code in _FINAL
    told = _TOLD.fullmatch(printable(error.reason or "", _LONGEST)) if own else None
    if told:
        lacks_base = error.code == SITE_LACKS
        return SiteFailure(told["site"], phase, told["reason"], told["remedy"], final, lacks_base)
    reason, remedy = _CODES.get(error.code, (f"its client failed (Flower's code {error.code})", SEE_LOG))
    return SiteFailure(site, phase, reason, remedy, final)


def _symbol(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")
