"""Replies are guests: each is looked over before it may touch the global model.

A reply that breaks a rule is set aside with its site, phase, reason and remedy, and the round goes on with the others.
What passes is finite, of the model's layout, and of a size that keeps the average finite and sane.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from client.contract import EvaluateReply, EvaluateRequest, PrepareReply, PrepareRequest, TrainReply, TrainRequest
from client.failures import SAME_VERSION, SEE_LOG
from client.privacy.promise import WITHHELD, Promise
from client.privacy.release import no_validation, public_preparation, public_training
from client.privacy.settings import PrivacySettings
from client.weights import COUNTER, MEAN, VARIANCE, Weights, check_layout, is_buffer, parameter_norm
from segformer3d.errors import ReplyError
from segformer3d.tasks import Task
from segformer3d.training_reports import TrainingReport, ValidationReport

MOST_COUNT = 10_000_000
# An update may be this many times as long as the global parameters, and so much longer. AdamW at a sane rate stays
# below one; more is training that exploded.
ABSOLUTE_FACTOR, ABSOLUTE_FLOOR = 10.0, 10.0
# And this many times as long as the median of the other sites' updates, where there are two or more others. A site with
# a hundred times as many cases takes a hundred times as many steps and is no outlier.
RELATIVE_FACTOR = 100.0
MOST_LOSS = 1e3  # the logarithm of the least float32 is 103
ROUNDING = 1.001  # sums of float32 may pass a limit by so much
MOST_MEAN, MOST_VARIANCE, MOST_BATCHES = 1e6, 1e12, 10**12

# Counts of a site's data and the least that they may be, and counts of its work.
_COUNTS = {"train_cases": 1, "validation_cases": 0, "set_aside": 0}
_WORK = ("cases", "samples", "steps")
_TRAINING_BROKE = f"lower the learning rate, or {SEE_LOG}"


class UnfitReplyError(ReplyError):
    """A reply whose form is right and whose content is not, with the remedy for just that."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class SetAside:
    """A reply or a site that was not used.

    Attributes:
        site: its name, or "node N" as long as it has not given one.
        phase: "prepare", "train" or "evaluate".
        reason: what was wrong.
        remedy: what to do about it.
    """

    site: str
    phase: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.site}: {self.reason}; {self.remedy}"


def set_aside(site: str, phase: str, error: ReplyError) -> SetAside:
    """The record of a reply that a check refused."""
    return SetAside(site, phase, str(error), getattr(error, "remedy", SAME_VERSION))


def check_prepare(reply: PrepareReply, request: PrepareRequest) -> None:
    """Whether a site that answers this request may take part in the run.

    Raises:
        ReplyError: a number is out of its range, or in a private run more than what everyone knows.
    """
    _check_who(reply.site, reply.run, 0, (reply.site, request.run, 0))
    _check_promise(reply.promise, request.privacy)
    for name, low in _COUNTS.items():
        _check_count(name, getattr(reply, name), low)
    if reply.promise is not None:
        _check_public(reply, public_preparation(reply.site, reply.run, reply.promise), (*_COUNTS, "balance", "seconds"))
        return
    structures = len(request.task.structures)
    if len(reply.balance) != structures or not all(0 <= share <= 1 for share in reply.balance):
        raise UnfitReplyError(f"its class balance must be {structures} shares in [0, 1]", SEE_LOG)
    _check_seconds(reply.seconds)


def check_train(reply: TrainReply, ready: PrepareReply, request: TrainRequest, longest: float) -> None:
    """Whether a reply of a round may be aggregated, as far as it can be told from itself.

    Args:
        reply: what came.
        ready: what the site said about its data.
        request: what was asked, with the global model.
        longest: the most that its update may measure, see `longest_update`.

    Raises:
        ReplyError: something about it is not as it must be.
    """
    _check_who(reply.site, reply.run, reply.round, (ready.site, ready.run, request.round))
    for name in _WORK:
        _check_count(name, getattr(reply.training, name), 1)
    if reply.training.cases != ready.train_cases:
        raise UnfitReplyError(
            f"it trained on {reply.training.cases} cases and had prepared {ready.train_cases}",
            "leave the site's data as it is during a run",
        )
    _check_promise(reply.promise, request.privacy)
    if request.privacy is not None and ready.promise is not None:
        public = public_training(request.privacy, ready.promise)
        _check_public(reply.training, public, (*_WORK, "loss", "seconds"), "training ")
    else:
        _check_work(reply.training, request)
    _check_validation(reply.validation, ready, request.task)
    check_layout(reply.update, request.weights)
    _check_values(reply)
    _check_control(reply.control, request)
    _check_norm(reply.update_norm, longest)


