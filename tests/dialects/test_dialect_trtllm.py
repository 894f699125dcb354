"""TensorRT-LLM: every example of its page on parallelism, and cases from its documented behaviour."""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check, check_written
from weft.dialects import registry
from weft.dialects.base import Context
from weft.layout import resolve

R1 = "deepseek-ai/DeepSeek-R1"
LLAMA = "meta-llama/Llama-3.1-70B-Instruct"

ATTENTION_PAGE = """cat <<EOF > parallel_config.yaml
# TP-8
tensor_parallel_size: 8
enable_attention_dp: false # default
# DP-8
tensor_parallel_size: 8
enable_attention_dp: true
EOF
"""
EXPERTS_PAGE = """cat <<EOF > parallel_config.yaml
# TP only
tensor_parallel_size: 8
moe_tensor_parallel_size: 8

# EP only
tensor_parallel_size: 8
moe_expert_parallel_size: 8

# Hybrid (TP-4 \u00d7 EP-2)
tensor_parallel_size: 8 # 4 \u00d7 2
moe_tensor_parallel_size: 4
moe_expert_parallel_size: 2
EOF
"""
VARIANTS = ["world 8 | tp 8", "world 8 | tp 1 dp 8"]
EXPERT_VARIANTS = [
    "world 8 | tp 8 | experts 8x1 slots ?",
    "world 8 | tp 8 | experts 1x8 slots ?",
    "world 8 | tp 8 | experts 4x2 slots ?",
]

PAGE = [
    Case(name="attention", text=ATTENTION_PAGE, result=VARIANTS, notes=["model-unknown", "default"], quiet=True),
    Case(name="experts", text=EXPERTS_PAGE, result=EXPERT_VARIANTS, notes=["experts-unknown", "order"], quiet=True),
    Case(name="the page's text lost its <", text=ATTENTION_PAGE.replace("<<EOF >", ""), result=VARIANTS, quiet=True),
    Case(
        name="experts with a model",
        text=EXPERTS_PAGE,
        experts=256,
        result=[line.replace("?", "256") for line in EXPERT_VARIANTS],
    ),
]

OFFLINE = """initial_global_assignments:
  3: [138, 81, 60, ..., 69, 250, 77]
  4: [24, 243, 72, ..., 90, 251, 52]
  ...
  60: [34, 162, 119, ..., 234, 26, 129]
num_slots: 288
layer_updates_per_iter: 0
"""
WIDE = """enable_attention_dp: true
tensor_parallel_size: 36
moe_expert_parallel_size: 36
moe_config:
    backend: WideEP
    max_num_tokens: 9216
    load_balancer: ./moe_load_balancer.yaml
"""
BALANCER = "cat > ./moe_load_balancer.yaml <<EOF\nnum_slots: 288\nlayer_updates_per_iter: 2\nEOF\n"
BENCH = f"""{BALANCER}
cat > ./extra_llm_api_options_eplb.yaml <<EOF
enable_attention_dp: true
cuda_graph_config: {{}}
moe_config:
    backend: WideEP
    max_num_tokens: 9216
    load_balancer: ./moe_load_balancer.yaml
EOF
trtllm-llmapi-launch \\
trtllm-bench --model {R1} \\
    --model_path /models/r1 \\
    throughput \\
    --tp 36 \\
    --ep 36 \\
    --extra_llm_api_options ./extra_llm_api_options_eplb.yaml \\
    --kv_cache_free_gpu_mem_fraction 0.75 \\
    --dataset ./dataset.json \\
    --warmup 0 \\
    --ignore_eos=True
"""
DISAGGREGATED = """hostname: localhost
port: 8000
model: TinyLlama/TinyLlama-1.1B-Chat-v1.0
backend: "pytorch"
disable_overlap_scheduler: True
context_servers:
  num_instances: 2
  tensor_parallel_size: 1
  pipeline_parallel_size: 1
  kv_cache_config:
    free_gpu_memory_fraction: 0.9
  urls:
      - "localhost:8001"
      - "localhost:8002"
generation_servers:
  num_instances: 1
  tensor_parallel_size: 2
  pipeline_parallel_size: 2
  urls:
      - "localhost:8003"
"""
JOB = """slurm:
  partition: "<partition>"
hardware:
  gpus_per_node: 4
  num_ctx_servers: 2
  num_gen_servers: 1
environment:
  model_path: /models/DeepSeek-R1-FP4
worker_config:
  gen:
    tensor_parallel_size: 32
    moe_expert_parallel_size: 32
    enable_attention_dp: true
    enable_lm_head_tp_in_adp: true
    max_batch_size: 128
    moe_config:
      load_balancer:
        num_slots: 288
        layer_updates_per_iter: 1
  ctx:
    tensor_parallel_size: 4
    moe_expert_parallel_size: 4
    enable_attention_dp: true
    cuda_graph_config: null
"""

