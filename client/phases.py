"""What a site does on each message of a run, Flower aside: prepare its data, train, measure the final model."""

import os
import time
from dataclasses import replace
from threading import Lock

import numpy as np
import torch

from client.contract import EvaluateReply, EvaluateRequest, PrepareReply, PrepareRequest, TrainReply, TrainRequest
from client.exchange.at_site import held_at, send_update
from client.exchange.settings import Exchange
from client.exchange.variates import pack_control
from client.limits import check_cohort, check_privacy, check_task, check_work
from client.privacy.phases import prepare_private, train_private_site
from client.round_files import OPTIMIZER, RoundFiles
from client.site import SiteSettings
from client.site_log import write_log
from client.strategies.ditto import train_personal
from client.strategies.fedbn import put_own_norms
from client.strategies.local import LocalRound, begin_round, recall, remember
from client.weights import Weights, load_weights, update_of
from segformer3d.allocator import keep_freed_memory
from segformer3d.config import ModelConfig
from segformer3d.dataset import DEFAULT_VALIDATION_SHARE, SiteData, prepare
from segformer3d.model import SegFormer3D, skeleton
from segformer3d.tasks import Task
from segformer3d.training import Part, train_part, validate

# Prepared data of the sites that this process has served: names and places only, the volumes stay on disk.
_KEPT_SITES = 64
_data_of_site: dict[tuple[SiteSettings, Task, bool], SiteData] = {}
_lock = Lock()
_networks: dict[ModelConfig, SegFormer3D] = {}


def prepare_site(site: SiteSettings, request: PrepareRequest) -> PrepareReply:
    """Read, check and cache every case, whatever was known before.

    Raises:
        DataError: no usable case is left.
        StorageError: the cache cannot be written.
        RefusalError: the site's limits forbid to take part.
    """
    began = time.perf_counter()
    check_task(site.limits, request.task)
    check_privacy(site.limits, request.privacy)
    data = _prepare(site, request.task, private=request.privacy is not None)
    check_cohort(site.limits, len(data.train))
    write_log(site.work, f"run {request.run}: data prepared, {data.describe()}")
    for item in data.set_aside:
        write_log(site.work, f"case {item.case} set aside: {item.reason}")
    holds = held_at(site.work / request.run).digest
    if request.privacy is not None:
        return replace(prepare_private(site, request, request.privacy, data), holds=holds)
    counts = (len(data.train), len(data.validation), len(data.set_aside))
    balance = _balance(data, request.task)
    return PrepareReply(site.name, request.run, *counts, balance, time.perf_counter() - began, holds=holds)


def train_site(site: SiteSettings, request: TrainRequest, question: str) -> TrainReply:
    """Measure the global model on the site's validation cases, then train it for one round.

    Args:
        site: whose data.
        request: what is asked.
        question: digest of the message that asks, for the ledger of a private run; others do not look at it.

    Raises:
        SegfedError: data, settings, disk or message are not as they should be.
    """
    check_work(site.limits, request.rounds, request.local_epochs)
    check_privacy(site.limits, request.privacy)
    device, data, model = _set_up(site, request.task, request.weights, private=request.privacy is not None)
    check_cohort(site.limits, len(data.train))
    if request.privacy is not None:
        reply = train_private_site(site, request, request.privacy, data, model, device, question)
        _put_by(model)
        return reply
    folder = site.work / request.run
    memory = recall(request.rule, folder, request.counted + 1 if request.rule.follows else request.round)
    put_own_norms(request.rule, model, memory)
    validation = validate(model, data.validation, request.task, device=device)
    part = Part(request.round - 1, request.rounds, request.local_epochs, request.seed, site.name)
    moments = RoundFiles(folder, OPTIMIZER)
    local = begin_round(request.rule, model.to(device), memory, request.control)
    training = train_part(
        model,
        data.train,
        request.task,
        request.training,
        part,
        device=device,
        optimizer_from=moments.before(request.round),
        optimizer_to=moments.after(request.round),
        optimizer_over=moments.superseded(),
        workers=site.workers,
        adjust=local.adjust,
    )
    moments.forget_old()
    trained = update_of(model, request.weights)
    update, payload = send_update(folder, part, request.exchange, request.weights, trained, request.counted)
    control, packed = _send_control(local, request.exchange)
    remember(local.memory(update, control), folder, request.round)
    if request.rule.personal:
        train_personal(request, data, part, folder, device=device, workers=site.workers)
    write_log(site.work, f"run {request.run}: round {request.round} of {request.rounds} done, loss {training.loss:.4f}")
    _put_by(model)
    who = (site.name, request.run, request.round)
    return TrainReply(*who, update, training, validation, control=control, payload=payload, packed_control=packed)