def longest_update(weights: Weights) -> float:
    """The norm above which an update of these weights is taken for training that exploded."""
    return ABSOLUTE_FACTOR * parameter_norm(weights) + ABSOLUTE_FLOOR


def check_evaluate(reply: EvaluateReply, ready: PrepareReply, request: EvaluateRequest) -> None:
    """Whether the measurement of the final model makes sense.

    Raises:
        ReplyError: it does not.
    """
    _check_who(reply.site, reply.run, reply.round, (ready.site, ready.run, request.round))
    _check_validation(reply.validation, ready, request.task)


def set_aside_outliers(
    replies: Sequence[TrainReply], phase: str
) -> tuple[tuple[TrainReply, ...], tuple[SetAside, ...]]:
    """Replies whose update is not absurdly long beside the others', and the rest. Below three replies all are kept."""
    norms = {reply.site: reply.update_norm for reply in replies}
    limits = {site: RELATIVE_FACTOR * _median_of_others(norms, site) for site in norms} if len(norms) >= 3 else {}
    out = {site for site, limit in limits.items() if limit > 0 and norms[site] > limit}
    aside = [
        SetAside(site, phase, f"its update is over {RELATIVE_FACTOR:g} times as long as the others'", _TRAINING_BROKE)
        for site in sorted(out)
    ]
    return tuple(reply for reply in replies if reply.site not in out), tuple(aside)


def _median_of_others(norms: Mapping[str, float], site: str) -> float:
    return median(norm for other, norm in norms.items() if other != site)


def _check_who(site: str, run: str, round_number: int, expected: tuple[str, str, int]) -> None:
    if (run, round_number) != expected[1:]:
        raise UnfitReplyError("it answers another run or round", "restart the site")
    if site != expected[0]:
        raise UnfitReplyError(f"it calls itself {site} now", "give each site one name, and keep it during a run")


def _check_count(name: str, value: int, low: int) -> None:
    if not low <= value <= MOST_COUNT:
        raise UnfitReplyError(f"its number of {name} must be in [{low}, {MOST_COUNT}]", SEE_LOG)


def _check_promise(promise: Promise | None, privacy: PrivacySettings | None) -> None:
    """Whether a site promises no less than the run asks for."""
    if (privacy is None) != (promise is None):
        told = "asks for privacy that it does not promise" if promise is None else "has no privacy, and it promises one"
        raise UnfitReplyError(f"the run {told}", SAME_VERSION)
    if privacy is None or promise is None:
        return
    numbers = (promise.epsilon, promise.delta, promise.spent, promise.noise_multiplier, promise.sampling_rate)
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or promise.patients < 1:
        raise UnfitReplyError("its promise of privacy holds numbers out of their ranges", SEE_LOG)
    if promise.epsilon > privacy.epsilon:
        raise UnfitReplyError(
            f"it would spend epsilon {promise.epsilon:.4g} where {privacy.epsilon:g} is asked for", SAME_VERSION
        )
    if promise.withheld != WITHHELD:
        raise UnfitReplyError("its promise withholds other numbers than the contract says", SAME_VERSION)


