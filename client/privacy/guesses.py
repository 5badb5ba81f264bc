"""What guesses about coins prove: p-values of a claim of privacy, and the lower bound of epsilon that they give.

A coin decides for each of m canaries whether it takes part in private training; an attacker ranks them by how much they
seem to, guesses "in" for the first and "out" for the last, and says nothing of the others. How many guesses there are
is fixed before the coins are looked at: every number that is tried gets its share of the error (Bonferroni).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.privacy.accounting import Event, spent
from client.privacy.promise import Promise

# Shares of the canaries that are guessed: all where nothing hides a canary, few where noise hides most.
SHARES = (1.0, 1 / 3, 1 / 10)
# The accountant says what epsilon belongs to each delta, so a claim can be tested at any of them. In a crowd a large
# delta excuses much, so a smaller one than was promised is tried as well; in duels it does not.
DELTAS = (1e-3, 1e-2, 0.1, 0.3)
_SMALLER = 1e-4
MOST_EPSILON = 100.0  # lower bounds are not looked for beyond
_FACTOR = 64.0  # nor noise that is further from what is claimed
_PLACES = 256  # 1.6 % apart

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
# Canaries, guesses, right guesses and a level of error, to a lower bound of epsilon.
Bound = Callable[[int, int, int, float], float]
# Canaries, guesses, right guesses, epsilon and delta, to the chance of as many.
PValue = Callable[[int, int, int, float, float], float]


@dataclass(frozen=True)
class Attack:
    """What came of one game.

    Attributes:
        name: "crowd" or "duel".
        canaries: coins that were tossed.
        guesses, right: of the number of guesses that proved most.
        lower_bound: of epsilon, at the promise's delta and the audit's confidence.
        ceiling: what it would have been with every guess right.
    """

    name: Literal["crowd", "duel"]
    canaries: int
    guesses: int
    right: int
    lower_bound: float
    ceiling: float


def best_guesses(
    name: Literal["crowd", "duel"], coins: Coins, scores: Sequence[Floats], level: float, bound: Bound
) -> Attack:
    """Guess "in" for the highest scores and "out" for as many of the lowest; the guesses that prove most.

    Args:
        name: of the game.
        coins: (m,), whether the canary took part.
        scores: one or more of (m,), the higher the more likely it did.
        level: the chance, at most, that the lower bound does not hold.
        bound: what some number of right guesses proves.
    """
    m, own = len(coins), level / len(scores) / len(SHARES)
    found = []
    for order, share in product([np.argsort(score, kind="stable") for score in scores], SHARES):
        half = max(1, int((m - 4 * math.sqrt(m)) * share / 2))  # for coins are never quite even
        right = int(coins[order[-half:]].sum()) + int((~coins[order[:half]]).sum())
        found.append((bound(m, 2 * half, right, own), right, 2 * half))
    best, right, guesses = max(found)
    return Attack(name, m, guesses, right, best, bound(m, guesses, guesses, own))


def crowd_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The chance, at most, of so many right guesses in one run that is (epsilon, delta)-private.

    Theorem 5.2 of Steinke, Nasr and Jagielski 2023: a guess is right no more often than randomised response, but for
    what delta adds for each canary. It holds for any way of choosing whom to guess about that does not look at coins.

    Args:
        canaries: coins.
        guesses: how many of them were guessed.
        right: how many guesses were right.
        epsilon: >= 0.
        delta: in [0, 1).
    """
    from scipy.stats import binom

    q = _response(epsilon)
    chance = float(binom.sf(right - 1, guesses, q))
    below = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, q)) / np.arange(1, right + 1)
    return min(1.0, chance + 2 * canaries * delta * float(below.max(initial=0.0)))


def duel_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The chance, at most, of so many right guesses about independent runs, each (epsilon, delta)-private.

    Whatever is (epsilon, delta)-private can be computed from a coin that is told outright with probability delta, and
    else by randomised response (Kairouz, Oh and Viswanath, ICML 2015). So at best all coins that were told are among
    the guesses, and are right, and the others are right with that response's probability. The number of guesses must be
    fixed beforehand. The arguments are those of `crowd_p_value`.
    """
    from scipy.stats import binom

    told = np.arange(min(guesses, int(binom.isf(1e-15, canaries, delta))) + 1)
    others = binom.sf(right - told - 1, guesses - told, _response(epsilon))
    beyond = binom.sf(told[-1], canaries, delta)
    return min(1.0, float(np.sum(binom.pmf(told, canaries, delta) * others) + beyond))


def crowd_bound(promise: Promise, canaries: int, guesses: int, right: int, level: float) -> float:
    """What right guesses in one run prove: epsilon of the most noise that they do not refute."""
    deltas = (promise.delta, promise.delta * _SMALLER)
    return _bound(crowd_p_value, promise, deltas, canaries, guesses, right, level)


def duel_bound(promise: Promise, canaries: int, guesses: int, right: int, level: float) -> float:
    """What right guesses about independent runs prove."""
    return _bound(duel_p_value, promise, (promise.delta, *DELTAS), canaries, guesses, right, level)


def _bound(
    p_value: PValue, promise: Promise, deltas: Sequence[float], canaries: int, guesses: int, right: int, level: float
) -> float:
    """Noise is refuted where at one delta so many right guesses are too unlikely for the epsilon that belongs to it."""

    def refuted(place: int) -> bool:
        return any(
            p_value(canaries, guesses, right, _epsilon(promise, place, delta), delta) < level / len(deltas)
            for delta in deltas
        )

    low, high = -_PLACES, _PLACES
    if not refuted(high):
        return 0.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return min(_epsilon(promise, high, promise.delta), MOST_EPSILON)


@lru_cache(maxsize=10_000)
def _epsilon(promise: Promise, place: int, delta: float) -> float:
    """Of the promise's steps with other noise: places are equal factors apart, the last one being `_FACTOR`."""
    multiplier = promise.noise_multiplier * _FACTOR ** (place / _PLACES)
    return spent((Event(promise.sampling_rate, multiplier, promise.steps),), delta)


def _response(epsilon: float) -> float:
    """How often randomised response tells the truth."""
    return 1 / (1 + math.exp(-epsilon))