FILES = [
    Case(name="tp", text="tensor_parallel_size: 4\nprint_iter_log: true\n", result="world 4 | tp 4"),
    Case(
        name="pp",
        text="tensor_parallel_size: 4\npipeline_parallel_size: 2\nmoe_config: {}\n",
        result="world 8 stages 2 | tp 4 | experts 4x1 slots ?",
    ),
    Case(
        name="stages of given layers",
        text="pipeline_parallel_size: 2\npp_partition: [30, 31]\n",
        experts=0,
        result="world 2 stages 2 layers 30,31 | tp 1",
        quiet=True,
    ),
    Case(
        name="attention dp and experts",
        text=f"model: {R1}\ntensor_parallel_size: 8\nmoe_expert_parallel_size: 8\nenable_attention_dp: true\n",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
        options={"model": R1},
        quiet=True,
    ),
    Case(
        name="attention dp and hybrid experts",
        text="tensor_parallel_size: 8\nmoe_tensor_parallel_size: 2\nenable_attention_dp: True\n",
        experts=128,
        result="world 8 | tp 1 dp 8 | experts 2x4 slots 128",
    ),
    Case(
        name="ulysses",
        text="tensor_parallel_size: 2\ncontext_parallel_size: 4\n",
        experts=0,
        result="world 8 | tp 2 cp 4",
        notes=["approximation"],
    ),
    Case(
        name="helix",
        text="tensor_parallel_size: 2\ncontext_parallel_size: 4\ncp_config: {cp_type: HELIX, tokens_per_block: 32}\n"
        "moe_expert_parallel_size: 8\n",
        experts=256,
        result="world 8 | tp 2 cp 4 | o_proj 8 dense 8 | experts 1x8 slots 256 shared 8",
        options={"cp_config.tokens_per_block": 32},
    ),
    Case(
        name="nodes",
        text="tensor_parallel_size: 16\ngpus_per_node: 4\nenable_attention_dp: true\n",
        experts=0,
        result="world 16 nodes 4 | tp 1 dp 16",
    ),
    Case(
        name="ranks that do not fill nodes",
        text="tensor_parallel_size: 6\ngpus_per_node: 4\nenable_attention_dp: true\n",
        experts=0,
        result="world 6 nodes 2 | tp 1 dp 6",
        notes=["approximation"],
    ),
    Case(
        name="lm_head inside a node",
        text="tensor_parallel_size: 16\nenable_attention_dp: true\nenable_lm_head_tp_in_adp: true\ngpus_per_node: 8\n",
        experts=0,
        result="world 16 nodes 2 | tp 1 dp 16 | lm_head 8",
        notes=["approximation"],
    ),
    Case(
        name="uneven experts",
        text="tensor_parallel_size: 36\nmoe_expert_parallel_size: 36\nenable_attention_dp: true\n",
        experts=256,
        result="world 36 | tp 1 dp 36 | experts 1x36 slots 288",
        notes=["approximation"],
    ),
    Case(
        name="slots inline",
        text="tensor_parallel_size: 32\nmoe_expert_parallel_size: 32\nenable_attention_dp: true\n"
        "moe_config: {backend: WIDEEP, load_balancer: {num_slots: 288, layer_updates_per_iter: 0}}\n",
        experts=256,
        result="world 32 | tp 1 dp 32 | experts 1x32 slots 288",
        options={"moe_backend": "WIDEEP"},
        quiet=True,
    ),
    Case(
        name="slots 0 are none",
        text="tensor_parallel_size: 8\nmoe_expert_parallel_size: 8\nenable_attention_dp: true\n"
        "moe_config: {load_balancer: {num_slots: 0}}\n",
        experts=256,
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
    ),
    Case(
        name="a balancer that the engine ignores",
        text="tensor_parallel_size: 8\nmoe_config: {load_balancer: {num_slots: 288}}\n",
        experts=256,
        result="world 8 | tp 8 | experts 8x1 slots 256",
        notes=["ignored"],
    ),
    Case(
        name="a balancer in a file that is not there",
        text=WIDE,
        experts=256,
        result="world 36 | tp 1 dp 36 | experts 1x36 slots ?",
        notes=["config-file"],
    ),
    Case(
        name="a balancer alone, static",
        text=OFFLINE,
        experts=256,
        result="world ? nodes ? stages ? | tp ? dp ? cp ? kv ? | experts ?x? slots 288",
        notes=["elided", "open"],
    ),
    Case(
        name="a balancer alone, online",
        text="num_slots: 288\nlayer_updates_per_iter: 2\n",
        experts=256,
        result="world ? nodes ? stages ? | tp ? dp ? cp ? kv ? | experts ?x? slots 288 balance global interval 1000",
    ),
    Case(
        name="a cluster is read as experts",
        text="tensor_parallel_size: 8\nmoe_cluster_parallel_size: 2\nmoe_expert_parallel_size: 1\n",
        experts=64,
        result="world 8 | tp 8 | experts 4x2 slots 64",
        notes=["approximation"],
    ),
    Case(
        name="-1 is the default",
        text="tensor_parallel_size: 8\nmoe_expert_parallel_size: -1\n",
        experts=64,
        result="world 8 | tp 8 | experts 8x1 slots 64",
    ),
    Case(
        name="an open size",
        text="tensor_parallel_size: ${TP}\nenable_attention_dp: true\n",
        experts=0,
        result="world ? | tp 1 dp ?",
        variables=["TP"],
        notes=["open"],
    ),
    Case(
        name="an open size that is given",
        text="tensor_parallel_size: ${TP}\nmoe_expert_parallel_size: <ep>\n",
        settings={"TP": "8", "ep": "4"},
        experts=64,
        result="world 8 | tp 8 | experts 2x4 slots 64",
    ),
    Case(
        name="a template",
        text="tensor_parallel_size: {{ tp }}\nenable_attention_dp: false\n",
        settings={"tp": "4"},
        experts=0,
        result="world 4 | tp 4",
    ),
    Case(
        name="a quoted number",
        text='tensor_parallel_size: "4"\nenable_attention_dp: false\n',
        experts=0,
        result="world 4 | tp 4",
        notes=["quoted"],
    ),
    Case(
        name="the same key twice, alike",
        text="tensor_parallel_size: 4\ntensor_parallel_size: 4\nenable_attention_dp: false",
        experts=0,
        result="world 4 | tp 4",
        notes=["twice"],
    ),
    Case(
        name="an unknown key",
        text="tensor_parallel_size: 4\nenable_atention_dp: true\n",
        experts=0,
        result="world 4 | tp 4",
        notes=["unknown-key"],
    ),
    Case(
        name="inside a key of somebody's own",
        text="llm_args:\n  tensor_parallel_size: 8\n  enable_attention_dp: true\n",
        experts=0,
        result="world 8 | tp 1 dp 8",
    ),
    Case(
        name="two roles",
        text=DISAGGREGATED,
        result=["world 2 replicas 2 | tp 1", "world 4 stages 2 | tp 2"],
        options={"model": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "free_gpu_memory_fraction": 0.9},
        quiet=True,
    ),
    Case(
        name="two roles of a job",
        text=JOB,
        result=[
            "world 8 nodes 2 replicas 2 | tp 1 dp 4 | experts 1x4 slots 256",
            "world 32 nodes 8 | tp 1 dp 32 | lm_head 4 | experts 1x32 slots 288 balance global interval 1000",
        ],
        notes=["job"],
    ),
    Case(
        name="two roles by address only",
        text="hostname: localhost\nport: 8000\ncontext_servers:\n  num_instances: 1\n  urls: ['localhost:8001']\n"
        "generation_servers:\n  num_instances: 1\n  urls: ['localhost:8002']\n",
        result=["world ? nodes ? stages ? | tp ? dp ? cp ? kv ?"] * 2,
        notes=["open"],
    ),
]

