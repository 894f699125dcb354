"""What holds for every dialect, whatever the text: a layout or a refusal; and what is written reads back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.dialects import check_shape, check_written, layouts
from tests.tools.dialects.random_texts import TEXTS
from weft.parallel.layout import Layout
from weft.tools.dialects import registry
from weft.tools.dialects.names import names

ANY_TEXT = settings(suppress_health_check=list(HealthCheck))
NAMES = pytest.mark.parametrize("name", names())


def check_text(name: str, text: str) -> None:
    for reading in registry.read(text, name):
        check_shape(reading)


@NAMES
@settings(ANY_TEXT, max_examples=200)
@given(data=st.data())
def test_anything_gives_a_layout_or_a_refusal(name: str, data: st.DataObject) -> None:
    check_text(name, data.draw(TEXTS.get(name, st.text())))


MANY = "9" * 5000
"""More digits than Python turns into a number."""
DIGITS = [
    f"vllm serve x -tp {MANY}",
    "vllm serve x -tp \u00b2",
    f"vllm serve x --max-model-len {MANY}k",
    f"vllm serve x --eplb-config '{{\"window_size\": {MANY}}}'",
    f"vllm serve x --compilation-config.level {'[' * 5000}",
    "VLLM_PP_LAYER_PARTITION=\u00b2 vllm serve x",
    f"#SBATCH --nodes={MANY}\nvllm serve x",
    "tokenspeed serve x --pp-layer-partition \u00b2",
    "TOKENSPEED_MLA_O_PROJ_TP_SIZE=\u00b2 tokenspeed serve x",
    "srun -N \u00b2 trtllm-serve x",
    f"python -m sglang.launch_server --model-path x --nnodes 2 --node-rank 0 --dist-init-addr a:{MANY}",
    f"kind: LeaderWorkerSet\nspec: {{replicas: \u00b2, leaderWorkerTemplate: {{size: {MANY}}}}}\nargs: [vllm, serve]",
    "\n".join(f"{MANY} tensor_parallel_size: 2" for _ in range(4)),
    f'{{"BackendConfig": {{"ModelDeployConfig": {{"ModelConfig": [{{"worldSize": {MANY}}}]}}}}}}',
]


@NAMES
@pytest.mark.parametrize("text", DIGITS, ids=lambda text: text[:40])
def test_digits_that_are_no_size_are_a_mistake_of_the_text(name: str, text: str) -> None:
    check_text(name, text)


@pytest.mark.long
@NAMES
@settings(ANY_TEXT, max_examples=10_000)
@given(data=st.data())
def test_ten_thousand_inputs(name: str, data: st.DataObject) -> None:
    check_text(name, data.draw(st.one_of(TEXTS.get(name, st.text()), st.text())))


@NAMES
@settings(max_examples=150)
@given(layout=layouts())
def test_what_is_written_reads_back(name: str, layout: Layout) -> None:
    check_written(layout, name, 0 if layout.experts is None else layout.experts.slots)
