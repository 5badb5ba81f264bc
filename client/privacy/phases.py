"""What a site does on the messages of a private run: promise, pay, train; the order is what makes it private."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from client.contract import PrepareReply, PrepareRequest, TrainReply, TrainRequest
from client.exchange.at_site import send_update
from client.limits import RefusalError
from client.privacy.accounting import Event, spent
from client.privacy.cohort import Cohort, Member
from client.privacy.ledger import BudgetError, Ledger
from client.privacy.promise import Promise, make_promise
from client.privacy.release import no_validation, public_preparation, public_training
from client.privacy.settings import PrivacySettings
from client.privacy.training import train_private
from client.records import digest_of
from client.round_files import OPTIMIZER, RoundFiles
from client.site import SiteSettings
from client.site_log import write_log
from client.trail import TRAIL
from client.weights import update_of
from segformer3d.audit import append_record
from segformer3d.dataset import SiteData
from segformer3d.model import SegFormer3D
from segformer3d.patients import Patient, patients_of
from segformer3d.tasks import Task
from segformer3d.training import Part


def prepare_private(
    site: SiteSettings, request: PrepareRequest, privacy: PrivacySettings, data: SiteData
) -> PrepareReply:
    """Promise what the run will cost, if the ledger has that much left. Nothing is spent yet.

    Raises:
        RefusalError: the run asks for what the site does not allow, or its cohort is too small.
        LedgerError: the ledger is damaged, in use, or of another cohort.
    """
    patients = patients_of(data.train, site.patient_pattern)
    promise = _promise(site, privacy, request.task, request.rounds, len(patients))
    with _ledger(site, patients) as ledger:
        done = sum(event.steps for event in _of_run(ledger, request.run))
        left = promise.event(max(1, promise.steps - done))  # a run that goes on has paid for its first rounds
        cost = spent([*ledger.events, left], site.limits.delta)
        if cost > site.limits.epsilon:
            raise BudgetError(
                f"the run would bring what its patients have spent to epsilon {cost:.2f}, and its limit is "
                f"{site.limits.epsilon:g}"
            )
    write_log(
        site.work,
        f"run {request.run}: will cost each patient epsilon {promise.epsilon:.3f} at delta {promise.delta:g} "
        f"(noise {promise.noise_multiplier:g}, {promise.steps} steps, sampling rate {promise.sampling_rate:g}); "
        f"with all runs before it {cost:.3f}",
    )
    return public_preparation(site.name, request.run, promise)


def train_private_site(
    site: SiteSettings,
    request: TrainRequest,
    privacy: PrivacySettings,
    data: SiteData,
    model: SegFormer3D,
    device: torch.device,
    question: str,
) -> TrainReply:
    """Pay for a round, then train it. What was paid stays paid, whatever becomes of the round.

    Args:
        site, request, data: as they are.
        privacy: what is asked for.
        model: with the weights of the request.
        device: where to compute.
        question: digest of the request's message, for the ledger.

    Raises:
        SegfedError: the limit, the ledger, the disk or the message forbids it.
    """
    patients = patients_of(data.train, site.patient_pattern)
    promise = _promise(site, privacy, request.task, request.rounds, len(patients))
    folder = site.work / request.run
    moments = RoundFiles(folder, OPTIMIZER)
    part = Part(request.round - 1, request.rounds, request.local_epochs, request.seed, site.name)
    with _ledger(site, patients) as ledger:
        event = promise.event(privacy.local_steps)
        ledger.charge(request.run, request.round, event, question, site.limits.epsilon, site.limits.delta)
        append_record(site.work / TRAIL, what="spent", run=request.run, round=request.round, event=event.to_json())
        done = train_private(
            model,
            patients,
            request.task,
            request.training,
            privacy,
            promise,
            part,
            device=device,
            optimizer_from=moments.before(request.round),
            optimizer_to=moments.after(request.round),
            optimizer_over=moments.superseded(),
        )
        promise = promise.having_spent(spent(_of_run(ledger, request.run), promise.delta))
        # The update is private by now: whatever is made of it, such as fewer bytes, costs nobody anything.
        trained = update_of(model, request.weights)
        update, payload = send_update(folder, part, request.exchange, request.weights, trained, request.counted)
        reply = TrainReply(
            site.name,
            request.run,
            request.round,
            update,
            public_training(privacy, promise),
            no_validation(request.task),
            promise,
            payload=payload,
        )
        ledger.note_release(request.run, request.round, digest_of(reply.encode()))
    moments.forget_old()
    write_log(
        site.work,
        f"run {request.run}: private round {request.round} of {request.rounds} done, loss {done.loss:.4f}, "
        f"epsilon {promise.spent:.3f} of {promise.epsilon:.3f} spent",
    )
    return reply


def _promise(site: SiteSettings, privacy: PrivacySettings, task: Task, rounds: int, patients: int) -> Promise:
    if task.model.norm == "batch":
        raise RefusalError("the model has batch norm, which makes patients depend on each other; ask for norm group")
    public = max(privacy.patients, site.patients or 0)
    if patients < public:
        raise RefusalError(f"its cohort is smaller than the {public} patients that the noise is made for")
    promise = make_promise(privacy, rounds, public, site.limits.run_epsilon, site.limits.delta)
    if promise.delta >= 1 / patients:
        raise RefusalError(f"delta {promise.delta:g} is not below 1 / its number of patients; ask for a smaller one")
    return promise


def _of_run(ledger: Ledger, run: str) -> list[Event]:
    return [spend.event for spend in ledger.contents.spends if spend.run == run]


@contextmanager
def _ledger(site: SiteSettings, patients: tuple[Patient, ...]) -> Iterator[Ledger]:
    members = (Member(p.name, tuple(case.source for case in p.cases)) for p in patients)
    with Ledger.open(site.ledger_file, Cohort(tuple(members))) as ledger:
        yield ledger
