"""From a round's checked replies to the next model, as pure functions: `init` makes a state, `apply` takes replies.

A strategy composes parts, each of `server.strategies`: shares of the sites, a centre of their updates, a step of the
server. Without any it is McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017. With n_k training cases at site k and w_k = n_k / Σ n:

    parameters          x' = x + Σ w_k u_k                         (u_k: local minus global)
    running means       m' = Σ w_k m_k
    running variances   v' = Σ w_k (v_k + (m_k - m')²)             (law of total variance: what lies between sites too)
    batch counters      c' = max c_k                               (they stay integers and never run backwards)

Statistics of a batch norm are pooled so whatever the step of the server is; a robust centre takes their medians. Sums
run in float64 over the sites in the order of their names and are cast back once, so the result is the same to the last
bit whatever order replies arrive in; what a strategy remembers is float32, so that a resumed run goes on with the same
bits.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.contract import TrainReply
from client.weights import COUNTER, MEAN, VARIANCE, Weights, is_buffer, parameter_norm
from server.strategies.average import running_average
from server.strategies.dynamic import dynamic_step
from server.strategies.krum import chosen_sites
from server.strategies.norm_bound import bounded_coefficients
from server.strategies.nova import nova_coefficients
from server.strategies.optimizers import take_step
from server.strategies.scaffold import first_sum, mean_control, renewed_sum
from server.strategies.shares import Shares, shares_of
from server.strategies.strategy import Strategy
from server.strategies.trimmed import coordinate_median, trimmed_mean

Doubles = NDArray[np.float64]
BLOCK = 65_536
PLAIN = Strategy()
# What a strategy remembers between rounds, by kind.
AVERAGE, CONTROL, DYNAMIC = "average", "control", "dynamic"
_STEP = ("first", "second")


@dataclass(frozen=True, eq=False)
class AggregationState:
    """The global model, and what the strategy remembers, by kind; plain averaging remembers nothing."""

    weights: Weights
    memory: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnostics:
    """What one aggregation saw.

    Attributes:
        shares: each site's w_k, in [0, 1]; 0 for one that a robust centre left out.
        update_norms: each site's Euclidean norm of its update of the parameters.
        step_norm: norm of the step that the global parameters took.
        agreement: step_norm over the weighted mean of the update norms, in [0, 1]; 1 where all sites pull one way.
    """

    shares: Mapping[str, float]
    update_norms: Mapping[str, float]
    step_norm: float
    agreement: float


@dataclass(frozen=True, eq=False)
class _Round:
    """A round's updates and how they count.

    Attributes:
        updates: by site, of those that count.
        shares: of these sites, for what is pooled.
        coefficients: what each update of a parameter is multiplied by in their sum.
        answered: how many sites answered.
        sites: how many the run has.
    """

    updates: Mapping[str, Weights]
    shares: Shares
    coefficients: Mapping[str, float]
    answered: int
    sites: int


def init(weights: Weights, strategy: Strategy = PLAIN) -> AggregationState:
    """The state before the first round."""
    return AggregationState(weights, {CONTROL: first_sum(weights)} if strategy.rule.control else {})


def common_control(state: AggregationState, sites: int) -> Weights | None:
    """SCAFFOLD's c, what so many sites have told of their control variates; None without."""
    return mean_control(state.memory[CONTROL], sites) if CONTROL in state.memory else None


def apply(
    state: AggregationState, replies: Sequence[TrainReply], strategy: Strategy = PLAIN, sites: int | None = None
) -> tuple[AggregationState, Diagnostics]:
    """Make the next model of one round's replies, of which there is at least one and one of each site, all checked.

    Args:
        state: before the round.
        replies: in any order.
        strategy: which parts are composed.
        sites: how many sites the run has, those that are away included; None stands for those that answered.
    """
    ordered = sorted(replies, key=lambda reply: reply.site)
    shares = shares_of(strategy.shares, ordered)
    counted = _counted(strategy, ordered, shares, sites)
    weights: dict[str, NDArray[Any]] = {}
    memory: dict[str, dict[str, NDArray[Any]]] = {kind: {} for kind in (*_STEP, DYNAMIC)}
    for name, value in state.weights.items():
        if is_buffer(name):
            weights[name] = _buffer(name, value, counted, strategy)
        else:
            weights[name], kept = _parameter(name, value, counted, strategy, state.memory)
            for kind, array in kept.items():
                memory[kind][name] = array.astype(value.dtype)
    kept_all = {kind: values for kind, values in memory.items() if values}
    after = AggregationState(weights, {**kept_all, **_others(strategy, state, weights, ordered)})
    said = {site: counted.shares.get(site, 0.0) for site in shares}
    return after, _diagnose(state.weights, weights, ordered, said)


