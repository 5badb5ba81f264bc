"""What the command line takes about DICOM; `commands` and `predicting` check the values."""

import argparse


def import_options(command: argparse.ArgumentParser) -> None:
    """Of `segfed data import`."""
    add = command.add_argument
    add("source", metavar="DIR", nargs="+", help="folders of DICOM files, searched to the last subfolder")
    add("--out", metavar="DIR", required=True, help="dataset folder to write, or to add to")
    add("--task", metavar="NAME", help="built-in task or TOML file: reads labels, refuses other modalities")
    _contrast_option(command)
    add(
        "--structure",
        metavar="NAME=PATTERN",
        action="append",
        default=[],
        help="what a structure of the task is called in the labels (default: its name); once for each structure",
    )


def predict_options(command: argparse.ArgumentParser) -> None:
    """Of `segfed predict`, beside those for all images."""
    _contrast_option(command)
    command.add_argument(
        "--format",
        dest="label_format",
        metavar="NAME",
        default="nifti",
        help="of the labels: nifti, or dicom-seg for DICOM series (default nifti)",
    )


def _contrast_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--contrast",
        metavar="NAME=PATTERN",
        action="append",
        default=[],
        help="which DICOM series is a contrast, by description or protocol (flair=*FLAIR*); once for each contrast",
    )
