"""`python -m benchmarks.scanner_pictures --data DIR --out FILE.png`: one case in the scanners of four sites.

The picture of docs/heterogeneity.md: the sagittal slice through the middle of the label, in shades between the 1st and
99th percentile of each image, the structures outlined.
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.tasks import task_of_folder
from simulations.scenarios import get_scenario
from simulations.scenarios.scanners import SiteScanner, site_scanners
from simulations.site_folders import write_description

SITES = 4


def main(argv: list[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder of MRI")
    parser.add_argument("--case", type=int, default=0, help="which case, by its place among the names (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the scanners (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    asked = parser.parse_args(argv)
    case, task = find_cases(asked.data)[asked.case], task_of_folder(asked.data)
    figure = Figure(figsize=(2.3 * (SITES + 1), 2.6), layout="constrained")
    panels = figure.subplots(1, SITES + 1)
    with TemporaryDirectory() as folder:
        sites = [_copied(case, Path(folder) / f"site-{number}") for number in range(1, SITES + 1)]
        get_scenario("scanners").change(sites, asked.seed, task)
        titles = [_title(n, s) for n, s in enumerate(site_scanners(SITES, asked.seed), start=1)]
        for axes, files, title in zip(
            panels, [case, *(find_cases(site)[0] for site in sites)], ["as it is", *titles], strict=True
        ):
            _show(axes, files, title)
    figure.savefig(asked.out, dpi=100)


def _copied(case: CaseFiles, site: Path) -> Path:
    """A site with this case alone."""
    entry: dict[str, object] = {}
    for kind, path in zip(("image", "label"), case.paths, strict=True):
        place = site / f"{kind}sTr" / path.name
        place.parent.mkdir(parents=True)
        shutil.copyfile(path, place)
        entry[kind] = str(place.relative_to(site))
    write_description(site, {"name": "one", "modality": {"0": "MRI"}}, [entry])
    return site


def _show(axes: Axes, files: CaseFiles, title: str) -> None:
    image, label = (nib.as_closest_canonical(nib.load(path)) for path in files.paths)
    values, truth = np.asarray(image.dataobj, np.float32), np.asarray(label.dataobj)
    x = int(np.rint(np.argwhere(truth)[:, 0].mean()))
    low, high = np.percentile(values, (1, 99))
    _, height, depth = nib.affines.voxel_sizes(image.affine)
    extent = (0, values.shape[1] * height, 0, values.shape[2] * depth)
    axes.imshow(values[x].T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="nearest")
    y, z = (np.arange(n) * step + step / 2 for n, step in zip(values.shape[1:], (height, depth), strict=True))
    for value, colour in ((1, "tab:orange"), (2, "tab:cyan")):
        if (truth[x] == value).any():
            axes.contour(y, z, (truth[x] == value).T, levels=[0.5], colors=[colour], linewidths=1.2)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def _title(number: int, scanner: SiteScanner) -> str:
    across = ("left-right", "front-back", "top-bottom")[scanner.across]
    slices = "slices as they were" if scanner.slices == 1 else f"slices {scanner.slices:g} x thicker, {across}"
    return (
        f"site-{number}, stored {scanner.axes}\ncontrast ^{scanner.gamma:.2f}, noise {scanner.noise:.1%}\n"
        f"bias {scanner.bias:.2f}, blur {scanner.blur:.2f}\n{slices}"
    )


if __name__ == "__main__":
    main()
