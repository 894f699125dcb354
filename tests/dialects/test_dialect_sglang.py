"""SGLang's commands: every example of its page on tensor parallelism, and cases from its documented behaviour."""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check, check_written
from weft.dialects import registry

LLAMA = "python -m sglang.launch_server \\\n  --model-path meta-llama/Meta-Llama-3.1-70B-Instruct"
V3 = "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3"
TP4, TP8 = "world 4 | tp 4", "world 8 | tp 8"

PAGE = [
    Case(name="basic setup", text=f"{LLAMA} \\\n  --tp 4", result=TP4, quiet=True),
    Case(
        name="two nodes",
        text=f"# Node 0 (Master)\n{LLAMA} \\\n  --tp 8 \\\n  --nnodes 2 \\\n  --node-rank 0 \\\n"
        f"  --dist-init-addr <MASTER_NODE_IP>:29500\n\n# Node 1\n{LLAMA} \\\n  --tp 8 \\\n  --nnodes 2 \\\n"
        "  --node-rank 1 \\\n  --dist-init-addr <MASTER_NODE_IP>:29500\n",
        result="world 8 nodes 2 | tp 8",
        notes=["nodes"],
        options={"dist_init_addr": "<MASTER_NODE_IP>:29500"},
        quiet=True,
    ),
    Case(
        name="peer check",
        text=f"{LLAMA} --tp 4 \\\n  --enable-p2p-check",
        result=TP4,
        options={"enable_p2p_check": True},
    ),
    Case(
        name="the router makes replicas",
        text="python -m sglang_router.launch_server \\\n  --model-path meta-llama/Meta-Llama-3.1-70B-Instruct \\\n"
        "  --tp 4 \\\n  --dp-size 2\n",
        result="world 8 replicas 2 | tp 4",
        notes=["replicas"],
    ),
    Case(
        name="expert parallel",
        text="python -m sglang.launch_server \\\n  --model-path deepseek-ai/DeepSeek-V3 \\\n  --tp 8 \\\n  --ep 8 \\\n"
        "  --moe-a2a-backend deepep\n",
        result="world 8 | tp 8 | experts 1x8 slots 256 shared 1 dispatch all_to_all",
        quiet=True,
    ),
    Case(
        name="pipeline",
        text="python -m sglang.launch_server \\\n  --model-path deepseek-ai/DeepSeek-V3.1 \\\n  --tp 8 \\\n"
        "  --pp-size 4 \\\n  --chunked-prefill-size 4096\n",
        result="world 32 stages 4 | tp 8 | experts 8x1 slots 256",
        options={"max_num_batched_tokens": 4096},
    ),
    Case(
        name="quick all-reduce",
        text="# QuickAllReduce for MI300+ GPUs\nexport SGLANG_USE_1STAGE_ALLREDUCE=0  # 2-stage for large tensors\n"
        "python -m sglang.launch_server --model-path ... --tp 8\n",
        result=TP8,
        notes=["model-unknown"],
    ),
    Case(name="intel", text=f"{LLAMA} \\\n  --tp 4 \\\n  --device xpu", result=TP4, options={"device": "xpu"}),
    Case(
        name="ascend", text=f"export HCCL_BUFFSIZE=256  # Set HCCL buffer size (MB)\n{LLAMA} \\\n  --tp 8", result=TP8
    ),
    Case(
        name="memory with a comment behind it",
        text=f"{LLAMA} \\\n  --tp 4 \\\n  --mem-fraction-static 0.85  # Use 85% of GPU memory for KV cache",
        result=TP4,
        options={"mem_fraction_static": 0.85},
        quiet=True,
    ),
    Case(
        name="two variants",
        text=f"# FlashAttention-3 (recommended for H100/H200)\n{LLAMA} \\\n  --tp 4 \\\n  --attention-backend fa3\n\n"
        f"# FlashInfer (recommended for A100/A10)\n{LLAMA} \\\n  --tp 4 \\\n  --attention-backend flashinfer\n",
        result=[TP4, TP4],
        options={"attention_backend": "fa3"},
    ),
    Case(
        name="deterministic",
        text=f"export SGLANG_USE_1STAGE_ALLREDUCE=1\n{LLAMA} \\\n  --tp 8 \\\n  --enable-deterministic-inference",
        result=TP8,
        options={"enable_deterministic_inference": True},
    ),
    Case(
        name="deadlock",
        text=f"{LLAMA} --tp 8 --nnodes 2 --node-rank 0 --dist-init-addr <MASTER_NODE_IP>:29500 --disable-cuda-graph",
        result="world 8 nodes 2 | tp 8",
        quiet=True,
    ),
    Case(name="out of memory", text=f"{LLAMA} --tp 4 --mem-fraction-static 0.7  # Reduce KV cache size", result=TP4),
    Case(name="long prompts", text=f"{LLAMA} \\\n  --tp 4 \\\n  --chunked-prefill-size 4096", result=TP4),
    Case(
        name="two stages",
        text=f"{LLAMA} --tp 4 --pp-size 2 --chunked-prefill-size 4096",
        result="world 8 stages 2 | tp 4",
    ),
]

