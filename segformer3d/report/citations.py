"""Whom to cite: the network, the benchmark, and the software, each with where it is to be found."""

from collections.abc import Sequence

from segformer3d.report.document import Items, Link, Paragraph, Section, Text

SEGFORMER3D: Text = (
    "Perera S, Navard P, Yilmaz A. SegFormer3D: an efficient transformer for 3D medical image segmentation. "
    "CVPR Workshops, 2024. ",
    Link("arXiv:2404.10156", "https://arxiv.org/abs/2404.10156"),
)
MONAI: Text = (
    "Cardoso MJ, Li W, Brown R, et al. MONAI: an open-source framework for deep learning in healthcare. 2022. ",
    Link("arXiv:2211.02701", "https://arxiv.org/abs/2211.02701"),
)
FLOWER: Text = (
    "Beutel DJ, Topal T, Mathur A, et al. Flower: a friendly federated learning research framework. 2020. ",
    Link("arXiv:2007.14390", "https://arxiv.org/abs/2007.14390"),
)
FEDERATED_AVERAGING: Text = (
    "McMahan B, Moore E, Ramage D, Hampson S, Agüera y Arcas B. Communication-efficient learning of deep networks from "
    "decentralized data. AISTATS, 2017. ",
    Link("arXiv:1602.05629", "https://arxiv.org/abs/1602.05629"),
)
PRIVATE_TRAINING: Text = (
    "Abadi M, Chu A, Goodfellow I, et al. Deep learning with differential privacy. ACM CCS, 2016. ",
    Link("doi:10.1145/2976749.2978318", "https://doi.org/10.1145/2976749.2978318"),
)
DECATHLON: Text = (
    "Antonelli M, Reinke A, Bakas S, et al. The Medical Segmentation Decathlon. Nature Communications 13:4128, 2022. ",
    Link("doi:10.1038/s41467-022-30695-9", "https://doi.org/10.1038/s41467-022-30695-9"),
)
BRATS: Text = (
    "Menze BH, Jakab A, Bauer S, et al. The multimodal brain tumor image segmentation benchmark (BRATS). IEEE "
    "Transactions on Medical Imaging 34:1993-2024, 2015. ",
    Link("doi:10.1109/TMI.2014.2377694", "https://doi.org/10.1109/TMI.2014.2377694"),
)
BENCHMARKS = {"hippocampus": (DECATHLON,), "brats2017": (DECATHLON, BRATS)}


def how_to_cite(task: str, version: str, more: Sequence[Text] = ()) -> Section:
    """The section of a report on the work that its numbers rest on.

    Args:
        task: the task's name; the papers of built-in benchmarks are known.
        version: of segfed.
        more: further works.
    """
    software = f"segfed {version}: federated learning of 3D medical image segmentation. Software, Apache-2.0."
    works = (SEGFORMER3D, *BENCHMARKS.get(task, ()), *more, MONAI, software)
    return Section("How to cite", (Paragraph("These numbers rest on the work of others:"), Items(tuple(works))))
