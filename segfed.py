"""The `segfed` command: parses, calls, prints.

Exit codes: 0 done; 1 something outside the program is wrong (one line on stderr says what, where and what to do); 2 the
command line itself is off; 130 stopped by Ctrl-C. A programming error keeps its traceback.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segformer3d.data_options import LEAVE_OUT, TASK, data_options
from segformer3d.dicom.options import predict_options
from segformer3d.errors import ConfigurationError, SegfedError
from segformer3d.export.options import EXPORT, NORMS, export_options
from segformer3d.toml_file import read_toml
from simulations.options import simulate_options, warm_start_options


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = vars(parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        COMMANDS[command](arguments)
    except SegfedError as error:
        print(f"segfed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"segfed: stopped{_hint(stopped)}", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's grammar. Values are checked where settings are built: a TOML file obeys the same rules."""
    top = argparse.ArgumentParser(prog="segfed", description=_TITLE, epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"segfed {version('segfed')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, options, short, long in (
        ("simulate", simulate_options, "a federation of hospitals on this machine", _SIMULATE),
        ("warm-start", warm_start_options, "a model from made-up patients, for private runs", _WARM_START),
        ("data", data_options, "bring a hospital's data: import, check, prepare", _DATA),
        ("train", _train_options, "train on one folder of cases, without a federation", _TRAIN),
        ("predict", _predict_options, "write label maps for images", _PREDICT),
        ("evaluate", _evaluate_options, "measure a model on labelled cases", _EVALUATE),
        ("export", export_options, "a model for other programs: MONAI, PyTorch, ONNX; with a model card", EXPORT),
        ("site", _site_options, "a hospital's end of a federation", _SITE),
        ("server", _server_options, "the coordinator's end of a federation", _SERVER),
        ("privacy", _privacy_options, "what a claim of privacy is worth", _PRIVACY),
        ("ledger", _ledger_options, "what private runs have cost a site's patients", _LEDGER),
        ("audit", _audit_options, "check an audit trail", _AUDIT),
    ):
        options(commands.add_parser(name, help=short, description=long))
    return top


_TITLE = "Federated learning of 3D medical image segmentation (SegFormer3D on Flower)."
_EPILOG = "Each command explains itself: segfed COMMAND --help"
_SIMULATE = (
    "Train one model across simulated hospitals and measure it on cases that none of them saw. "
    "Without --data, synthetic hospitals are written first. Ctrl-C stops it; --resume DIR goes on."
)
_WARM_START = (
    "Make up cases of a task (no patient is behind them) and train on them: a model for private runs to begin with."
)
_TRAIN = "Train on the cases of one folder: the pooled or single-site baseline."
_DATA = "Bring a hospital's data: import DICOM series, check what a folder holds, prepare it ahead of a run."
_PREDICT = "Write NAME.nii.gz for each image, in the image's own space, orientation and spacing."
_EVALUATE = "Dice, HD95 (mm) and surface Dice of a model on labelled cases, by a protocol and beside a second model."
_MIRROR = "average mirrored copies too (default: as the task says)"
_SITE = "Join a federation from a hospital: init, check, join, status. Only outbound connections are made."
_SERVER = "Coordinate a federation of hospitals: init, add-site, start, run, status, stop, export."
_PRIVACY = (
    "Verify that a configuration and a model keep the differential privacy that is claimed, or attack a finished run."
)
_LEDGER = "Read a site's privacy ledger (ledger.jsonl): show what was spent, verify the chain, plan what is left."
_AUDIT = "Check that no line of an audit trail (audit.jsonl) was changed, removed, added or moved."


def _train_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--data", metavar="DIR", required=True, help="labelled cases, in any layout of docs/data.md")
    add("--task", metavar="NAME", help=TASK)
    add("--epochs", type=int, default=30, metavar="N", help="passes over the cases (default 30)")
    add("--seed", type=int, default=0, metavar="S", help="of everything random (default 0)")
    add("--validation-share", type=float, default=0.1, metavar="SHARE", help="share to measure on (default 0.1)")
    add("--leave-out-published", action="store_true", help=LEAVE_OUT)
    add("--quarantine", metavar="FILE", help="list of cases that are not used, beside quarantine.csv in the folder")
    add("--cache", metavar="DIR", help="where prepared cases are kept (default: cache in --out)")
    add("--workers", type=int, default=0, metavar="N", help="processes that read cases and cut patches (default 0)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--config", metavar="FILE", help="TOML file with tables [training], [model], [grid]")
    add("--out", metavar="DIR", required=True, help="folder for the model")


def _predict_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", metavar="FILE", required=True, help="model file")
    add("--image", metavar="PATH", required=True, help="one NIfTI image, a folder of them, or DICOM series")
    add("--task", metavar="NAME", help="for models that do not say their task")
    add("--norms", metavar="FILE", help=NORMS)
    predict_options(command)
    add("--mirror", action=argparse.BooleanOptionalAction, help=_MIRROR)
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--out", metavar="DIR", required=True, help="folder for the label maps")