def evaluate_site(site: SiteSettings, request: EvaluateRequest) -> EvaluateReply:
    """Measure a model on the site's validation cases.

    Raises:
        SegfedError: data, settings, disk or message are not as they should be.
    """
    check_privacy(site.limits, None)  # what is measured leaves as it is: a private run asks for nothing of the kind
    device, data, model = _set_up(site, request.task, request.weights, private=False)
    put_own_norms(request.rule, model, recall(request.rule, site.work / request.run, request.round + 1))
    validation = validate(model, data.validation, request.task, device=device)
    _put_by(model)
    write_log(site.work, f"run {request.run}: measured the model of round {request.round}")
    return EvaluateReply(site.name, request.run, request.round, validation)


def _send_control(local: LocalRound, exchange: Exchange) -> tuple[Weights | None, bytes | None]:
    """How SCAFFOLD's control variate has changed, as the server will see it, and its payload."""
    change = local.control_change()
    return (None, None) if change is None else pack_control(change, exchange)


def _set_up(
    site: SiteSettings, task: Task, weights: Weights, *, private: bool
) -> tuple[torch.device, SiteData, SegFormer3D]:
    check_task(site.limits, task)
    keep_freed_memory()
    if site.threads is not None:
        torch.set_num_threads(site.threads)
    device = site.torch_device()
    if device.type == "cuda":
        _make_gpu_deterministic()
    data = _data_of_site.get((site, task, private)) or _prepare(site, task, private=private)
    return device, data, _network(task.model, weights)


def _network(config: ModelConfig, weights: Weights) -> SegFormer3D:
    """A network with these weights: the one of this process's last message where it has the same shape."""
    network = _networks.pop(config, None) or skeleton(config)
    load_weights(network, weights)
    return network


def _put_by(network: SegFormer3D) -> None:
    """Building a network takes longer than filling it; one is kept for the next message, whichever site's it is."""
    _networks.clear()
    _networks[network.config] = network


def _make_gpu_deterministic() -> None:
    """CPUs add in a fixed order by themselves; GPUs must be asked to."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)


def _prepare(site: SiteSettings, task: Task, *, private: bool) -> SiteData:
    """In a private run nothing is validated, so that every case is there to train on."""
    share = 0.0 if private else DEFAULT_VALIDATION_SHARE
    data = prepare(
        site.data,
        task,
        site.work / "cache",
        validation_share=share,
        workers=max(1, site.workers),
        leave_out_published=site.leave_out_published,
        quarantine=site.quarantine,
        patient_pattern=site.patient_pattern,
    )
    with _lock:
        _data_of_site.pop((site, task, private), None)
        while len(_data_of_site) >= _KEPT_SITES:
            _data_of_site.pop(next(iter(_data_of_site)))
        _data_of_site[site, task, private] = data
    return data


def _balance(data: SiteData, task: Task) -> tuple[float, ...]:
    """Mean share of voxels per structure over the training cases."""
    shares = [task.structure_masks(np.asarray(case.label())).mean(axis=(1, 2, 3)) for case in data.train]
    return tuple(float(share) for share in np.mean(shares, axis=0))
