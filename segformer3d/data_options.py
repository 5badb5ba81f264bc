"""The grammar of `segfed data`, which is too long for the command line's own file."""

import argparse

from segformer3d.dicom.options import import_options

TASK = "what to segment: a built-in task, or a TOML file (default: as the dataset says)"
LEAVE_OUT = "use no case that a published protocol holds out"


def data_options(command: argparse.ArgumentParser) -> None:
    """What can be done with a hospital's data before a run."""
    deeds = command.add_subparsers(dest="deed", required=True, metavar="DEED")
    import_options(deeds.add_parser("import", help=_IMPORT, description=_IMPORT))
    _check_options(deeds.add_parser("check", help=_CHECK, description=_CHECK))
    _prepare_options(deeds.add_parser("prepare", help=_PREPARE, description=_PREPARE))


_IMPORT = "DICOM series to NIfTI, without identifiers"
_CHECK = "look at every case: what cannot be used, what is unlike the others, what is there twice"
_PREPARE = "fill a cache ahead of a run; goes on where an interrupted one stopped"


def _check_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    _common_options(command)
    add("--against", metavar="DIR", help="held-out cases, of which none may be in the folder")
    add("--patient-pattern", metavar="REGEX", help="what of a case's name is the patient (default: as the data say)")
    add("--out", metavar="DIR", help="folder for tables and pictures (default: data-check/NAME)")


def _prepare_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    _common_options(command)
    add("--leave-out-published", action="store_true", help=LEAVE_OUT)
    add("--out", metavar="CACHE", required=True, help="the cache: work/cache of a site, cache in --out of segfed train")


def _common_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("folder", metavar="DIR", help="labelled cases, in any layout of docs/data.md")
    add("--task", metavar="NAME", help=TASK)
    add("--quarantine", metavar="FILE", help="list of cases that are not used, beside quarantine.csv in the folder")
    add("--workers", type=int, metavar="N", help="processes that read cases at the same time (default: as it pays)")