DP4 = "world 16 | tp 4 dp 4 | dense 16 lm_head 16 | experts 16x1 slots 256 shared 16"
MEANINGS = [
    Case(name="attention dp", text=f"{V3} --tp 16 --dp 4 --enable-dp-attention", result=DP4),
    Case(
        name="attention dp over two nodes",
        text="python -m sglang.launch_server --model-path X --tp 16 --dp 4 --enable-dp-attention --nnodes 2 "
        "--node-rank 0 --dist-init-addr 10.0.0.1:5000",
        result="world 16 nodes 2 | tp 4 dp 4 | dense 16 lm_head 16",
        notes=["model-unknown"],
    ),
    Case(
        name="dp lm_head",
        text=f"{V3} --tp 8 --dp 8 --enable-dp-attention --enable-dp-lm-head --moe-a2a-backend deepep",
        result="world 8 | tp 1 dp 8 | dense 8 | experts 1x8 slots 256 dispatch all_to_all",
    ),
    Case(
        name="dense MLP data parallel",
        text=f"{V3} --tp 4 --dp 4 --ep 4 --moe-dense-tp-size 1 --enable-dp-attention --moe-a2a-backend deepep",
        result="world 4 | tp 1 dp 4 | lm_head 4 | experts 1x4 slots 256 dispatch all_to_all",
    ),
    Case(
        name="dense size tp", text=f"{V3} --tp 4 --moe-dense-tp-size 4", result="world 4 | tp 4 | experts 4x1 slots 256"
    ),
    Case(
        name="dp without attention dp",
        text=f"{LLAMA} --tp 2 --dp 4",
        result="world 8 replicas 4 | tp 2",
        notes=["replicas"],
    ),
    Case(
        name="replicas of stages",
        text=f"{LLAMA} --tp 2 --dp 2 --pp-size 2",
        result="world 8 replicas 2 stages 2 | tp 2",
    ),
    Case(
        name="attention dp with one group is off",
        text=f"{LLAMA} --tp 4 --enable-dp-attention",
        result=TP4,
        notes=["ignored"],
    ),
    Case(
        name="context parallel",
        text=f"{V3} --tp 8 --attn-cp-size 4",
        result="world 8 | tp 2 cp 4 | dense 8 embedding 8 lm_head 8 | experts 8x1 slots 256 shared 8",
    ),
    Case(
        name="context and data parallel",
        text=f"{V3} --tp 16 --dp 2 --enable-dp-attention --attn-cp-size 2",
        result="world 16 | tp 4 dp 2 cp 2 | dense 16 lm_head 16 | experts 16x1 slots 256 shared 16",
    ),
    Case(
        name="decode context parallel",
        text=f"{V3} --tp 8 --dcp-size 4",
        result="world 8 | tp 8 kv 4 | experts 8x1 slots 256",
    ),
    Case(
        name="expert parallel inside tp",
        text=f"{V3} --tp 8 --ep-size 4",
        result="world 8 | tp 8 | experts 2x4 slots 256",
    ),
    Case(
        name="copies of the experts",
        text=f"{V3} --tp 8 --ep 4 --moe-dp-size 2",
        result="world 8 | tp 8 | experts 1x4 slots 256",
    ),
    Case(
        name="a2a overwrites ep",
        text=f"{V3} --tp 16 --ep 8 --moe-a2a-backend mooncake",
        result="world 16 | tp 16 | experts 1x16 slots 256 shared 1 dispatch all_to_all",
        notes=["overwritten"],
    ),
    Case(
        name="no a2a, said",
        text=f"{V3} --tp 8 --ep 8 --moe-a2a-backend none",
        result="world 8 | tp 8 | experts 1x8 slots 256 dispatch all_gather",
    ),
    Case(
        name="redundant experts",
        text=f"{V3} --tp 16 --moe-a2a-backend deepep --enable-eplb --ep-num-redundant-experts 32 "
        "--eplb-rebalance-num-iterations 50",
        result="world 16 | tp 16 | experts 1x16 slots 288 shared 1 dispatch all_to_all balance global interval 50",
    ),
    Case(
        name="hierarchical balance",
        text=f"{V3} --tp 8 --ep 8 --enable-eplb --eplb-algorithm deepseek_hierarchical",
        result="world 8 | tp 8 | experts 1x8 slots 256 balance hierarchical interval 1000",
    ),
    Case(
        name="deprecated expert parallel",
        text=f"{V3} --tp 8 --enable-ep-moe",
        result="world 8 | tp 8 | experts 1x8 slots 256",
        notes=["deprecated"],
    ),
    Case(
        name="deprecated deepep",
        text=f"{V3} --tp 8 --enable-deepep-moe",
        result="world 8 | tp 8 | experts 1x8 slots 256 shared 1 dispatch all_to_all",
        notes=["deprecated"],
    ),
    Case(
        name="layers by environment",
        text=f"SGLANG_PP_LAYER_PARTITION=16,15,15,15 {V3} --tp 8 --pp 4",
        result="world 32 stages 4 layers 16,15,15,15 | tp 8 | experts 8x1 slots 256",
    ),
    Case(
        name="mixtral",
        text="python3 -m sglang.launch_server --model mistralai/Mixtral-8x7B-Instruct-v0.1 --tp-size 4 --ep-size 4",
        result="world 4 | tp 4 | experts 1x4 slots 8",
    ),
    Case(
        name="a distillate is dense",
        text="sglang serve --model-path deepseek-ai/DeepSeek-R1-Distill-Qwen-32B --tp 2 --dp 2",
        result="world 4 replicas 2 | tp 2",
    ),
    Case(
        name="experts of an unknown size",
        text="python -m sglang.launch_server --model-path ./my-model --tp 4 --ep 4",
        result="world 4 | tp 4 | experts 1x4 slots ?",
        notes=["experts-unknown"],
    ),
    Case(
        name="experts by --set",
        text="python -m sglang.launch_server --model-path ./my-model --tp 4 --ep 4",
        settings={"experts": "32"},
        result="world 4 | tp 4 | experts 1x4 slots 32",
    ),
    Case(
        name="the config wins over the name",
        text=f"{V3} --tp 4 --ep 2",
        experts=0,
        result=TP4,
        notes=["ignored"],
    ),
    Case(
        name="a prefill and a decode engine",
        text=f"{V3} --disaggregation-mode prefill --tp 4\n{V3} --disaggregation-mode decode --tp 8 --dp 8 "
        "--enable-dp-attention --moe-a2a-backend deepep\n",
        result=[
            "world 4 | tp 4 | experts 4x1 slots 256",
            "world 8 | tp 1 dp 8 | dense 8 lm_head 8 | experts 1x8 slots 256 dispatch all_to_all",
        ],
    ),
    Case(
        name="options under one set of names",
        text=f"{LLAMA} --tp=2 --context-length=8192 --max-running-requests 32 --page-size 64 --random-seed 7 "
        "--disable-radix-cache --port=30000 --served-model-name llama --kv-cache-dtype fp8_e5m2",
        result="world 2 | tp 2",
        options={
            "model": "meta-llama/Meta-Llama-3.1-70B-Instruct",
            "max_model_len": 8192,
            "max_num_seqs": 32,
            "block_size": 64,
            "seed": 7,
            "enable_prefix_caching": False,
            "port": 30000,
            "served_model_name": "llama",
            "kv_cache_dtype": "fp8_e5m2",
        },
        quiet=True,
    ),
    Case(
        name="long names",
        text=f"{LLAMA} --tensor-parallel-size 4 --data-parallel-size 2",
        result="world 8 replicas 2 | tp 4",
    ),
    Case(name="prefix", text=f"{LLAMA} --tensor-par 4", result=TP4, notes=["prefix"]),
    Case(name="underscores", text=f"{LLAMA} --tp_size 4", result=TP4, notes=["spelling"]),
    Case(name="twice the same", text=f"{LLAMA} --tp 4 --tp-size 4", result=TP4, notes=["twice"]),
    Case(
        name="unknown flag",
        text=f"{LLAMA} --tp 4 --mem-fraction 0.8 --enable-dp-attentoin",
        result=TP4,
        notes=["unknown-flag"],
    ),
    Case(name="removed flag", text=f"{LLAMA} --tp 4 --disable-flashinfer", result=TP4, notes=["removed"]),
    Case(
        name="open tp",
        text=f"{V3} --tp $TP --dp 2 --enable-dp-attention",
        result="world ? | tp ? dp 2 | experts ?x1 slots 256",
        variables=["TP"],
        notes=["open"],
    ),
    Case(
        name="open tp given",
        text=f"{V3} --tp $TP --dp 2 --enable-dp-attention",
        settings={"TP": "8"},
        result="world 8 | tp 4 dp 2 | dense 8 lm_head 8 | experts 8x1 slots 256 shared 8",
    ),
    Case(
        name="nodes from a scheduler's variables",
        text=f"{LLAMA} --tp 16 --nnodes $SLURM_NNODES --node-rank $SLURM_NODEID --dist-init-addr $HEAD:5000",
        result="world 16 nodes ? | tp 16",
        variables=["SLURM_NNODES"],
    ),
]