COMMANDS = [
    Case(name="serve", text=f"trtllm-serve {LLAMA} --tp_size 4", result="world 4 | tp 4", options={"model": LLAMA}),
    Case(
        name="serve serve", text=f"trtllm-serve serve {LLAMA} --tp_size=4 --pp_size 2", result="world 8 stages 2 | tp 4"
    ),
    Case(name="long names", text=f"trtllm-serve {LLAMA} --tensor_parallel_size 4", result="world 4 | tp 4"),
    Case(name="dashes", text=f"trtllm-serve {LLAMA} --tp-size 4", result="world 4 | tp 4"),
    Case(
        name="experts",
        text=f"trtllm-serve {R1} --host 0.0.0.0 --port 8000 --backend pytorch --max_batch_size 161 --tp_size 8 "
        "--ep_size 8",
        result="world 8 | tp 8 | experts 1x8 slots 256",
        options={"max_num_seqs": 161, "port": 8000, "host": "0.0.0.0"},
        quiet=True,
    ),
    Case(
        name="a file written before",
        text="cat >./extra.yml<<EOF\nenable_attention_dp: true\nkv_cache_config:\n    enable_block_reuse: false\nEOF\n"
        f"mpirun -n 1 --oversubscribe trtllm-serve {R1} --tp_size 8 --ep_size 8 --extra_llm_api_options ./extra.yml",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
        options={"enable_prefix_caching": False},
        quiet=True,
    ),
    Case(
        name="a file written by echo",
        text='echo -e "enable_attention_dp: true\\nmoe_expert_parallel_size: 4" > extra.yml\n'
        f"trtllm-serve {R1} --tp_size 4 --extra_llm_api_options extra.yml",
        result="world 4 | tp 1 dp 4 | experts 1x4 slots 256",
    ),
    Case(
        name="the file wins",
        text=f"cat > c.yaml <<EOF\ntensor_parallel_size: 8\nEOF\ntrtllm-serve {LLAMA} --tp_size 4 --config c.yaml",
        result="world 8 | tp 8",
        notes=["conflict"],
    ),
    Case(
        name="a file that is not there",
        text=f"trtllm-serve {LLAMA} --tp_size 4 --config /etc/c.yaml",
        result="world 4 | tp 4",
        notes=["config-file"],
    ),
    Case(
        name="a bench with a balancer's file",
        text=BENCH,
        result="world 36 | tp 1 dp 36 | experts 1x36 slots 288 balance global interval 1000",
        options={"model": R1, "free_gpu_memory_fraction": 0.75},
    ),
    Case(
        name="attention dp as a flag",
        text=f"trtllm-serve {LLAMA} --tp_size 4 --enable_attention_dp",
        result="world 4 | tp 1 dp 4",
    ),
    Case(
        name="a variable",
        text=f"trtllm-serve {R1} --tp_size $TP --ep_size $TP",
        result="world ? | tp ? | experts ?x? slots 256",
        variables=["TP"],
    ),
    Case(
        name="a variable that is set",
        text=f"TP=8\ntrtllm-serve {R1} --tp_size $TP --ep_size $TP",
        result="world 8 | tp 8 | experts 1x8 slots 256",
    ),
    Case(
        name="nodes of srun",
        text=f"srun -N 2 --ntasks 16 --mpi=pmix trtllm-llmapi-launch trtllm-serve {R1} --tp_size 16 --ep_size 16",
        result="world 16 nodes 2 | tp 16 | experts 1x16 slots 256",
    ),
    Case(name="a module", text=f"python -m tensorrt_llm.commands.serve {LLAMA} --tp_size 2", result="world 2 | tp 2"),
    Case(
        name="an unknown flag",
        text=f"trtllm-serve {LLAMA} --tp_sise 4",
        result="world 1 | tp 1",
        notes=["unknown-flag"],
    ),
    Case(
        name="a file written in two parts",
        text="cat > c.yaml << EOF\nenable_attention_dp: $DP\nEOF\nif x; then\ncat << EOF >> c.yaml\n"
        f"tensor_parallel_size: many\nEOF\nfi\ntrtllm-serve {LLAMA} --tp_size 4 --config c.yaml",
        settings={"DP": "true"},
        result="refused: tensor_parallel_size many",
    ),
    Case(
        name="attention dp that depends on a variable",
        text=f"cat > c.yaml << EOF\nenable_attention_dp: $DP\nEOF\ntrtllm-serve {LLAMA} --tp_size 4 --config c.yaml",
        result="world ? | tp ? dp ?",
        variables=["DP"],
    ),
    Case(
        name="disaggregated",
        text=f"cat > d.yaml <<EOF\n{DISAGGREGATED}EOF\ntrtllm-serve disaggregated -c d.yaml",
        result=["world 2 replicas 2 | tp 1", "world 4 stages 2 | tp 2"],
    ),
    Case(
        name="disaggregated without its file",
        text="trtllm-serve disaggregated -c disagg_config.yaml",
        result="world ? nodes ? replicas ? stages ? | tp ? dp ? cp ? kv ?",
        notes=["config-file"],
    ),
]

