"""`python -m benchmarks`: everything that docs/performance.md claims, measured in one run on this machine.

It prints a Markdown report and writes it, and the figures behind it as JSON. Ratios come first, since only what was
measured side by side in one run can be compared; ± is half the distance between the quartiles.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import describe_data, measure_data
from benchmarks.deployment import describe_deployment, measure_deployment
from benchmarks.exchange import describe_exchange, measure_exchange
from benchmarks.federations import describe_federations, measure_federations
from benchmarks.inference import describe_inference, measure_inference
from benchmarks.machine import describe_machine
from benchmarks.metrics import describe_metrics, measure_metrics
from benchmarks.networks import describe_growth, describe_networks, measure_growth, measure_networks
from benchmarks.private import describe_private, measure_private
from benchmarks.settings import FULL, QUICK, Settings
from benchmarks.studies import describe_studies, measure_studies
from benchmarks.training import describe_training, measure_training
from segformer3d.files import write_json, write_text

SECTIONS: Mapping[str, tuple[str, Callable[[Settings], Any], Callable[[Any], str]]] = {
    "networks": ("Networks side by side", measure_networks, describe_networks),
    "growth": ("From small volumes to large ones", measure_growth, describe_growth),
    "data": ("The data gate and the preparation", measure_data, describe_data),
    "inference": ("A whole scan", measure_inference, describe_inference),
    "metrics": ("The scores of a whole scan", measure_metrics, describe_metrics),
    "training": ("Training on real cases", measure_training, describe_training),
    "federations": ("A federated round over its bare steps", measure_federations, describe_federations),
    "studies": ("A study of several runs", measure_studies, describe_studies),
    "exchange": ("Messages made small", measure_exchange, describe_exchange),
    "privacy": ("A private step", measure_private, describe_private),
    "deployment": ("A trivial round between processes", measure_deployment, describe_deployment),
}


def main() -> None:
    """Measure the sections that were asked for."""
    arguments = _parser().parse_args()
    settings = _settings(arguments)
    machine = describe_machine(settings.device)
    found: dict[str, Any] = {"machine": machine}
    report = f"# Benchmarks\n\n{', '.join(f'{name} {value}' for name, value in machine.items())}\n"
    print(report)
    for name in arguments.sections or SECTIONS:
        title, measure, describe = SECTIONS[name]
        found[name] = measure(settings)
        section = f"\n## {title}\n\n{describe(found[name])}\n"
        print(section, flush=True)
        report += section
        write_text(Path(arguments.out) / "report.md", report)
        write_json(Path(arguments.out) / "report.json", json.loads(json.dumps(found)))


def _settings(arguments: argparse.Namespace) -> Settings:
    amounts: dict[str, Any] = QUICK if arguments.quick else FULL
    return Settings(
        device=arguments.device,
        threads=arguments.threads or torch.get_num_threads(),
        scans=_folder(arguments.scans),
        glioma=_folder(arguments.glioma),
        trained=Path(arguments.trained) if arguments.trained else None,
        **amounts,
    )


def _folder(name: str | None) -> Path | None:
    return Path(name).resolve() if name else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure segfed against its peers.")
    add = parser.add_argument
    add("--quick", action="store_true", help="small volumes and few repeats: under three minutes on two cores")
    add("--sections", nargs="+", choices=tuple(SECTIONS), help="only these (default: all)")
    add(
        "--scans", metavar="DIR", help="labelled hippocampus cases, for the sections on training, federations, exchange"
    )
    add("--glioma", metavar="DIR", help="a scan in four contrasts (default: a synthetic one of the same size)")
    add("--trained", metavar="FILE", help="a model of the cases' task: also measure what the defaults do to its Dice")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda (default: cuda if any)")
    add("--threads", type=int, metavar="N", help="of every process on the CPU (default: PyTorch's)")
    add("--out", metavar="DIR", default="benchmark-report", help="folder for report.md and report.json")
    return parser


if __name__ == "__main__":
    main()
