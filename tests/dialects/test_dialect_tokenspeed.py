"""TokenSpeed's commands: every example of its page on parallelism, and cases from its documented behaviour."""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check, check_written
from weft.dialects import registry

QWEN = "tokenspeed serve Qwen/Qwen3-30B-A3B"
LLAMA = "tokenspeed serve meta-llama/Llama-3.1-8B-Instruct"

PAGE = [
    Case(
        name="quick start",
        text="bash\ntokenspeed serve <model> \\\n  --tensor-parallel-size 8\n",
        result="world 8 | tp 8",
        notes=["model-unknown"],
    ),
    Case(
        name="split",
        text="bash\ntokenspeed serve <model> \\\n  --world-size 8 \\\n  --attn-tp-size 4 \\\n  --dense-tp-size 4 \\\n"
        "  --moe-tp-size 4\n",
        result="world 8 | tp 4 dp 2 | lm_head 1 | experts 4x1 slots ?",
        notes=["incomplete", "experts-unknown"],
    ),
    Case(
        name="multi-node",
        text="bash\ntokenspeed serve <model> \\\n  --nnodes 2 \\\n  --node-rank 0 \\\n  --nprocs-per-node 8 \\\n"
        "  --world-size 16 \\\n  --dist-init-addr <rank0-host>:25000\n",
        result="world 16 nodes 2 | tp 16",
        options={"model": "<model>", "dist_init_addr": "<rank0-host>:25000"},
    ),
]

