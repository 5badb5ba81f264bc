"""The grammar of `segfed simulate` and `segfed warm-start`."""

import argparse

from segformer3d.data_options import LEAVE_OUT, TASK


def simulate_options(command: argparse.ArgumentParser) -> None:
    """`segfed simulate`; values are checked where settings are built."""
    add = command.add_argument
    add("--data", metavar="DIR", help="dataset to split into hospitals, in any layout of docs/data.md")
    add("--task", metavar="NAME", help=TASK)
    add("--sites", type=int, metavar="N", help="hospitals (default 4)")
    add("--rounds", type=int, metavar="R", help="rounds of federated averaging (default 30)")
    add("--local-epochs", type=int, metavar="E", help="passes over a site's cases in a round (default 1)")
    add("--partition", metavar="KIND", help="how cases are dealt: iid, quantity or intensity (default iid)")
    add("--scenario", metavar="NAME", help="how hospitals differ, such as scanners or labels (docs/heterogeneity.md)")
    add("--engine", metavar="NAME", help="local or ray (default local)")
    add("--seed", type=int, metavar="S", help="of everything random (default 0)")
    add("--held-out", type=float, metavar="SHARE", help="share of the cases that no site gets (default 0.2)")
    add("--leave-out-published", action="store_true", default=None, help=LEAVE_OUT)
    add("--minimum-sites", type=int, metavar="N", help="good replies that a round needs (default more than half)")
    add("--round-deadline", type=float, metavar="SECONDS", help="a round closes after this long (default 3600)")
    add("--parallel", type=int, metavar="N", help="sites that compute at once (default: the cores of this machine)")
    add("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--epsilon", type=float, metavar="E", help="differential privacy: what the run may cost each patient")
    add("--delta", type=float, metavar="D", help="chance that this promise fails (default min(1e-5, 1/(10 patients)))")
    add("--patient-pattern", metavar="REGEX", help="what of a case's name is the patient (default: each case is one)")
    add("--strategy", metavar="NAME,...", help="how updates become a model (default fedavg); several are compared")
    add("--exchange", metavar="NAME,...", help="how updates travel: fp32 (default), compact, ...; several are compared")
    add("--seeds", type=int, metavar="N", help="play everything with so many seeds, from --seed on (default 1)")
    add("--start", metavar="FILE", help="model to begin with (default: random weights)")
    add("--compare", action="store_true", default=None, help="also train each site alone and all data pooled")
    add(
        "--config",
        metavar="FILE",
        help="TOML file with any of these options, and tables [training], [model], [grid], [privacy], [strategy]",
    )
    add("--out", metavar="DIR", help="run folder (default runs/DATE-TASK)")
    add("--resume", metavar="DIR", help="go on with the run or study in this folder, from its last complete rounds")


def warm_start_options(command: argparse.ArgumentParser) -> None:
    """`segfed warm-start`."""
    add = command.add_argument
    add("--task", metavar="NAME", required=True, help="what to segment: hippocampus or phantom")
    add("--cases", type=int, default=400, metavar="N", help="made-up cases (default 400)")
    add("--epochs", type=int, default=8, metavar="N", help="passes over them (default 8)")
    add("--seed", type=int, default=0, metavar="S", help="of everything random (default 0)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--out", metavar="DIR", required=True, help="folder for the model")
