"""The options of `segfed export`. Their values are checked where the work is done."""

import argparse

EXPORT = (
    "Write a model as a MONAI bundle, a PyTorch graph or an ONNX file, checked against the model itself, with a model "
    "card. (segfed server export is another thing: it hands on the files of a run between hospitals.)"
)
NORMS = (
    "of a FedBN model: whose norms, mean or the file of a site's own (RUN/memory-NNNN.safetensors in its work folder)"
)


def export_options(command: argparse.ArgumentParser) -> None:
    """Add the options to a command."""
    add = command.add_argument
    add("model", metavar="MODEL", help="model file")
    add(
        "--format",
        metavar="NAME",
        nargs="+",
        action="extend",
        help="monai-bundle, torch-export or onnx; one or several (default monai-bundle)",
    )
    add("--task", metavar="NAME", help="for models that do not say their task")
    add("--norms", metavar="FILE", help=NORMS)
    add("--run", metavar="DIR", help="run folder that the model came out of (default: where the model lies)")
    add("--evaluation", metavar="DIR", help="folder of segfed evaluate (default: the run's own)")
    add("--licence", metavar="TEXT", help="of the weights (default: not stated)")
    add("--out", metavar="DIR", required=True, help="folder to write to; new or empty")
