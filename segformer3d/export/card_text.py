"""`MODEL_CARD.md`: the facts of a model card for people."""

from collections.abc import Sequence

from segformer3d.export.card import Card, ExportedFile
from segformer3d.export.evaluation_facts import EvaluationFacts, Score
from segformer3d.export.privacy_facts import PrivacyFacts
from segformer3d.export.run_facts import RunFacts
from segformer3d.tasks import Task
from segformer3d.terminal import plain_bytes

NOT_STATED = "not stated"
INTENDED_USE = (
    "Research on the segmentation of {structures} in {modalities}. It is not a medical device: it must not guide the "
    "diagnosis or treatment of anybody."
)
_METRICS = {"dice": "Dice", "hd95": "HD95 (mm)", "surface_dice": "surface Dice"}
_NOT_COVERED = (
    "Not covered: that a site takes part; how long it computes; what earlier runs, the model that the run began from, "
    "or another site with the same patient have told; what is true of all patients alike."
)


def card_text(card: Card) -> str:
    """The whole card as Markdown."""
    sections = (
        ("Intended use", [intended_use(card.task)]),
        ("What it segments", _task(card.task)),
        ("Training", _training(card)),
        ("Sites", _sites(card.run)),
        ("How good it is", _evaluation(card.evaluation)),
        ("Privacy of the patients it learnt from", _privacy(card.run)),
        ("Limitations", [f"- {line}" for line in limitations(card)]),
        ("Licence", [f"Weights: {card.licence or NOT_STATED}. The program segfed: Apache-2.0."]),
        ("Identity", _identity(card)),
    )
    parts = [f"# Model card: {card.task.name}"]
    for title, lines in sections:
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def intended_use(task: Task) -> str:
    """What a model of this task is for, and what not."""
    structures = ", ".join(structure.name for structure in task.structures)
    return INTENDED_USE.format(structures=structures, modalities=", ".join(task.modalities))


def file_text(file: ExportedFile) -> str:
    """A file's name and size, and what its check found."""
    text, check = f"{file.name}: {plain_bytes(file.bytes)}", file.check
    if check is None:
        return text
    near = f"logits within {check.difference:.2g} of the model's" if check.difference else "the model's own logits"
    return f"{text}; {check.runtime} gives {near}, which reach {check.largest:.3g}, on {check.patches} random patches"


def limitations(card: Card) -> list[str]:
    """What whoever uses the model should expect of it."""
    run, evaluation = card.run, card.evaluation
    lines = [
        "What was not in its training data (scanners, protocols, ages, diseases) may be segmented wrongly, and nothing "
        "in the output says so.",
        "It has an answer for every image, also for one of another body part or contrast.",
    ]
    if card.norms is not None:
        lines.append(f"Its norms are {card.norms}.")
    if run is not None and run.made_up:
        lines.append("Its patients were made up by a program; it has seen no real scan.")
    if run is not None and run.simulated:
        lines.append("Its sites were simulated on one machine.")
    if evaluation is None:
        lines.append("How good it is is not stated here.")
    else:
        lines.append(f"It was measured on {evaluation.cases} cases; on others it may be better or worse.")
    return lines


def _task(task: Task) -> list[str]:
    spacing = " x ".join(f"{mm:g}" for mm in task.spacing) + " mm" if task.spacing else "each image's own"
    window = f", window {task.window[0]:g} to {task.window[1]:g}" if task.window else ""
    patch = " x ".join(map(str, task.patch))
    return [
        *_table(("structure", "labels"), [(s.name, ", ".join(map(str, s.labels))) for s in task.structures]),
        "",
        f"- Images: {', '.join(task.modalities)}, in this order; RAS+ orientation; spacing: {spacing}",
        f"- Intensities: {task.intensity}{window}",
        f"- Windows: {patch} voxels; output: {task.activation} over {task.channels} channels",
    ]


