"""Whom to cite: the network, the benchmark, and the software, each with where it is to be found."""

from collections.abc import Mapping, Sequence

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
BRATS_2021: Text = (
    "Baid U, Ghodasara S, Mohan S, et al. The RSNA-ASNR-MICCAI BraTS 2021 benchmark on brain tumor segmentation and "
    "radiogenomic classification. 2021. ",
    Link("arXiv:2107.02314", "https://arxiv.org/abs/2107.02314"),
)
BRATS_2023: Text = (
    "BraTS 2023: the cluster of challenges of MICCAI 2023. ",
    Link("syn51156910", "https://www.synapse.org/Synapse:syn51156910"),
)
LESION_WISE: Text = (
    "Saluja R, et al. BraTS 2023 lesion-wise performance metrics. ",
    Link("github.com/rachitsaluja/BraTS-2023-Metrics", "https://github.com/rachitsaluja/BraTS-2023-Metrics"),
)
SYNAPSE: Text = (
    "Landman B, Xu Z, Igelsias JE, et al. MICCAI multi-atlas labeling beyond the cranial vault: workshop and "
    "challenge. 2015. ",
    Link("syn3193805", "https://www.synapse.org/Synapse:syn3193805"),
)
ACDC: Text = (
    "Bernard O, Lalande A, Zotti C, et al. Deep learning techniques for automatic MRI cardiac multi-structures "
    "segmentation and diagnosis: is the problem solved? IEEE Transactions on Medical Imaging 37:2514-2525, 2018. ",
    Link("doi:10.1109/TMI.2018.2837502", "https://doi.org/10.1109/TMI.2018.2837502"),
)
BENCHMARKS: Mapping[str, tuple[Text, ...]] = {
    "hippocampus": (DECATHLON,),
    "brats2017": (DECATHLON, BRATS),
    "brats2021": (BRATS, BRATS_2021),
    "brats2023": (BRATS, BRATS_2021, BRATS_2023, LESION_WISE),
    "synapse": (SYNAPSE,),
    "acdc": (ACDC,),
}


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