REFUSED = [
    Case(
        name="the product of the experts' sizes",
        text="tensor_parallel_size: 8\nmoe_tensor_parallel_size: 4\nmoe_expert_parallel_size: 4\n",
        result="refused: moe_expert_parallel_size 4 x moe_tensor_parallel_size 4 = 16, but the product must be "
        "tensor_parallel_size = 8",
        legal=(1, 2, 4, 8),
    ),
    Case(
        name="ep above tp",
        text=f"trtllm-serve {R1} --tp_size 4 --ep_size 8",
        result="refused: --ep_size 8",
        legal=(1, 2, 4),
    ),
    Case(
        name="ep does not divide tp", text=f"trtllm-serve {R1} --tp_size 8 --ep_size 3", result="refused: --ep_size 3"
    ),
    Case(
        name="lm_head without attention dp",
        text="tensor_parallel_size: 8\nenable_lm_head_tp_in_adp: true\n",
        result="refused: enable_lm_head_tp_in_adp needs enable_attention_dp",
        legal=(False,),
    ),
    Case(
        name="experts beside ulysses",
        text="tensor_parallel_size: 4\ncontext_parallel_size: 2\nmoe_expert_parallel_size: 4\n",
        experts=64,
        result="refused: moe_expert_parallel_size 4 with context parallelism 2: only under Helix",
        legal=(1,),
    ),
    Case(
        name="an unknown kind of context parallelism",
        text="context_parallel_size: 2\ncp_config: {cp_type: SPIRAL}\nenable_attention_dp: false\n",
        result="refused: cp_type SPIRAL",
        legal=("ULYSSES", "STAR", "RING", "HELIX"),
    ),
    Case(
        name="stages and their layers",
        text="pipeline_parallel_size: 4\npp_partition: [30, 31]\n",
        result="refused: pp_partition has 2 stages",
        legal=(4,),
    ),
    Case(
        name="no list of layers",
        text="pipeline_parallel_size: 2\npp_partition: even\n",
        result="refused: pp_partition even",
    ),
    Case(
        name="size 0",
        text="tensor_parallel_size: 0\nenable_attention_dp: true\n",
        result="refused: tensor_parallel_size 0: at least 1",
    ),
    Case(
        name="no number",
        text="tensor_parallel_size: many\nenable_attention_dp: true\n",
        result="refused: tensor_parallel_size many",
    ),
    Case(
        name="no switch",
        text="tensor_parallel_size: 2\nenable_attention_dp: perhaps\n",
        result="refused: enable_attention_dp perhaps",
        legal=(True, False),
    ),
    Case(
        name="slots and ep",
        text="tensor_parallel_size: 36\nmoe_expert_parallel_size: 36\nenable_attention_dp: true\n"
        "moe_config: {load_balancer: {num_slots: 290}}",
        experts=256,
        result="refused: num_slots 290: not a multiple of ep 36; legal: 288, 324, 360, 396, ...",
        legal=(288, 324, 360, 396),
    ),
    Case(
        name="fewer slots than experts",
        text="tensor_parallel_size: 8\nmoe_expert_parallel_size: 8\nenable_attention_dp: true\n"
        "moe_config: {load_balancer: {num_slots: 128}}",
        experts=256,
        result="refused: num_slots 128: the model has 256 experts",
    ),
    Case(
        name="assignments of another length",
        text="num_slots: 8\ninitial_global_assignments:\n  3: [0, 1, 2, 3, 4, 5, 6, 7]\n  4: [0, 1, 2]\n",
        experts=8,
        result="refused: initial_global_assignments, layer 4: 3 entries, but num_slots is 8",
        legal=(8,),
    ),
    Case(
        name="an expert that the model lacks",
        text="num_slots: 2\ninitial_global_assignments: {3: [0, 9]}\n",
        experts=2,
        result="refused: initial_global_assignments, layer 3: 9 is not an expert's number below 2",
    ),
    Case(
        name="a cluster beside experts",
        text="tensor_parallel_size: 8\nmoe_cluster_parallel_size: 2\nmoe_expert_parallel_size: 4\n",
        experts=64,
        result="refused: moe_cluster_parallel_size 2 needs moe_expert_parallel_size 1",
        legal=(1,),
    ),
    Case(
        name="the same key twice",
        text="tensor_parallel_size: 4\nenable_attention_dp: true\ntensor_parallel_size: 8\n",
        result="refused: tensor_parallel_size is given twice as 4 and as 8, in line 1 and in line 3",
        notes=["conflict"],
        legal=(4, 8),
    ),
    Case(
        name="two values of a flag",
        text=f"trtllm-serve {LLAMA} --tp_size 4 --tp_size 8",
        result="refused: --tp_size 4 (line 1",
    ),
    Case(name="broken", text="tensor_parallel_size: [4\nenable_attention_dp: true\n", result="refused: line 2, column"),
    Case(name="no mapping", text="- enable_attention_dp: true\n", result="refused: a mapping"),
]