def _evaluate_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", metavar="FILE", required=True, help="model file")
    add("--data", metavar="DIR", required=True, help="labelled cases, in any layout of docs/data.md")
    add("--task", metavar="NAME", help="for models that do not say their task, or data of another challenge")
    add("--norms", metavar="FILE", help=NORMS)
    add("--cases", default="all", metavar="WHICH", help="all, or published (held out by the published protocol)")
    add("--mirror", action=argparse.BooleanOptionalAction, help=_MIRROR)
    add(
        "--protocol",
        metavar="NAME",
        help="how to measure: whole-scan, or for benchmarks published (default whole-scan)",
    )
    add("--against", metavar="FILE", help="second model, to compare with on the same cases")
    add("--strata", metavar="FILE", help="CSV file (case,NAME,...) with facts to group the cases by")
    add("--seed", type=int, default=0, metavar="S", help="of the bootstrap intervals (default 0)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--out", metavar="DIR", required=True, help="folder for tables and figures")


def _site_options(command: argparse.ArgumentParser) -> None:
    deeds = command.add_subparsers(dest="deed", required=True, metavar="DEED")
    init = _deed(deeds, "init", "make a site's folder: its key and its settings")
    init.add_argument("--name", metavar="NAME", help="what the coordinator calls this site")
    init.add_argument("--data", metavar="DIR", help="labelled cases, in any layout of docs/data.md")
    init.add_argument("--coordinator", metavar="HOST:PORT", help="where the coordinator's gate is")
    _deed(deeds, "check", "see whether the site can join: data, machine, network, certificate, clock, key")
    _deed(deeds, "join", "take part until Ctrl-C; reconnects by itself")
    _deed(deeds, "status", "whether the site takes part, and what it did last")


def _server_options(command: argparse.ArgumentParser) -> None:
    deeds = command.add_subparsers(dest="deed", required=True, metavar="DEED")
    init = _deed(deeds, "init", "set up a coordinator, or renew its certificates")
    init.add_argument("--host", metavar="NAME", action="append", required=True, help="name or address that sites use")
    init.add_argument("--port", type=int, default=8443, metavar="N", help="port of the gate (default 8443)")
    init.add_argument("--listen", metavar="HOST:PORT", help="where the gate listens (default: everywhere)")
    init.add_argument("--certificate", metavar="FILE", help="an own certificate (PEM, chain included)")
    init.add_argument("--key", metavar="FILE", help="its private key")
    init.add_argument("--authority", metavar="FILE", help="the authority that issued it, for the sites to trust")
    add = _deed(deeds, "add-site", "let a site join", positional=False)
    add.add_argument("name", metavar="NAME")
    add.add_argument("key", metavar="KEY", help="the site's public key, or a file that holds it")
    remove = _deed(deeds, "remove-site", "let a site join no more", positional=False)
    remove.add_argument("name", metavar="NAME")
    _deed(deeds, "start", "run the coordinator until Ctrl-C")
    run = _deed(deeds, "run", "begin a run, or go on with one", positional=False)
    run.add_argument("federation", metavar="FILE", nargs="?", help="federation file (TOML)")
    run.add_argument("--resume", metavar="RUN", help="go on with this run from its last complete round")
    status = _deed(deeds, "status", "processes, sites and runs, now")
    status.add_argument("--watch", action="store_true", help="until Ctrl-C")
    export = _deed(deeds, "export", "put a run's models, tables and settings into a folder", positional=False)
    export.add_argument("run", metavar="RUN")
    export.add_argument("--out", metavar="DIR", required=True, help="folder to write to")
    stop = _deed(deeds, "stop", "stop a run after its last complete round", positional=False)
    stop.add_argument("run", metavar="RUN")


def _privacy_options(command: argparse.ArgumentParser) -> None:
    deeds = command.add_subparsers(dest="deed", required=True, metavar="DEED")
    verify = _said(deeds, "verify", "check everything that a claim of privacy hangs on")
    verify.add_argument("file", metavar="FILE", help="federation file, run folder, or a file with a [pipeline]")
    verify.add_argument("--model", metavar="FILE", help="model to look at (default: a fresh one of the task)")
    audit = _said(deeds, "audit", "attack a finished run: how much privacy is lost at the least")
    audit.add_argument("run", metavar="RUN", help="run folder of segfed simulate")
    audit.add_argument("--deep", action="store_true", help="also train shadow models (LiRA): takes longer")
    audit.add_argument("--canaries", type=int, default=1000, metavar="N", help="made-up patients (default 1000)")
    audit.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")


def _ledger_options(command: argparse.ArgumentParser) -> None:
    deeds = command.add_subparsers(dest="deed", required=True, metavar="DEED")
    show = _said(deeds, "show", "what each run was charged with, and what all of them have cost")
    verify = _said(deeds, "verify", "check the chain from its first line to its last")
    plan = _said(deeds, "plan", "how many rounds at which noise fit in what is left")
    for deed in (show, verify, plan):
        deed.add_argument("ledger", metavar="LEDGER", nargs="?", default=".", help="file, or a site's folder")
    for deed in (show, plan):
        deed.add_argument("--delta", type=float, metavar="D", help="chance that the promise fails (default 1e-5)")
    plan.add_argument("--limit", type=float, required=True, metavar="E", help="epsilon that all runs may come to")
    plan.add_argument("--sampling-rate", type=float, metavar="Q", help="chance of a patient to be in a step")
    plan.add_argument("--local-steps", type=int, metavar="N", help="steps of a round")
    plan.add_argument("--noise", type=float, metavar="Z", help="noise multiplier (default: several)")


