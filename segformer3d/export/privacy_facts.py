"""What the records of a run let one say about the privacy of its patients, and no more."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PrivacyFacts:
    """Differential privacy (Dwork et al. 2006) of a run, for one patient more or less with all of his or her cases.

    Attributes:
        claimed: whether it is; not in a run without, nor in one whose noise can be worked out from a seed.
        epsilon, delta: what the whole run costs each patient at the most, the largest over the sites.
        spent: epsilon of what was done for the run so far, the largest over the sites.
        verdict: of the attacks on the run, if there were any.
        epsilon_at_least: what those attacks prove.
    """

    claimed: bool
    epsilon: float | None = None
    delta: float | None = None
    spent: float | None = None
    verdict: str | None = None
    epsilon_at_least: float | None = None


NONE_CLAIMED = PrivacyFacts(claimed=False)


def promised(told: Mapping[str, Any]) -> PrivacyFacts:
    """What the sites promised, as `privacy` in the `summary.json` of a simulation says."""
    sites, audit = list(told["sites"].values()), told.get("audit") or {}
    epsilon, delta, spent = (max(float(site[name]) for site in sites) for name in ("epsilon", "delta", "spent"))
    return PrivacyFacts(
        bool(told["claimed"]), epsilon, delta, spent, audit.get("verdict"), audit.get("epsilon_at_least")
    )


def asked_for(settings: Mapping[str, Any], spent: Iterable[float]) -> PrivacyFacts:
    """What the sites were asked for: none promises less, so it bounds what the run costs.

    Args:
        settings: `[privacy]` of the run.
        spent: epsilon, as the sites told it.
    """
    secure = settings.get("noise", "secure") == "secure"
    delta = settings.get("delta")
    return PrivacyFacts(secure, float(settings["epsilon"]), delta, max(spent, default=None))