@pytest.mark.parametrize("case", [*PAGE, *FILES, *COMMANDS, *REFUSED], ids=str)
def test_reads(case: Case) -> None:
    check(case, "trtllm")


def test_variants_have_their_comments_names() -> None:
    assert [reading.name for reading in registry.read(ATTENTION_PAGE)] == ["TP-8", "DP-8"]


def test_roles_have_their_names() -> None:
    for text in (DISAGGREGATED, JOB):
        assert [(reading.name, reading.role) for reading in registry.read(text)] == [
            ("prefill", "prefill"),
            ("decode", "decode"),
        ]


def test_places_are_those_of_the_input() -> None:
    (reading,) = registry.read(
        f"cat > c.yaml <<EOF\ntensor_parallel_size: many\nEOF\ntrtllm-serve {LLAMA} --config c.yaml"
    )
    assert reading.refused is not None and reading.refused.where is not None
    assert (reading.refused.where.line, reading.refused.where.column) == (2, 23)


def test_places_in_the_second_part_of_a_file() -> None:
    text = "cat > c.yaml <<EOF\na: 1\nEOF\ncat >> c.yaml <<EOF\ntensor_parallel_size: many\nEOF\n"
    (reading,) = registry.read(f"{text}trtllm-serve {LLAMA} --config c.yaml")
    assert reading.refused is not None and reading.refused.where is not None
    assert (reading.refused.where.line, reading.refused.where.column) == (5, 23)