def _audit_options(command: argparse.ArgumentParser) -> None:
    deeds = command.add_subparsers(dest="deed", required=True, metavar="DEED")
    verify = deeds.add_parser("verify", help="check the chain of a file", description=_AUDIT)
    verify.add_argument("file", metavar="FILE")


def _said(deeds: Any, name: str, short: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = deeds.add_parser(name, help=short, description=short)
    return command


def _deed(deeds: Any, name: str, short: str, *, positional: bool = True) -> argparse.ArgumentParser:
    """A deed and the folder that it is done in: the last argument, or --folder where others come first."""
    command = _said(deeds, name, short)
    if positional:
        command.add_argument("folder", metavar="DIR", nargs="?", default=".", help="the folder (default: here)")
    else:
        command.add_argument("--folder", metavar="DIR", default=".", help="the coordinator's folder (default: here)")
    return command


# The commands import what they need when they run: `segfed --help` answers without waiting for PyTorch.


def _simulate(arguments: dict[str, Any]) -> None:
    from simulations.run import resume_simulation, start_simulation
    from simulations.study import Study, asked_for
    from simulations.study_runs import begin_study, is_study, play_study

    resumed, config, out = arguments.pop("resume"), arguments.pop("config"), arguments.pop("out")
    given = {name: value for name, value in arguments.items() if value is not None}
    if resumed is not None:
        play = resume_simulation
        if is_study(Path(resumed)):
            play = partial(play_study, parallel=given.pop("parallel", None))
        if given or config or out:
            raise ConfigurationError("--resume takes all settings from the run folder; leave the other options out")
        play(Path(resumed))
        return
    asked = _read_config(config)
    out = out or asked.pop("out", None)
    what = asked_for({**asked, **given})
    if isinstance(what, Study):
        begin_study(what, Path(out or "study"))
    else:
        start_simulation(what, Path(out) if out else None)


def _train(arguments: dict[str, Any]) -> None:
    from segformer3d.commands import train_and_print

    train_and_print(**{**arguments, "config": _read_config(arguments["config"])})


_SITE_DEEDS = {
    "init": "client.init:init_and_print",
    "check": "client.check:check_and_print",
    "join": "client.join:join_and_print",
    "status": "client.status:status_and_print",
}
_SERVER_DEEDS = {
    "init": "server.commands:init_and_print",
    "add-site": "server.commands:add_site_and_print",
    "remove-site": "server.commands:remove_site_and_print",
    "start": "server.start:start_and_print",
    "run": "server.run_commands:run_and_print",
    "status": "server.status:status_and_print",
    "stop": "server.run_commands:stop_and_print",
    "export": "server.export:export_and_print",
}


_DATA_DEEDS = {
    "import": "segformer3d.dicom.commands:import_and_print",
    "check": "segformer3d.data_check.commands:check_and_print",
    "prepare": "segformer3d.filling:prepare_and_print",
}
_PRIVACY_DEEDS = {
    "verify": "client.privacy.verify_commands:verify_and_print",
    "audit": "client.privacy.audit_commands:audit_and_print",
}
_LEDGER_DEEDS = {
    "show": "client.privacy.ledger_commands:show_and_print",
    "verify": "client.privacy.ledger_commands:verify_and_print",
    "plan": "client.privacy.ledger_commands:plan_and_print",
}


def _do(told: str | Mapping[str, str], arguments: dict[str, Any]) -> None:
    """Call what a command, or its deed, stands for: "module:function"."""
    module, _, function = (told if isinstance(told, str) else told[arguments.pop("deed")]).partition(":")
    getattr(import_module(module), function)(**arguments)


COMMANDS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "simulate": _simulate,
    "data": partial(_do, _DATA_DEEDS),
    "train": _train,
    "warm-start": partial(_do, "simulations.warm_start:warm_start_and_print"),
    "predict": partial(_do, "segformer3d.commands:predict_and_print"),
    "evaluate": partial(_do, "segformer3d.commands:evaluate_and_print"),
    "export": partial(_do, "segformer3d.export.commands:export_and_print"),
    "site": partial(_do, _SITE_DEEDS),
    "server": partial(_do, _SERVER_DEEDS),
    "privacy": partial(_do, _PRIVACY_DEEDS),
    "ledger": partial(_do, _LEDGER_DEEDS),
    "audit": partial(_do, {"verify": "segformer3d.audit:verify_and_print"}),
}


def _read_config(path: str | None) -> dict[str, Any]:
    return {} if path is None else read_toml(Path(path), "--config takes a TOML file")


def _hint(stopped: KeyboardInterrupt) -> str:
    return f"; {stopped.args[0]}" if stopped.args else ""


if __name__ == "__main__":
    sys.exit(main())
