"""The attack on the mechanism: how much privacy do patients who try their best to be seen really lose?

Accountants are theory, and code has bugs. Here the real loop of private training is played with canary patients. A
coin decides for each whether it takes part; an attacker who sees every release guesses the coins. Differential privacy
bounds how many guesses can be right, so many right guesses prove a lower bound of epsilon: one above what the
accountant claims proves the claim wrong. (One below it proves nothing: other attacks may be stronger.)

A canary's gradient is a huge multiple of a unit vector, which only the clipping keeps in bounds; its sign alternates
from step to step, so that noise which is used twice takes itself away. Two games are played:

- **crowd**: all canaries in one training run, each with a parameter of its own (the "Dirac canaries" of Steinke, Nasr
  and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023). Theorem 5.2 there bounds the right guesses
  of whatever is (epsilon, delta)-private: `crowd_p_value`.
- **duel**: one canary a run, in many runs, against accomplices who pull the same parameter the other way. Where batches
  are clipped instead of patients a canary is hidden in a crowd, but turns its accomplices around here. Runs are
  independent, which makes for a sharper test: `duel_p_value`.

The accountant says what epsilon some noise has at each delta, so noise is refuted by a test at any delta. The lower
bound is the epsilon, at the promised delta, of the most noise that is not refuted.

**How many canaries.** With m of them, a crowd finds no epsilon above ln(m / 8) or so, even with all guesses right: 300
canaries can refute a claim of 1 to 3, a claim of 4 takes 1,000 (with 99.99 % confidence: 1 to 2, and 3,000). With delta
1e-5 no crowd gets much beyond 6, since the theorem allows for m deltas. The duel has no such ceiling: 150 runs refute a
claim of epsilon 8 where noise is missing, and 1,000 runs of the right mechanism find four fifths of a claim of 7.5 at a
sampling rate of one half, and a third of it at one tenth. `Attack.ceiling` says what could have been found.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from client.privacy.guesses import Attack, Coins, Floats, best_guesses, crowd_bound, duel_bound
from client.privacy.mechanism import PatientGradients
from client.privacy.noise import Noise, SecureNoise, SeededNoise
from client.privacy.promise import Promise
from client.privacy.training import Unit, private_step
from segformer3d.errors import ConfigurationError
from segformer3d.optimizers import Unmarked

CANARIES = 1000
LEAST, MOST = 50, 100_000
# Steps that duels take at most, unless there are to be fewer than LEAST of them: about 20 seconds.
_DUEL_STEPS = 200_000
_HUGE, _LARGE = 2.0**40, 2.0**20  # a canary's and an accomplice's gradient, in clipping norms


class MakeGradients(Protocol):
    """How the mechanism is made: `PatientGradients`, or what a test wants caught."""

    def __call__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        clip: float,
        noise_multiplier: float,
        expected: float,
        noise: Noise,
    ) -> PatientGradients:
        """Make it."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        claimed: the promise's epsilon.
        delta: that both epsilons are at.
        confidence: the chance, at least, that all lower bounds hold, of a mechanism that keeps its promise.
        attacks: what each game gave.
    """

    claimed: float
    delta: float
    confidence: float
    attacks: tuple[Attack, ...]

    @property
    def strongest(self) -> Attack:
        """The attack that proved most."""
        return max(self.attacks, key=lambda attack: attack.lower_bound)

    @property
    def lower_bound(self) -> float:
        """The largest epsilon that is proved to be lost."""
        return self.strongest.lower_bound

    @property
    def contradicts(self) -> bool:
        """Whether the claim is refuted."""
        return self.lower_bound > self.claimed

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        attacks = [asdict(attack) for attack in self.attacks]
        return {**asdict(self), "attacks": attacks, "lower_bound": self.lower_bound, "contradicts": self.contradicts}


def audit_mechanism(
    promise: Promise,
    *,
    clip: float = 1.0,
    canaries: int = CANARIES,
    duels: int | None = None,
    confidence: float = 0.95,
    seed: int | None = None,
    parameters: Sequence[nn.Parameter] | None = None,
    patients: Sequence[Unit] = (),
    make_gradients: MakeGradients = PatientGradients,
    take_step: Callable[..., object] = private_step,
) -> AuditResult:
    """Play the promise's sampling rate, noise multiplier and number of steps against canaries.

    Takes about `steps * (canaries * rate / 2 + 4 * duels)` times 30 microseconds. Needs no data: nothing that it
    returns depends on a patient.

    Args:
        promise: what is claimed.
        clip: the clipping norm, above 0.
        canaries: of the crowd, 50 to 100,000.
        duels: how many; None for as many as canaries, or fewer where that would take long.
        confidence: of the lower bounds, in (0, 1).
        seed: of coins, samples and noise, for experiments and tests; None draws all of them from the system.
        parameters: that the crowd pulls, float32, at least as many numbers as canaries; their `grad` is used up. None
            for one of the audit's own: the mechanism treats all numbers alike.
        patients: other patients of the crowd, as `private_step` takes them, whose gradients are those of `parameters`.
        make_gradients: the mechanism.
        take_step: the loop.

    Raises:
        ConfigurationError: a number is outside its range.
    """
    if not LEAST <= canaries <= MOST or not 0 < confidence < 1 or not (duels is None or LEAST <= duels <= MOST):
        raise ConfigurationError(
            f"an audit needs {LEAST} to {MOST} canaries and a confidence in (0, 1), got {canaries} canaries, "
            f"{duels} duels, confidence {confidence:g}"
        )
    chosen = [nn.Parameter(torch.zeros(canaries))] if parameters is None else list(parameters)
    if sum(parameter.numel() for parameter in chosen) < canaries:
        raise ConfigurationError(f"{canaries} canaries need as many parameters; use fewer canaries")
    noise, coins = (SecureNoise(), SecureNoise()) if seed is None else (SeededNoise([seed, 0]), SeededNoise([seed, 1]))
    game = _Game(promise, clip, make_gradients, take_step, noise)
    trials = duels or max(LEAST, min(canaries, _DUEL_STEPS // promise.steps))
    level = (1 - confidence) / 2
    tossed = _toss(coins, canaries)
    crowd = best_guesses("crowd", tossed, game.crowd(chosen, patients, tossed), level, partial(crowd_bound, promise))
    tossed = _toss(coins, trials)
    duel = best_guesses("duel", tossed, game.duels(tossed), level, partial(duel_bound, promise))
    return AuditResult(promise.epsilon, promise.delta, confidence, (crowd, duel))


# ---- The games ----


class Watcher(Unmarked, torch.optim.Optimizer):
    """Stands in for the optimizer: adds up what is released, and moves nothing."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(list(parameters), {})
        self._watched = list(parameters)
        self.seen = [torch.zeros(parameter.numel(), dtype=torch.float64) for parameter in parameters]
        self.sign = 1.0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Look at a release."""
        del closure
        for total, parameter in zip(self.seen, self._watched, strict=True):
            assert parameter.grad is not None, "the mechanism releases into grad"
            total.add_(parameter.grad.detach().flatten().cpu(), alpha=self.sign)


@dataclass
class _Game:
    """A mechanism that is played.

    Attributes:
        sign: of the canaries' gradients in the step that is played.
    """

    promise: Promise
    clip: float
    make_gradients: MakeGradients
    take_step: Callable[..., object]
    noise: Noise
    sign: float = field(default=1.0, init=False)

    def crowd(self, parameters: Sequence[nn.Parameter], patients: Sequence[Unit], coins: Coins) -> list[Floats]:
        """One run with the canaries whose coin says so: their (m,) scores."""
        gradients = self._mechanism(parameters)
        places = _places(parameters, len(coins))
        inside = [self._puller(place, _HUGE) for place, coin in zip(places, coins, strict=True) if coin]
        return [self._play(gradients, parameters, [*patients, *inside])[: len(coins)]]

    def duels(self, coins: Coins) -> list[Floats]:
        """A run for each coin: (m,) scores, without and with what the accomplices know."""
        return list(np.array([self._duel(bool(coin)) for coin in coins]).T)

    def _duel(self, coin: bool) -> tuple[float, float]:
        parameters = [nn.Parameter(torch.zeros(1))]
        gradients = self._mechanism(parameters)
        (place,) = _places(parameters, 1)
        drawn: list[int] = []
        # As many as make it likely that one of them is drawn beside the canary.
        units = [self._puller(place, -_LARGE, drawn) for _ in range(round(1 / self.promise.sampling_rate))]
        if coin:
            units.append(self._puller(place, _HUGE))
        score = float(self._play(gradients, parameters, units)[0])
        return score, score + len(drawn)  # each pulled by -1 whenever it was drawn

    def _mechanism(self, parameters: Sequence[nn.Parameter]) -> PatientGradients:
        return self.make_gradients(
            parameters,
            clip=self.clip,
            noise_multiplier=self.promise.noise_multiplier,
            expected=self._expected,
            noise=self.noise,
        )

    def _play(self, gradients: PatientGradients, parameters: Sequence[nn.Parameter], units: Sequence[Unit]) -> Floats:
        """All steps; the sum of what was released in them, in clipping norms: (parameters,)."""
        watcher = Watcher(parameters)
        for step in range(self.promise.steps):
            self.sign = watcher.sign = 1.0 if step % 2 == 0 else -1.0
            gradients.clip = self.clip  # adaptive clipping would run after the canaries' norms
            self.take_step(gradients, units, self.promise.sampling_rate, watcher, step)
        return torch.cat(watcher.seen).numpy() * (self._expected / self.clip)

    @property
    def _expected(self) -> float:
        return self.promise.sampling_rate * self.promise.patients

    def _puller(self, place: torch.Tensor, strength: float, drawn: list[int] | None = None) -> Unit:
        """A patient with a gradient of so many clipping norms at one place, who notes when he or she was drawn."""

        def pull(step: int) -> float:
            if drawn is not None:
                drawn.append(step)
            place.add_(self.sign * strength * self.clip)
            return 0.0

        return pull


def _places(parameters: Sequence[nn.Parameter], count: int) -> list[torch.Tensor]:
    """The first numbers of the gradients, each as a view."""
    places: list[torch.Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            places += parameter.grad.view(-1)[: count - len(places)].unbind()
    return places


def _toss(source: Noise, count: int) -> Coins:
    coins = np.zeros(count, np.bool_)
    coins[source.chosen(count, 0.5)] = True
    return coins