MEANINGS = [
    Case(name="tp alone", text=f"{LLAMA} --tp 2", result="world 2 | tp 2", quiet=True),
    Case(name="nothing given", text=LLAMA, result="world 1 | tp 1", quiet=True),
    Case(name="world alone", text=f"{LLAMA} --world-size 4", result="world 4 | tp 4", quiet=True),
    Case(
        name="attention alone: experts take the world",
        text=f"{QWEN} --world-size 8 --attn-tp-size 4 --dist-init-addr a:1",
        result="world 8 | tp 4 dp 2 | lm_head 1 | experts 8x1 slots 128",
        quiet=True,
    ),
    Case(
        name="attention dp, dense over it",
        text=f"{QWEN} --world-size 8 --attn-tp-size 8 --dense-tp-size 2",
        result="world 8 | tp 8 | dense 2 | experts 8x1 slots 128 shared 2",
    ),
    Case(
        name="three factorizations",
        text=f"{QWEN} --world-size 8 --attn-tp-size 2 --data-parallel-size 4 --dense-tp-size 8 --moe-tp-size 1 "
        "--ep-size 4 --dist-init-addr a:1",
        result="world 8 | tp 2 dp 4 | dense 8 lm_head 1 | experts 1x4 slots 128 shared 8",
    ),
    Case(
        name="experts over the world",
        text=f"{QWEN} --world-size 8 --attn-tp-size 8 --enable-expert-parallel",
        result="world 8 | tp 8 | experts 1x8 slots 128",
        quiet=True,
    ),
    Case(
        name="experts over the world that follows from tp",
        text=f"{QWEN} --tensor-parallel-size 2 --enable-expert-parallel",
        result="world 2 | tp 2 | experts 1x2 slots 128",
        notes=["derived"],
    ),
    Case(
        name="an expert size wins over the switch",
        text=f"{QWEN} --world-size 8 --attn-tp-size 8 --enable-expert-parallel --ep-size 4 --moe-tp-size 1",
        result="world 8 | tp 8 | experts 1x4 slots 128",
    ),
    Case(
        name="dp and experts",
        text="tokenspeed serve deepseek-ai/DeepSeek-V4-Flash --data-parallel-size 4 --enable-expert-parallel "
        "--gpu-memory-utilization 0.9 --dist-init-addr a:1",
        result="world 4 | tp 1 dp 4 | experts 1x4 slots ?",
        options={"gpu_memory_utilization": 0.9},
        quiet=True,
    ),
    Case(
        name="dp over tp",
        text=f"{LLAMA} --attn-tp-size 2 --data-parallel-size 2 --dist-init-addr a:1",
        result="world 4 | tp 2 dp 2 | lm_head 1",
        quiet=True,
    ),
    Case(
        name="dp alone of a world",
        text=f"{LLAMA} --world-size 8 --data-parallel-size 4 --dist-init-addr a:1",
        result="world 8 | tp 2 dp 4 | lm_head 1",
    ),
    Case(
        name="dp on one node lacks an address",
        text=f"{LLAMA} --tp 2 --data-parallel-size 2",
        result="world 4 | tp 2 dp 2 | lm_head 1",
        notes=["incomplete"],
    ),
    Case(
        name="context parallel by environment",
        text="ENABLE_CP=1 tokenspeed serve meta-llama/Llama-3.1-8B --attn-tp-size 4",
        result="world 4 | tp 1 cp 4 | dense 4",
        notes=["environment"],
    ),
    Case(
        name="exported environment",
        text="export ENABLE_CP=1\ntokenspeed serve meta-llama/Llama-3.1-8B --attn-tp-size 4",
        result="world 4 | tp 1 cp 4 | dense 4",
        notes=["environment"],
    ),
    Case(name="context parallel off", text=f"ENABLE_CP=0 {LLAMA} --tp 4", result="world 4 | tp 4"),
    Case(
        name="processes per node without a world",
        text=f"{LLAMA} --nnodes 2 --nprocs-per-node 4 --node-rank 0 --dist-init-addr a:1",
        result="world 8 nodes 2 | tp 8",
        notes=["default"],
    ),
    Case(
        name="nodes of tp",
        text=f"{LLAMA} --tp 8 --nnodes 2 --node-rank 1 --dist-init-addr a:1",
        result="world 8 nodes 2 | tp 8",
    ),
    Case(
        name="deepep",
        text=f"{QWEN} --world-size 4 --attn-tp-size 2 --enable-expert-parallel --all2all-backend deepep "
        "--deepep-mode low_latency --dist-init-addr a:1",
        result="world 4 | tp 2 dp 2 | lm_head 1 | experts 1x4 slots 128 dispatch all_to_all",
        quiet=True,
    ),
    Case(
        name="balance",
        text=f"{QWEN} --tp 4 --enable-expert-parallel --world-size 4 --enable-eplb --ep-num-redundant-experts 16",
        result="world 4 | tp 4 | experts 1x4 slots 144 balance global interval 1000",
    ),
    Case(
        name="stages", text=f"{LLAMA} --tp 4 --pipeline-parallel-size 2", result="world 8 stages 2 | tp 4", quiet=True
    ),
    Case(
        name="stages of a world, with layers",
        text=f"{QWEN} --world-size 16 --pp-size 2 --pp-layer-partition 20,28 --enable-expert-parallel",
        result="world 16 stages 2 layers 20,28 | tp 8 | experts 1x8 slots 128",
    ),
    Case(name="decode context parallel", text=f"{LLAMA} --tp 8 --dcp-size 2", result="world 8 | tp 8 kv 2"),
    Case(
        name="lm_head over dp",
        text=f"{LLAMA} --data-parallel-size 8 --lm-head-tp-size 8 --dist-init-addr a:1",
        result="world 8 | tp 1 dp 8 | lm_head 8",
        quiet=True,
    ),
    Case(
        name="head parallel has no size",
        text=f"{LLAMA} --data-parallel-size 4 --attn-head-tp-size 4 --dist-init-addr a:1",
        result="world 4 | tp 1 dp 4",
        notes=["approximation"],
    ),
    Case(name="the module", text="python3 -m tokenspeed.cli serve Qwen/Qwen3-8B --tp 2", result="world 2 | tp 2"),
    Case(
        name="roles",
        text=f"{LLAMA} --tp 2 --disaggregation-mode prefill\n{LLAMA} --tp 4 --disaggregation-mode decode",
        result=["world 2 | tp 2", "world 4 | tp 4"],
    ),
    Case(
        name="options",
        text=f"{LLAMA} --tp 2 --max-model-len 4096 --max-num-seqs 160 --chunked-prefill-size 8192 --kv-cache-dtype fp8",
        result="world 2 | tp 2",
        options={"max_model_len": 4096, "max_num_seqs": 160, "max_num_batched_tokens": 8192, "kv_cache_dtype": "fp8"},
        quiet=True,
    ),
    Case(
        name="unknown flag",
        text=f"{LLAMA} --tp 2 --attention-tp-size 4",
        result="world 2 | tp 2",
        notes=["unknown-flag"],
    ),
    Case(
        name="unknown back end",
        text=f"{QWEN} --tp 2 --all2all-backend pplx",
        result="world 2 | tp 2 | experts 2x1 slots 128 dispatch all_to_all",
        notes=["unknown-value"],
    ),
    Case(
        name="open",
        text=f"{LLAMA} --world-size 8 --attn-tp-size $ATTN",
        result="world 8 | tp ? dp ?",
        variables=["ATTN"],
    ),
    Case(
        name="open, given",
        text=f"{LLAMA} --world-size 8 --attn-tp-size $ATTN",
        settings={"ATTN": "4"},
        result="world 8 | tp 4 dp 2 | lm_head 1",
    ),
    Case(
        name="experts ignored by a dense model",
        text=f"{LLAMA} --tp 2 --enable-expert-parallel",
        result="world 2 | tp 2",
        notes=["ignored"],
    ),
]

