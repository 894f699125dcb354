"""Every quantization format of weft against the conformance checks of the seam."""

from __future__ import annotations

import pytest
import torch

from tests.seams.quant_conformance import check_format
from weft.base.settings import EngineConfig
from weft.base.weight_formats import FORMATS, Chosen, chosen_by
from weft.compute.quant.registry import format_for, format_of


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_meets_the_seam(name: str) -> None:
    check_format(name)


def test_options_are_the_rows_that_are_chosen_by_option() -> None:
    for name in chosen_by(Chosen.OPTION):
        assert EngineConfig(quantization=name).quantization == name and format_for(name) is format_of(name)
    assert format_for("none") is format_for("gguf") is None


def test_names_without_a_row_have_no_format() -> None:
    with pytest.raises(KeyError):
        format_of("base")


def test_what_only_files_have_is_not_packed() -> None:
    with pytest.raises(TypeError, match="Q4_0 is only read from files"):
        format_of("Q4_0").pack(torch.zeros(2, 32))
