"""Whether a training keeps the privacy that is claimed for it: each thing that has made claims false elsewhere.

A claim of differential privacy is a chain, and trainings that were published as private have broken it at every link:
layers that mix the patients of a batch, crops or scans for the unit, batches that are clipped as a whole, accountants
that assume a sampling that nobody does, metrics that leave for free, weights that give the number of patients away. A
`Pipeline` says of each link what a training does; `verify` answers with the claim that follows, or with none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from segformer3d.errors import ConfigurationError


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it holds, and what was seen."""

    check: str
    holds: bool
    seen: str


@dataclass(frozen=True)
class Verdict:
    """What the checks found, and the claim that follows; None when one of them does not hold."""

    findings: tuple[Finding, ...]
    claim: str | None


@dataclass(frozen=True)
class Pipeline:
    """What a training does, as far as a claim hangs on it. The defaults are what a private run of segfed does.

    Attributes:
        unit: who is added or removed: "patient", "case" (a scan) or "crop" (a patch).
        clipping: whose gradient is clipped: "patient", "case", "crop", "batch" or "none".
        sampling: who takes part in a step: "poisson" (each by a chance of his own), "shuffled" or "fixed" batches, or
            "all".
        accountant: the sampling that the accountant assumes: "poisson", "shuffled", "fixed", "all", or "none".
        divisor: what a sum is divided by: a "public" number, or the number that was "drawn".
        noise: "secure", "seeded" or "none".
        metrics: losses, scores and counts that leave: "withheld", "accounted" or "released".
        weights: of the sites in the average: "public", "equal" or "counts" (of patients or cases).
        selection: of the model that is kept: "none" (the last), "public" data, or "private" metrics (early stopping).
        normalisation: of intensities, by each "volume" alone, by "public" numbers, or by the whole "dataset".

    Raises:
        ConfigurationError: a value is none of these.
    """

    unit: str = "patient"
    clipping: str = "patient"
    sampling: str = "poisson"
    accountant: str = "poisson"
    divisor: str = "public"
    noise: str = "secure"
    metrics: str = "withheld"
    weights: str = "public"
    selection: str = "none"
    normalisation: str = "volume"

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"{name} of a pipeline must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Pipeline":
        """A pipeline that somebody wrote down, who must say of every link what it does.

        Raises:
            ConfigurationError: a name is unknown or missing, or a value is none of those that are known.
        """
        names = [item.name for item in fields(cls)]
        for name in sorted(set(values) ^ set(names)):
            raise ConfigurationError(f"a [pipeline] needs exactly {', '.join(names)}; {name!r} is too many or missing")
        return cls(**values)


_KNOWN = {
    "unit": ("patient", "case", "crop"),
    "clipping": ("patient", "case", "crop", "batch", "none"),
    "sampling": ("poisson", "shuffled", "fixed", "all"),
    "accountant": ("poisson", "shuffled", "fixed", "all", "none"),
    "divisor": ("public", "drawn"),
    "noise": ("secure", "seeded", "none"),
    "metrics": ("withheld", "accounted", "released"),
    "weights": ("public", "equal", "counts"),
    "selection": ("none", "public", "private"),
    "normalisation": ("volume", "public", "dataset"),
}
# Why a value breaks the chain. What is not here holds.
_BROKEN: Mapping[tuple[str, str], str] = {
    ("unit", "case"): "a patient with two scans is protected half as well as is said",
    ("unit", "crop"): "a patient is in many crops: the promise is for a patch of a scan, not for a patient",
    ("clipping", "case"): "a patient with several scans adds several clipped gradients",
    ("clipping", "crop"): "a patient adds one clipped gradient for each crop",
    ("clipping", "batch"): "nothing bounds what one patient adds to the batch",
    ("clipping", "none"): "nothing bounds what one patient adds",
    ("accountant", "none"): "nobody has added up what the steps cost",
    ("divisor", "drawn"): "the number of patients that were drawn is not public, and scales the noise with it",
    ("noise", "seeded"): "whoever knows the seed can take the noise away",
    ("noise", "none"): "there is no noise",
    ("metrics", "released"): "losses, scores and counts leave, and nothing pays for them",
    ("weights", "counts"): "the weight of a site tells how many patients it has",
    ("selection", "private"): "which model is kept depends on patients' scores, and nothing pays for the choice",
    ("normalisation", "dataset"): "every patient's image changes when one patient comes or goes",
}
_CHECKS = {
    "unit": "the unit is the patient",
    "clipping": "each patient's gradient is clipped once",
    "accountant": "every step is accounted for",
    "divisor": "sums are divided by a public number",
    "noise": "the noise cannot be worked out",
    "metrics": "nothing else leaves unpaid",
    "weights": "sites are weighted by public numbers",
    "selection": "no model is chosen by private scores",
    "normalisation": "a patient's image depends on that patient alone",
}


def verify(pipeline: Pipeline, findings: tuple[Finding, ...], claim: str) -> Verdict:
    """The claim, if every link holds.

    Args:
        pipeline: what the training does.
        findings: of checks of the model and of the mechanism itself, see `model_findings` and `client.privacy.probes`.
        claim: what may be said then.
    """
    everything = (*_pipeline_findings(pipeline), *findings)
    return Verdict(everything, claim if all(finding.holds for finding in everything) else None)


def _pipeline_findings(pipeline: Pipeline) -> Iterator[Finding]:
    for name, check in _CHECKS.items():
        value = getattr(pipeline, name)
        broken = _BROKEN.get((name, value))
        yield Finding(check, broken is None, broken or f"{name}: {value}")
    same = pipeline.sampling == pipeline.accountant
    told = f"{pipeline.sampling} batches, and the accountant assumes {pipeline.accountant}"
    yield Finding("the accountant assumes the sampling that is done", same, told)


def model_findings(model: nn.Module, patch: tuple[int, int, int], channels: int) -> tuple[Finding, ...]:
    """What there is in a network that mixes patients or remembers them.

    Args:
        model: the network, on the CPU; it is left as it is.
        patch: voxels of an image to try it on.
        channels: of the image.
    """
    return (_layers(model), _buffers(model), _independence(model, patch, channels))


def _layers(model: nn.Module) -> Finding:
    """Opacus knows layers by their exact type; what is derived from them is looked for here."""
    from opacus.validators import ModuleValidator

    was = model.training
    found = {type(module).__name__ for module in model.modules() if isinstance(module, _MIXING)}
    found |= {str(error).splitlines()[0] for error in ModuleValidator.validate(model.train(), strict=False)}
    model.train(was)
    return Finding("no layer mixes the patients of a batch", not found, "; ".join(sorted(found)) or "none found")


_MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def _buffers(model: nn.Module) -> Finding:
    names = [name for name, _ in model.named_buffers()]
    return Finding(
        "the network remembers nothing beside its weights", not names, f"buffers: {', '.join(names[:3]) or 'none'}"
    )


def _independence(model: nn.Module, patch: tuple[int, int, int], channels: int) -> Finding:
    """Tried out: another patient in the batch must not change the logits of the first, whatever the layers are."""
    was, generator = model.training, torch.Generator().manual_seed(0)
    first, second, third = torch.randn((3, 1, channels, *patch), generator=generator)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            one = model.train()(torch.cat([first, second]))[0]
            torch.manual_seed(0)
            other = model(torch.cat([first, 10 * third]))[0]
    finally:
        model.load_state_dict(kept)
        model.train(was)
    difference = float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))
    return Finding(
        "a patient's logits depend on that patient alone", difference < _ROUNDING, f"relative change {difference:.1e}"
    )


_ROUNDING = 1e-4
