"""What a server makes of the mean update, a parameter at a time: steps with momentum, or scaled by what they were.

Momentum (FedAvgM): Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019: v' = beta v + Δ, x' = x + rate v'. Adam and Yogi: Reddi et al., "Adaptive Federated
Optimization", ICLR 2021, algorithm 2, without a bias correction (which Flower's FedAdam has, and the paper has not):

    m' = beta m + (1 - beta) Δ
    v' = beta2 v + (1 - beta2) Δ²                     (Adam)
    v' = v - (1 - beta2) Δ² sign(v - Δ²)              (Yogi)
    x' = x + rate m' / (√v' + tau)

Both start from m = v = 0, where the paper asks for v >= tau²: a first step is the longer for it, and the memory of the
first value is gone after a few rounds.

Only parameters take such steps: a batch norm's statistics are measured, not learnt, and momentum would carry a variance
below zero.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from server.strategies.strategy import Strategy

Doubles = NDArray[np.float64]
# What is remembered of one parameter, by kind.
Memory = Mapping[str, Doubles]
Rule = Callable[[Strategy, Doubles, Memory], tuple[Doubles, Memory]]


def take_step(strategy: Strategy, change: Doubles, memory: Memory) -> tuple[Doubles, Memory]:
    """The step of one parameter from its mean update, and what to remember; missing memories are zeros."""
    return _RULES[strategy.optimizer](strategy, change, memory)


def _none(strategy: Strategy, change: Doubles, _: Memory) -> tuple[Doubles, Memory]:
    return (change if strategy.server_rate == 1 else strategy.server_rate * change), {}


def _momentum(strategy: Strategy, change: Doubles, memory: Memory) -> tuple[Doubles, Memory]:
    velocity = strategy.momentum * _of(memory, "first", change) + change
    return strategy.server_rate * velocity, {"first": velocity}


def _adam(strategy: Strategy, change: Doubles, memory: Memory) -> tuple[Doubles, Memory]:
    second = strategy.second * _of(memory, "second", change) + (1 - strategy.second) * np.square(change)
    return _scaled(strategy, change, memory, second)


def _yogi(strategy: Strategy, change: Doubles, memory: Memory) -> tuple[Doubles, Memory]:
    second, square = _of(memory, "second", change), np.square(change)
    return _scaled(strategy, change, memory, second - (1 - strategy.second) * square * np.sign(second - square))


def _scaled(strategy: Strategy, change: Doubles, memory: Memory, second: Doubles) -> tuple[Doubles, Memory]:
    first = strategy.momentum * _of(memory, "first", change) + (1 - strategy.momentum) * change
    step = strategy.server_rate * first / (np.sqrt(second) + strategy.floor)
    return step, {"first": first, "second": second}


def _of(memory: Memory, kind: str, like: Doubles) -> Doubles:
    return memory.get(kind, np.zeros_like(like))


_RULES: Mapping[str, Rule] = {"none": _none, "momentum": _momentum, "adam": _adam, "yogi": _yogi}