def _check_work(report: TrainingReport, request: TrainRequest) -> None:
    """Steps are weights in some strategies; how many there are follows from what was asked."""
    samples = report.cases * request.local_epochs
    steps = -(-samples // request.training.batch_size)
    if (report.samples, report.steps) != (samples, steps):
        raise UnfitReplyError(
            f"it says {report.samples} samples in {report.steps} steps where its cases make {samples} in {steps}",
            SAME_VERSION,
        )
    _check_seconds(report.seconds)
    if not abs(report.loss) <= MOST_LOSS:
        raise UnfitReplyError(f"its training loss must be a number up to {MOST_LOSS:g}", _TRAINING_BROKE)


def _check_seconds(value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise UnfitReplyError("its seconds must be finite and not negative", SEE_LOG)


def _check_validation(report: ValidationReport, ready: PrepareReply, task: Task) -> None:
    _check_count("validation cases", report.cases, 0)
    if report.cases != ready.validation_cases:
        raise UnfitReplyError(
            f"it validated on {report.cases} cases and had prepared {ready.validation_cases}",
            "leave the site's data as it is during a run",
        )
    if ready.promise is not None:
        _check_public(report, no_validation(task), ("cases", "dice", "loss", "seconds"), "validation ")
        return
    _check_seconds(report.seconds)
    if report.cases and not abs(report.loss) <= MOST_LOSS:
        raise UnfitReplyError(f"its validation loss must be a number up to {MOST_LOSS:g}", SEE_LOG)
    structures = len(task.structures)
    if len(report.dice) != structures or not all(math.isnan(d) or 0 <= d <= 1 for d in report.dice):
        raise UnfitReplyError(f"its Dice must be {structures} values in [0, 1], or NaN where absent", SEE_LOG)


def _check_public(said: object, public: object, names: Iterable[str], what: str = "") -> None:
    """Whether a private site says no more than everyone knows: of what is withheld, NaN or nothing."""
    for name in names:
        expected = getattr(public, name)
        if not np.array_equal(getattr(said, name), expected, equal_nan=True):
            raise UnfitReplyError(
                f"its {what}{name} must be {expected}: a private run withholds what is not public", SAME_VERSION
            )


def _check_values(reply: TrainReply) -> None:
    """Finite everywhere, and batch norm buffers in ranges that float32 can pool.

    In float64 the squares of float32 numbers cannot overflow: the norm is finite when all parameters are, and they need
    be looked through only when it is not.
    """
    suspect = not math.isfinite(reply.update_norm)
    for name, value in reply.update.items():
        if (suspect or is_buffer(name)) and not np.isfinite(value).all():
            raise UnfitReplyError(f"the array {name} holds values that are not finite", _TRAINING_BROKE)
        for suffix, low, high in _BUFFER_RANGES:
            if name.endswith(suffix) and not ((value >= low) & (value <= high)).all():
                raise UnfitReplyError(f"the buffer {name} must be in [{low:g}, {high:g}]", _TRAINING_BROKE)


_BUFFER_RANGES: tuple[tuple[str, float, float], ...] = (
    (MEAN, -MOST_MEAN, MOST_MEAN),
    (VARIANCE, 0.0, MOST_VARIANCE),
    (COUNTER, 0, MOST_BATCHES),
)


def _check_control(change: Weights | None, request: TrainRequest) -> None:
    """SCAFFOLD's: there when it was asked for, finite, and no longer than gradients that were clipped can make it.

    c_i is no longer than they, so its change is at most twice as long. In a lossy exchange up to a third of it is lost
    (`client.exchange.variates`), is part of the next one, 2 / (1 - 1/3), and can add a third to what arrives.
    """
    control, longest = request.control, (2 if request.exchange.plain else 4) * request.training.gradient_clip * ROUNDING
    if (change is None) != (control is None):
        told = "lacks" if change is None else "has"
        raise UnfitReplyError(f"its reply {told} control variates, and the strategy says otherwise", SAME_VERSION)
    if change is None or control is None:
        return
    check_layout(change, control)
    if not parameter_norm(change) <= longest:
        raise UnfitReplyError(f"its control variates have a norm above {longest:g}, or none", _TRAINING_BROKE)


def _check_norm(norm: float, longest: float) -> None:
    if norm > longest:
        raise UnfitReplyError(f"its update has norm {norm:.3g}, above the limit of {longest:.3g}", _TRAINING_BROKE)