def _training(card: Card) -> list[str]:
    run = card.run
    if run is None:
        return [f"How it was trained: {NOT_STATED}."]
    how = "A federation that was simulated on one machine" if run.simulated else "A federation between sites"
    begun = f"Begun from: {run.begun_from or NOT_STATED}."
    rounds = f"round {card.round} of {run.settings['rounds']}" if card.round is not None else f"round {NOT_STATED}"
    settings = [(name, _plain(value)) for name, value in run.settings.items()]
    return [f"{how}; the model after {rounds}. {begun}", "", *_table(("setting", "value"), settings)]


def _sites(run: RunFacts | None) -> list[str]:
    if run is None or not run.sites:
        return [f"Sites and their cases: {NOT_STATED}."]
    if any(site.epsilon is not None for site in run.sites):
        rows = [(site.site, str(site.cases)) for site in run.sites]
        return _table(("site", "patients (the public number, not the real one)"), rows)
    counts = [(site.site, str(site.cases), _plain(site.validation_cases)) for site in run.sites]
    total = str(sum(site.cases for site in run.sites)), str(sum(site.validation_cases or 0 for site in run.sites))
    return _table(("site", "training cases", "validation cases"), [*counts, ("all", *total)])


def _evaluation(measured: EvaluationFacts | None) -> list[str]:
    if measured is None:
        return [f"Scores: {NOT_STATED}."]
    names = list(dict.fromkeys(metric for scores in measured.structures.values() for metric in scores))
    rows = [
        (name, *(_interval(scores[metric]) if metric in scores else "" for metric in names))
        for name, scores in measured.structures.items()
    ]
    held_out = "no site trained on them" if measured.held_out else f"whether it was trained on some: {NOT_STATED}"
    return [
        f"Mean Dice {_interval(measured.mean_dice)}, over {measured.cases} cases ({measured.set_aside} set aside; "
        f"{held_out}). Protocol {measured.protocol}: {measured.sentence} "
        "Means over the cases and their 95 % intervals:",
        "",
        *_table(("structure", *(_METRICS.get(name, name) for name in names)), rows),
        "",
        measured.rules,
    ]


def _privacy(run: RunFacts | None) -> list[str]:
    if run is None:
        return [f"Whether differential privacy is claimed: {NOT_STATED}."]
    facts = run.privacy
    if facts.epsilon is None:
        return ["No differential privacy was claimed: whoever has the model may find out about its patients."]
    if not facts.claimed:
        return ["None is claimed: the noise of the run came from a seed, and whoever knows it can take it away."]
    return [_claim(facts), "", _NOT_COVERED, *(["", _attacked(facts)] if facts.verdict else [])]


def _claim(facts: PrivacyFacts) -> str:
    delta = f"{facts.delta:g}" if facts.delta is not None else f"{NOT_STATED} (each site's own)"
    spent = f"; spent: {facts.spent:.3f}" if facts.spent is not None else ""
    return (
        f"Differential privacy for each patient with all of his or her cases: epsilon at most {facts.epsilon:.3f}, "
        f"delta {delta}{spent}. Whoever sees everything that a site sent in the run, and so whoever has the model, can "
        "tell whether a patient was there only as well as that allows."
    )


def _attacked(facts: PrivacyFacts) -> str:
    least = (
        "" if facts.epsilon_at_least is None else f", and prove an epsilon of {facts.epsilon_at_least:.2f} at the least"
    )
    return f"Attacks on the run found the claim {facts.verdict}{least}."


def _identity(card: Card) -> list[str]:
    lines = [
        f"- SegFormer3D, {card.parameters:,} parameters, {card.norm} norm",
        f"- sha256 of the weights: `{card.weights_sha256}`",
        f"- run: {card.run.run if card.run and card.run.run else NOT_STATED}; written by segfed {card.segfed}",
    ]
    return lines + [f"- {file_text(file)}, sha256 `{file.sha256}`" for file in card.files]


def _interval(score: Score) -> str:
    if score["mean"] is None:
        return "undefined"
    excluded = f" ({score['excluded']} undefined)" if score["excluded"] else ""
    return f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]{excluded}"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return NOT_STATED if value is None else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; names come from people, so a bar in one does not begin a cell."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