REFUSED = [
    Case(
        name="dp does not divide tp",
        text=f"{V3} --tp 8 --dp 3 --enable-dp-attention",
        result="refused: --dp 3",
        legal=(1, 2, 4, 8),
    ),
    Case(
        name="nodes do not divide",
        text=f"{LLAMA} --tp 4 --nnodes 3 --dist-init-addr a:1",
        result="refused: --nnodes 3",
        legal=(1, 2, 4),
    ),
    Case(
        name="replicas over nodes",
        text=f"{LLAMA} --tp 4 --dp 2 --nnodes 2 --dist-init-addr a:1",
        result="refused: needs --enable-dp-attention",
    ),
    Case(
        name="dp lm_head alone", text=f"{LLAMA} --tp 4 --enable-dp-lm-head", result="refused: --enable-dp-lm-head needs"
    ),
    Case(name="dense size", text=f"{V3} --tp 8 --moe-dense-tp-size 2", result="refused: only 1 or tp", legal=(1, 8)),
    Case(name="context parallel", text=f"{V3} --tp 8 --attn-cp-size 3", result="refused: must be a multiple"),
    Case(
        name="decode context parallel",
        text=f"{V3} --tp 8 --dcp-size 3",
        result="refused: --dcp-size 3",
        legal=(1, 2, 4, 8),
    ),
    Case(name="ep does not divide tp", text=f"{V3} --tp 8 --ep 3", result="refused: --ep 3", legal=(1, 2, 4, 8)),
    Case(
        name="ep times moe dp",
        text=f"{V3} --tp 8 --ep 2 --moe-dp-size 2",
        result="refused: ep 2 x moe-dp 2 must be tp 8",
    ),
    Case(
        name="moe dp with stages",
        text=f"{V3} --tp 8 --pp 2 --ep 4 --moe-dp-size 2",
        result="refused: needs --pp-size 1",
    ),
    Case(
        name="flashinfer a2a",
        text=f"{V3} --tp 8 --moe-a2a-backend flashinfer",
        result="refused: needs --enable-dp-attention and dp",
    ),
    Case(name="balance without ep", text=f"{V3} --tp 8 --enable-eplb", result="refused: --enable-eplb needs --ep-size"),
    Case(
        name="node rank",
        text=f"{LLAMA} --tp 4 --nnodes 2 --node-rank 2 --dist-init-addr a:1",
        result="refused: there are 2 nodes",
        legal=(0, 1),
    ),
    Case(name="no number", text=f"{LLAMA} --tp four", result="refused: 'four': not a whole number"),
    Case(name="nothing behind the flag", text=f"{LLAMA} --tp", result="refused: --tp needs a value"),
    Case(name="zero", text=f"{LLAMA} --tp 0", result="refused: --tp 0: at least 1"),
    Case(
        name="two values, both places",
        text=f"{LLAMA} --tp 4 \\\n  --tp-size 8",
        result="refused: --tp 4 (line 2, column 55) and --tp-size 8 (line 3, column 3) contradict each other",
    ),
    Case(
        name="nodes of different worlds",
        text=f"{LLAMA} --tp 8 --nnodes 2 --node-rank 0 --dist-init-addr a:1\n"
        f"{LLAMA} --tp 16 --nnodes 2 --node-rank 1 --dist-init-addr a:1\n",
        result="refused: world is 8 on node 0 but 16 on node 1",
    ),
]


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS, *REFUSED], ids=str)
def test_reads(case: Case) -> None:
    check(case, "sglang")