def final_weights(state: AggregationState) -> Weights:
    """The model that a run ends with: the average over rounds where the strategy has one."""
    return state.memory.get(AVERAGE, state.weights)


def _counted(strategy: Strategy, ordered: Sequence[TrainReply], shares: Shares, sites: int | None) -> _Round:
    updates = {reply.site: reply.update for reply in ordered}
    if strategy.centre == "krum":
        chosen = chosen_sites(updates, strategy.hostile)
        updates, total = {site: updates[site] for site in chosen}, math.fsum(shares[site] for site in chosen)
        shares = {site: shares[site] / total for site in chosen}
    coefficients: Mapping[str, float] = shares
    if strategy.normalised:
        coefficients = nova_coefficients(shares, {reply.site: reply.training.steps for reply in ordered})
    elif strategy.centre == "norm-bound":
        coefficients = bounded_coefficients(shares, {reply.site: reply.update_norm for reply in ordered})
    return _Round(updates, shares, coefficients, len(ordered), max(sites or 0, len(ordered)))


def _parameter(
    name: str, value: NDArray[Any], counted: _Round, strategy: Strategy, memory: Mapping[str, Weights]
) -> tuple[NDArray[Any], Mapping[str, Doubles]]:
    """A parameter after the round, and what to remember of it."""
    change = _change(name, counted, strategy)
    kept: Mapping[str, Doubles]
    if strategy.rule.dynamic:
        before = memory[DYNAMIC][name].astype(np.float64) if DYNAMIC in memory else None
        change, renewed = dynamic_step(change, before, strategy.rule.dynamic, counted.answered, counted.sites)
        kept = {DYNAMIC: renewed}
    else:
        own = {kind: memory[kind][name].astype(np.float64) for kind in _STEP if kind in memory}
        change, kept = take_step(strategy, change, own)
    return np.asarray(value.astype(np.float64) + change, dtype=value.dtype), kept


def _change(name: str, counted: _Round, strategy: Strategy) -> Doubles:
    """The centre of the updates of one parameter."""
    values = [update[name] for update in counted.updates.values()]
    if strategy.centre == "median":
        return coordinate_median(values)
    if strategy.centre == "trimmed-mean":
        return trimmed_mean(values, strategy.hostile)
    return _mean(name, counted.updates, counted.coefficients)


def _buffer(name: str, value: NDArray[Any], counted: _Round, strategy: Strategy) -> NDArray[Any]:
    """A batch norm's statistic after the round."""
    updates, shares = counted.updates, counted.shares
    pooled: NDArray[Any]
    if strategy.centre != "mean":
        pooled = coordinate_median([update[name] for update in updates.values()])
    elif name.endswith(COUNTER):
        pooled = np.max([update[name] for update in updates.values()], axis=0)
    elif name.endswith(MEAN):
        pooled = _mean(name, updates, shares)
    else:
        pooled = _pooled_variance(name, updates, shares)
    return np.asarray(pooled, dtype=value.dtype)


def _others(
    strategy: Strategy, state: AggregationState, weights: Weights, ordered: Sequence[TrainReply]
) -> dict[str, Weights]:
    """What is remembered of the model as a whole."""
    kept: dict[str, Weights] = {}
    if strategy.rule.control:
        changes = [reply.control for reply in ordered if reply.control is not None]
        kept[CONTROL] = renewed_sum(state.memory[CONTROL], changes)
    if strategy.average:
        kept[AVERAGE] = running_average(state.memory.get(AVERAGE), weights, strategy.average)
    return kept


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