REFUSED = [
    Case(
        name="tp and attention tp, both places",
        text=f"{LLAMA} --tensor-parallel-size 8 \\\n  --attn-tp-size 4",
        result="refused: --tensor-parallel-size 8 (line 1, column 51) is attention's tensor parallel size; "
        "it cannot be given with --attn-tp-size 4 (line 2, column 3)",
    ),
    Case(
        name="attention does not divide",
        text=f"{LLAMA} --world-size 8 --attn-tp-size 3",
        result="refused: --attn-tp-size 3",
        legal=(1, 2, 4, 8),
    ),
    Case(
        name="dense does not divide",
        text=f"{LLAMA} --world-size 8 --dense-tp-size 3",
        result="refused: --dense-tp-size 3",
        legal=(1, 2, 4, 8),
    ),
    Case(
        name="ep does not divide",
        text=f"{QWEN} --world-size 8 --ep-size 3",
        result="refused: --ep-size 3",
        legal=(1, 2, 4, 8),
    ),
    Case(
        name="mixed by the default",
        text=f"{QWEN} --world-size 8 --attn-tp-size 8 --ep-size 4",
        result="refused: experts tp 2 (stage / ep; --moe-tp-size 1 asks for ep alone) with ep 4",
    ),
    Case(
        name="mixed",
        text=f"{QWEN} --world-size 8 --moe-tp-size 2 --ep-size 4",
        result="refused: tensor and expert parallel cannot be mixed",
    ),
    Case(
        name="the product is not the world",
        text=f"{LLAMA} --world-size 8 --attn-tp-size 2 --data-parallel-size 2",
        result="refused: attention tp 2 x dp 2 = 4, but a stage has 8 ranks",
    ),
    Case(
        name="dp 0",
        text=f"{LLAMA} --world-size 8 --data-parallel-size 0",
        result="refused: --data-parallel-size 0: at least 1",
    ),
    Case(
        name="processes per node",
        text=f"{LLAMA} --world-size 16 --nnodes 2 --nprocs-per-node 4 --dist-init-addr a:1",
        result="refused: nprocs-per-node 4 x nnodes 2 is not the world of 16",
        legal=(8,),
    ),
    Case(
        name="nodes do not divide",
        text=f"{LLAMA} --tp 4 --nnodes 3 --dist-init-addr a:1",
        result="refused: --nnodes 3",
        legal=(1, 2, 4),
    ),
    Case(
        name="node rank",
        text=f"{LLAMA} --tp 4 --nnodes 2 --node-rank 5 --dist-init-addr a:1",
        result="refused: there are 2 nodes",
        legal=(0, 1),
    ),
    Case(
        name="experts do not divide",
        text="tokenspeed serve Qwen/Qwen1.5-MoE-A2.7B --world-size 8 --enable-expert-parallel",
        result="refused: the model has 60 experts",
        legal=(1, 2, 4),
    ),
    Case(name="stages do not divide", text=f"{LLAMA} --world-size 8 --pp-size 3", result="refused: --pp-size 3"),
    Case(
        name="lm_head does not divide",
        text=f"{LLAMA} --world-size 8 --data-parallel-size 8 --lm-head-tp-size 3 --dist-init-addr a:1",
        result="refused: --lm-head-tp-size 3",
    ),
]


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS, *REFUSED], ids=str)
def test_reads(case: Case) -> None:
    check(case, "tokenspeed")


def test_the_documented_world_has_three_open_slots_only() -> None:
    (reading,) = registry.read(PAGE[1].text)
    document = reading.layout_document()
    assert document is not None and reading.sizes is not None
    assert document["world"] == 8 and reading.sizes.open == ("experts.slots",)


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS], ids=str)
def test_what_was_read_can_be_written(case: Case) -> None:
    for reading in registry.read(case.text):
        if reading.layout is not None:
            assert check_written(reading.layout, "tokenspeed", reading.experts or 0)
