"""What stands out in a distribution has its name. Oracle: the values, by hand."""

from matplotlib.figure import Figure

from segformer3d.data_check.pictures import _Panel, _spread


def test_a_flagged_case_is_named_at_its_place_and_far_values_are_on_a_logarithm() -> None:
    axes = Figure().add_subplot()
    values = [40.0, 1.0, 2.0, 3.0]
    _spread(axes, _Panel("tumour, ml", values, ["far", "a", "b", "c"], {"far", "a"}))
    assert {text.get_text(): text.xy for text in axes.texts} == {"a": (1.0, 0.125), "far": (40.0, 0.875)}
    assert axes.get_xscale() == "log"
    assert axes.get_title(loc="left") == "tumour, ml"


def test_values_of_one_kind_are_on_a_line() -> None:
    axes = Figure().add_subplot()
    _spread(axes, _Panel("spacing x, mm", [0.0, 40.0], ["a", "b"], set()))
    assert axes.get_xscale() == "linear"
    assert not axes.texts
