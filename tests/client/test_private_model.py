"""Which norm a private run may use, asked of Opacus: the library that will account for it."""

import warnings

from segformer3d.model import SegFormer3D

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Opacus warns about its own optional parts while it is imported
    from opacus.validators import ModuleValidator


def test_group_norm_passes_opacus_and_batch_norm_does_not(tiny_config):
    def faults(norm: str) -> list[object]:
        return ModuleValidator.validate(SegFormer3D(**{**tiny_config.to_json(), "norm": norm}), strict=False)

    assert faults("group") == []
    assert any("BatchNorm" in str(fault) for fault in faults("batch"))