def test_a_file_beside_the_text_is_read() -> None:
    files = {"c.yaml": "tensor_parallel_size: 4\nenable_attention_dp: true\n"}
    (reading,) = registry.read(f"trtllm-serve {LLAMA} --config c.yaml", None, Context(read_file=files.get))
    assert reading.sizes is not None and (reading.sizes.tp, reading.sizes.dp) == (1, 4)


def test_a_whole_balancer_is_kept() -> None:
    text = "num_slots: 4\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n  3: [0, 1, 2, 0]\n"
    (reading,) = registry.read(text, "trtllm", Context(experts=3))
    assert reading.options["moe_config.load_balancer.initial_global_assignments"] == {"3": [0, 1, 2, 0]}
    elided, *_ = registry.read(OFFLINE, "trtllm", Context(experts=256))
    assert "moe_config.load_balancer.initial_global_assignments" not in elided.options


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"attention.tp": 2, "attention.dp": 4}, "attention.tp 2 cannot be said; the engine will have 1"),
        ({"attention.tp": 8, "lm_head.tp": 4}, "lm_head.tp 4 cannot be said; the engine will have 8"),
        ({"attention.tp": 8, "attention.kv_split": 2}, "attention.kv_split 2 cannot be said; the engine will have 1"),
        ({"attention.tp": 2, "replicas": 2}, "replicas 2 cannot be said; the engine will have 1"),
    ],
)
def test_what_cannot_be_said_is_a_note(given: dict[str, object], text: str) -> None:
    written = registry.write(resolve(given), "trtllm", {})
    assert text in [note.message for note in written.notes]


def test_options_go_under_the_engines_keys() -> None:
    options = {"model": R1, "max_num_seqs": 32, "kv_cache_dtype": "fp8", "port": 9000, "strange": 3}
    written = registry.write(resolve({"attention.tp": 8}), "trtllm", options)
    assert "max_batch_size: 32\n" in written.text and "kv_cache_config:\n  dtype: fp8\n" in written.text
    assert f"trtllm-serve {R1} --config parallel_config.yaml --port 9000" in written.text
    assert [note.message for note in written.notes] == ["option strange 3 has no key in this engine's file"]


@pytest.mark.parametrize("case", [*PAGE, *FILES, *COMMANDS], ids=str)
def test_what_was_read_can_be_written(case: Case) -> None:
    """A layout of this engine is one that it can say, except for servers of one role started as replicas."""
    for reading in registry.read(case.text, None, Context(settings=case.settings, experts=case.experts)):
        if reading.layout is not None and reading.layout.replicas == 1:
            assert check_written(reading.layout, "trtllm", reading.experts or 0)
