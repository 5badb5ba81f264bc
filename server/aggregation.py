"""Federated averaging of checked replies, as pure functions: `init` makes a state, `apply` takes a round's replies.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017. With n_k
training cases at site k and w_k = n_k / Σ n:

    parameters          x' = x + Σ w_k u_k                         (u_k: local minus global)
    running means       m' = Σ w_k m_k
    running variances   v' = Σ w_k (v_k + (m_k - m')²)             (law of total variance: what lies between sites too)
    batch counters      c' = max c_k                               (they stay integers and never run backwards)

Sums run in float64 over the sites in the order of their names and are cast back once, so the result is the same to the
last bit whatever order replies arrive in.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.contract import TrainReply
from client.weights import COUNTER, MEAN, VARIANCE, Weights, is_buffer, parameter_norm

Doubles = NDArray[np.float64]
BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class AggregationState:
    """The global model; plain averaging remembers nothing else."""

    weights: Weights


@dataclass(frozen=True)
class Diagnostics:
    """What one aggregation saw.

    Attributes:
        shares: each site's w_k, in (0, 1].
        update_norms: each site's Euclidean norm of its update of the parameters.
        step_norm: norm of the step that the global parameters took.
        agreement: step_norm over the weighted mean of the update norms, in [0, 1]; 1 where all sites pull one way.
    """

    shares: Mapping[str, float]
    update_norms: Mapping[str, float]
    step_norm: float
    agreement: float


def init(weights: Weights) -> AggregationState:
    """The state before the first round."""
    return AggregationState(weights)


def apply(state: AggregationState, replies: Sequence[TrainReply]) -> tuple[AggregationState, Diagnostics]:
    """Average one round's replies, of which there is at least one and one of each site, all checked."""
    ordered = sorted(replies, key=lambda reply: reply.site)
    total = sum(reply.training.cases for reply in ordered)
    shares = {reply.site: reply.training.cases / total for reply in ordered}
    updates = {reply.site: reply.update for reply in ordered}
    weights = {name: _combine(name, state.weights, updates, shares) for name in state.weights}
    return AggregationState(weights), _diagnose(state.weights, weights, ordered, shares)


def _combine(name: str, weights: Weights, updates: Mapping[str, Weights], shares: Mapping[str, float]) -> NDArray[Any]:
    value: NDArray[Any]
    if name.endswith(COUNTER):
        value = np.max([update[name] for update in updates.values()], axis=0)
    elif name.endswith(MEAN):
        value = _mean(name, updates, shares)
    elif name.endswith(VARIANCE):
        value = _pooled_variance(name, updates, shares)
    else:
        value = weights[name].astype(np.float64) + _mean(name, updates, shares)
    return np.asarray(value, dtype=weights[name].dtype)


def _mean(name: str, updates: Mapping[str, Weights], shares: Mapping[str, float]) -> Doubles:
    """The weighted mean, a block at a time: what is added up stays in the processor's cache."""
    flat = {site: update[name].reshape(-1) for site, update in updates.items()}
    shape, size = next((update[name].shape, update[name].size) for update in updates.values())
    blocks = [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]
    sums = [_sum(shares[site] * x[block].astype(np.float64) for site, x in flat.items()) for block in blocks]
    return np.concatenate(sums).reshape(shape) if sums else np.zeros(shape)


def _pooled_variance(name: str, updates: Mapping[str, Weights], shares: Mapping[str, float]) -> Doubles:
    mean_name = name.removesuffix(VARIANCE) + MEAN
    mean = _mean(mean_name, updates, shares)
    within = _mean(name, updates, shares)
    return within + _sum(shares[site] * np.square(update[mean_name] - mean) for site, update in updates.items())


def _sum(terms: Iterable[Doubles]) -> Doubles:
    total: Doubles | None = None
    for term in terms:
        total = term if total is None else total + term
    assert total is not None, "a round that is aggregated has at least one reply"
    return total


def _diagnose(
    before: Weights, after: Weights, replies: Sequence[TrainReply], shares: Mapping[str, float]
) -> Diagnostics:
    norms = {reply.site: reply.update_norm for reply in replies}
    step = parameter_norm({name: after[name] - before[name] for name in after if not is_buffer(name)})
    mean_norm = math.fsum(shares[site] * norm for site, norm in norms.items())
    return Diagnostics(shares, norms, step, min(1.0, step / mean_norm) if mean_norm else 1.0)