def test_nodes_that_differ_in_an_option_are_told() -> None:
    text = "\n".join(
        f"{V3} --tp 16 --nnodes 2 --node-rank {rank} --dist-init-addr a:1 --chunked-prefill-size {size}"
        for rank, size in ((0, 4096), (1, 8192))
    )
    (reading,) = registry.read(text)
    (note,) = [note for note in reading.notes if note.code == "nodes-differ"]
    assert "max_num_batched_tokens is 4096 on node 0 but 8192 on node 1" in note.message


def test_the_nearest_known_flag_is_offered_with_its_place() -> None:
    (reading,) = registry.read(f"{LLAMA} --tp 4 \\\n  --enable-dp-attentoin")
    (note,) = [note for note in reading.notes if note.code == "unknown-flag"]
    assert "did you mean --enable-dp-attention?" in note.message
    assert note.where is not None and (note.where.line, note.where.column) == (3, 3)


def test_every_default_and_derivation_is_a_note() -> None:
    (reading,) = registry.read(f"{V3} --tp 8 --moe-a2a-backend deepep")
    messages = " ".join(note.message for note in reading.notes if note.level == "info")
    for part in ("--data-parallel-size is not given", "lm_head.tp 8: the whole tp group", "makes ep = tp"):
        assert part in messages
    assert reading.layout is not None and "lm_head.tp" in reading.layout.derived


def test_a_command_of_another_engine_is_named() -> None:
    (reading,) = registry.read("vllm serve X --tensor-parallel-size 2", "sglang")
    assert reading.refused is not None and "vLLM" in reading.refused.message and reading.refused.legal == ("vllm",)


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS], ids=str)
def test_what_was_read_can_be_written(case: Case) -> None:
    for reading in registry.read(case.text):
        layout = reading.layout
        if layout is None or "layers" in str(case.result):
            continue
        assert check_written(layout, "sglang", reading.experts or 0)
