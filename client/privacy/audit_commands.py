"""`segfed privacy audit RUN`: the audit of a run folder, in words that a data protection officer understands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.privacy.run_audit import RESULT, audit_run
from segformer3d.errors import SegfedError
from segformer3d.terminal import make_console, plain_duration


class AuditError(SegfedError):
    """The attack proved that a run's promise does not hold."""


def audit_and_print(run: str, deep: bool, canaries: int, device: str) -> None:
    """Audit a run folder, leave `privacy.json` there, and print what was tried, found and claimed.

    Args:
        run: the folder of a finished `segfed simulate`.
        deep: also train shadow models.
        canaries: of the attack on the mechanism.
        device: where to compute.

    Raises:
        AuditError: more privacy is lost than is claimed.
        SegfedError: the folder is no run folder or is damaged, or an option is outside its range.
    """
    console = make_console()
    with console.status("attacking") as status:
        result = audit_run(Path(run), deep=deep, canaries=canaries, device=device, on_phase=status.update)
    _print(console, result)
    console.print(Text(f"All numbers are in {Path(run) / RESULT}"), soft_wrap=True)
    if result["verdict"] == "refuted":
        raise AuditError(
            "the audit proved that the run loses more privacy than it claims; do not release its model, and report "
            "this as a bug of segfed"
        )


def _print(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for name in ("what was tried", "what was found", "what is claimed"):
        table.add_column(name, overflow="fold")
    for row in (*_mechanism_rows(result), *_membership_rows(result["membership"])):
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print()
    for text in _conclusion(result):
        console.print(Text(text), soft_wrap=True)
    console.print(Text(f"({plain_duration(result['seconds'])})"))


def _mechanism_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for found in result["mechanism"]:
        claim = f"epsilon {found['claimed']:.3f} at delta {found['delta']:g}"
        claim = claim if result["verdict"] != "no claim" else "nothing: the noise came from a seed"
        for attack in found["attacks"]:
            bound = f"{attack['right']} of {attack['guesses']} guesses right, so epsilon is at least "
            bound += f"{attack['lower_bound']:.2f} ({found['confidence']:.2%} sure); with all guesses right it would "
            bound += f"have been {attack['ceiling']:.2f}"
            rows.append((_TRIED[attack["name"]].format(attack["canaries"]), bound, claim))
    return rows


def _membership_rows(membership: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    allowed = membership["allowed_tpr"]
    claim = "nothing" if allowed is None else f"at most {allowed:.1%} found" if allowed < 1 else _FORBIDS_NOTHING
    return [
        (_TRIED[name].format(found["members"], found["others"], found.get("shadows")), _found(found), claim)
        for name, found in membership.items()
        if name in _TRIED and found is not None
    ]


def _found(found: Mapping[str, Any]) -> str:
    return (
        f"AUC {found['auc']:.3f} ({found['auc_low']:.2f} to {found['auc_high']:.2f}; guessing has 0.5); "
        f"{found['tpr']:.1%} found ({found['tpr_low']:.1%} to {found['tpr_high']:.1%}), while at most 1 % of others "
        f"are accused ({found['others']} were asked; of many more it could be {found['fpr_high']:.1%})"
    )


def _conclusion(result: Mapping[str, Any]) -> list[str]:
    return [_VERDICTS[result["verdict"]], *_NOT_SHOWN]


_TRIED = {
    "crowd": "{} canary patients in one run, whose gradients are huge; who took part?",
    "duel": "{} runs with one canary patient against accomplices; did it take part?",
    "threshold": "the model's loss on {} patients it was trained on and {} others; which is which?",
    "likelihood_ratio": "the same ({} and {}), compared with {} shadow models",
}
_FORBIDS_NOTHING = "nothing: with such an epsilon, all may be found"
_VERDICTS = {
    "refuted": "REFUTED: the attack found more than is claimed. The claim is false.",
    "not refuted": "Not refuted: no attack found more than is claimed.",
    "no claim": "No privacy is claimed for this run, so there is nothing to refute.",
}
_NOT_SHOWN = (
    "What this does not show: that no attack finds more. The claim rests on its proof; audits find mistakes in code.",
    "The canaries attack the mechanism with the run's settings, not the run itself. Trained-on patients and others may",
    "differ by scanner or site, which looks like membership. Few patients mean wide intervals: mind their far ends.",
    "These numbers were computed from patients without noise: they belong where the patients' data belongs.",
)
