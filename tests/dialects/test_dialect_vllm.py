"""vLLM's and vLLM-Ascend's commands: the guide's examples of module sizes, and cases from documented behaviour."""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check, check_written
from weft.dialects import registry
from weft.dialects.base import Context

R1 = "vllm serve deepseek-ai/DeepSeek-R1"
LLAMA = "vllm serve meta-llama/Llama-3.1-70B-Instruct"

PAGE = [
    Case(
        name="the format alone",
        text='--additional-config \'{\n    "finegrained_tp_config": {\n        "embedding_tensor_parallel_size": 8,\n'
        '        "lmhead_tensor_parallel_size": 8,\n        "oproj_tensor_parallel_size": 8,\n'
        '        "mlp_tensor_parallel_size": 8\n    }\n}\'\n',
        result="world ? | tp 1 dp ? | o_proj 8 dense 8 embedding 8 lm_head 8",
        variables=["data-parallel-size"],
    ),
    Case(
        name="the JSON alone",
        text='{\n  "finegrained_tp_config": {"lmhead_tensor_parallel_size": 8}\n}',
        result="world ? | tp 1 dp ? | lm_head 8",
        variables=["data-parallel-size"],
    ),
    Case(
        name="DeepSeek-R1",
        text="vllm serve deepseek-ai/DeepSeek-R1 \\\n    --data-parallel-size 16 \\\n    --tensor-parallel-size 1 \\\n"
        '    --enable-expert-parallel \\\n    --additional-config \'{\n        "finegrained_tp_config": {\n'
        '            "embedding_tensor_parallel_size": 8,\n            "lmhead_tensor_parallel_size": 8,\n'
        '            "mlp_tensor_parallel_size": 8\n        }\n    }\'\n',
        result="world 16 | tp 1 dp 16 | dense 8 embedding 8 lm_head 8 | experts 1x16 slots 256",
    ),
]

FINE = """--additional-config '{"finegrained_tp_config": {%s}}'"""
KV = """--kv-transfer-config '{"kv_connector": "X", "kv_role": "kv_consumer"}'"""

MEANINGS = [
    Case(name="tp", text=f"{LLAMA} -tp 4", result="world 4 | tp 4", quiet=True),
    Case(name="tp and stages", text=f"{LLAMA} -tp=8 -pp=2", result="world 16 stages 2 | tp 8", quiet=True),
    Case(
        name="dense dp is replicas", text=f"{LLAMA} -tp 2 -dp 4", result="world 8 replicas 4 | tp 2", notes=["replicas"]
    ),
    Case(
        name="moe dp is lockstep",
        text=f"{R1} -tp 2 -dp 4",
        result="world 8 | tp 2 dp 4 | experts 8x1 slots 256",
        notes=["lockstep"],
        quiet=True,
    ),
    Case(
        name="expert parallel",
        text=f"{R1} -tp 2 -dp 4 --enable-expert-parallel",
        result="world 8 | tp 2 dp 4 | experts 1x8 slots 256",
    ),
    Case(name="short expert parallel", text=f"{R1} -tp 8 -ep", result="world 8 | tp 8 | experts 1x8 slots 256"),
    Case(
        name="expert parallel off",
        text=f"{R1} -tp 8 --no-enable-expert-parallel",
        result="world 8 | tp 8 | experts 8x1 slots 256",
    ),
    Case(
        name="expert parallel of a stage",
        text=f"{R1} -tp 8 -pp 2 -dp 2 --enable-expert-parallel",
        result="world 32 stages 2 | tp 8 dp 2 | experts 1x16 slots 256",
        notes=["approximation"],
    ),
    Case(
        name="decode context parallel",
        text=f"{R1} -tp 8 -dcp 8",
        result="world 8 | tp 8 kv 8 | experts 8x1 slots 256",
        quiet=True,
    ),
    Case(
        name="prefill context parallel",
        text=f"{R1} -tp 4 --prefill-context-parallel-size 2 --enable-expert-parallel",
        result="world 8 | tp 4 cp 2 | experts 1x8 slots 256",
    ),
    Case(
        name="all to all",
        text=f"{R1} -dp 8 --enable-expert-parallel --all2all-backend deepep_low_latency",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256 dispatch all_to_all",
    ),
    Case(
        name="all gather",
        text=f"{R1} -dp 8 --enable-expert-parallel --all2all-backend allgather_reducescatter",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256 dispatch all_gather",
    ),
    Case(
        name="removed back end",
        text=f"{R1} -dp 8 --enable-expert-parallel --all2all-backend pplx",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256 dispatch all_gather",
        notes=["removed"],
    ),
    Case(
        name="back end by environment",
        text=f"VLLM_ALL2ALL_BACKEND=deepep_high_throughput {R1} -dp 8 --enable-expert-parallel",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256 dispatch all_to_all",
        notes=["deprecated"],
    ),
    Case(
        name="balance",
        text=f"{R1} -dp 8 --enable-expert-parallel --enable-eplb "
        '--eplb-config \'{"window_size": 1000, "step_interval": 500, "num_redundant_experts": 32}\'',
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 288 balance global interval 500",
    ),
    Case(
        name="balance, dotted",
        text=f"{R1} -dp 8 -ep --enable-eplb --eplb-config.num_redundant_experts 32 --eplb_config.step_interval=100",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 288 balance global interval 100",
    ),
    Case(
        name="balance, old flags",
        text=f"{R1} -dp 8 -ep --enable-eplb --num-redundant-experts 32 --eplb-step-interval 100",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 288 balance global interval 100",
        notes=["deprecated"],
    ),
    Case(
        name="local dp ranks make nodes",
        text=f"{R1} -dp 16 -dpl 8 --enable-expert-parallel --data-parallel-address 10.0.0.1 "
        "--data-parallel-rpc-port 13345\n"
        f"{R1} --headless -dp 16 -dpl 8 --data-parallel-start-rank 8 --enable-expert-parallel "
        "--data-parallel-address 10.0.0.1 --data-parallel-rpc-port 13345",
        result="world 16 nodes 2 | tp 1 dp 16 | experts 1x16 slots 256",
        notes=["nodes"],
        quiet=True,
    ),
    Case(
        name="an API node without ranks",
        text=f"{R1} -dp 4 -dpl 0 -ep --data-parallel-address a",
        result="world 4 | tp 1 dp 4 | experts 1x4 slots 256",
    ),
    Case(
        name="nodes",
        text=f"{LLAMA} -tp 8 -pp 2 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1\n"
        f"{LLAMA} -tp 8 -pp 2 --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --headless",
        result="world 16 nodes 2 stages 2 | tp 8",
        notes=["nodes"],
    ),
    Case(
        name="external balancing",
        text=f"{R1} -dp 2 --data-parallel-rank 0 -ep\n{R1} -dp 2 --data-parallel-rank 1 -ep --port 8001",
        result="world 2 | tp 1 dp 2 | experts 1x2 slots 256",
        notes=["nodes"],
    ),
    Case(
        name="layers by environment",
        text=f"VLLM_PP_LAYER_PARTITION=30,31 {R1} -tp 8 -pp 2",
        result="world 16 stages 2 layers 30,31 | tp 8 | experts 8x1 slots 256",
    ),
    Case(
        name="CPUs by environment",
        text=f"VLLM_CPU_OMP_THREADS_BIND='0-7|8-15' {LLAMA} -tp 2",
        result="world 2 | tp 2",
        options={"cpus": "0-7|8-15"},
        quiet=True,
    ),
    Case(
        name="CPUs by themselves",
        text=f"docker run -e VLLM_CPU_OMP_THREADS_BIND=auto x {LLAMA} -tp 2",
        result="world 2 | tp 2",
        options={"cpus": None},
        quiet=True,
    ),
    Case(
        name="no CPUs",
        text=f"VLLM_CPU_OMP_THREADS_BIND=nobind {LLAMA} -tp 2",
        result="world 2 | tp 2",
        options={"cpus": None},
        notes=["approximation"],
    ),
    Case(
        name="o_proj on a decode node",
        text=f"{R1} -dp 32 -ep {KV} " + FINE % '"oproj_tensor_parallel_size": 4',
        result="world 32 | tp 1 dp 32 | o_proj 4 | experts 1x32 slots 256",
        quiet=True,
    ),
    Case(
        name="module size 0 is off",
        text=f"{R1} -dp 8 -ep " + FINE % '"oproj_tensor_parallel_size": 0, "lmhead_tensor_parallel_size": 8',
        result="world 8 | tp 1 dp 8 | lm_head 8 | experts 1x8 slots 256",
    ),
    Case(
        name="module sizes, dotted",
        text=f"{R1} -dp 8 -ep --additional-config.finegrained_tp_config.lmhead_tensor_parallel_size 4",
        result="world 8 | tp 1 dp 8 | lm_head 4 | experts 1x8 slots 256",
    ),
    Case(
        name="module sizes across tp",
        text=f"{R1} -tp 2 -dp 4 -ep " + FINE % '"lmhead_tensor_parallel_size": 4',
        result="world 8 | tp 2 dp 4 | lm_head 4 | experts 1x8 slots 256",
        notes=["approximation"],
    ),
    Case(
        name="module sizes of a dense model",
        text=f"{LLAMA} -dp 8 " + FINE % '"mlp_tensor_parallel_size": 8',
        result="world 8 | tp 1 dp 8 | dense 8",
        notes=["approximation"],
    ),
    Case(
        name="module sizes where older releases took them",
        text=f"{R1} -dp 8 -ep --additional-config '{{\"lmhead_tensor_parallel_size\": 8}}'",
        result="world 8 | tp 1 dp 8 | lm_head 8 | experts 1x8 slots 256",
        notes=["deprecated"],
    ),
    Case(
        name="unknown module size",
        text=f"{R1} -dp 8 -ep " + FINE % '"lm_head_tensor_parallel_size": 8',
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
        notes=["unknown-key"],
    ),
    Case(
        name="shared experts whole",
        text=f"{R1} -tp 4 -dp 2 -ep --additional-config '{{\"enable_shared_expert_dp\": true}}'",
        result="world 8 | tp 4 dp 2 | experts 1x8 slots 256 shared 1",
    ),
    Case(
        name="loose JSON",
        text=f"{R1} -dp 8 -ep --additional-config "
        "\"{'finegrained_tp_config': {'lmhead_tensor_parallel_size': 8,},}\"",
        result="world 8 | tp 1 dp 8 | lm_head 8 | experts 1x8 slots 256",
        notes=["json"],
    ),
    Case(
        name="open module size",
        text=f"{R1} -dp 8 -ep " + FINE % '"lmhead_tensor_parallel_size": "$LMHEAD"',
        result="world 8 | tp 1 dp 8 | lm_head ? | experts 1x8 slots 256",
        variables=["LMHEAD"],
    ),
    Case(
        name="API server module",
        text="python3 -m vllm.entrypoints.openai.api_server --model Qwen/Qwen2.5-72B-Instruct --tensor-parallel-size=4 "
        "--max-model-len 32k --gpu-memory-utilization 0.95 --served-model-name qwen",
        result="world 4 | tp 4",
        options={
            "model": "Qwen/Qwen2.5-72B-Instruct",
            "max_model_len": 32000,
            "gpu_memory_utilization": 0.95,
            "served_model_name": "qwen",
        },
        quiet=True,
    ),
    Case(
        name="the served name tells the family",
        text="vllm serve /data/models -dp 4 --served-model-name deepseek_v3",
        result="world 4 | tp 1 dp 4 | experts 4x1 slots 256",
        notes=["model-served"],
    ),
    Case(
        name="glued short flag", text=f"{LLAMA} -tp 2 -O3 -O.cudagraph_mode=FULL", result="world 2 | tp 2", quiet=True
    ),
    Case(
        name="underscores",
        text=f"{LLAMA} --tensor_parallel_size 4 --max_num_seqs=8",
        result="world 4 | tp 4",
        quiet=True,
    ),
    Case(
        name="no prefix cache",
        text=f"{LLAMA} --no-enable-prefix-caching",
        result="world 1 | tp 1",
        options={"enable_prefix_caching": False},
    ),
    Case(
        name="removed flag",
        text=f"{LLAMA} --tensor-parallel-size 2 --worker-use-ray",
        result="world 2 | tp 2",
        notes=["removed"],
    ),
    Case(
        name="unknown model with dp",
        text="vllm serve ./finetuned -dp 2",
        result="world 2 replicas 2 | tp 1",
        notes=["model-unknown"],
    ),
    Case(
        name="unknown model with experts",
        text="vllm serve $MODEL -tp 2 -dp 2 --enable-expert-parallel",
        result="world 4 | tp 2 dp 2 | experts 1x4 slots ?",
        notes=["experts-unknown"],
    ),
    Case(
        name="the config decides",
        text="vllm serve ./finetuned -dp 2 -ep",
        experts=16,
        result="world 2 | tp 1 dp 2 | experts 1x2 slots 16",
    ),
    Case(
        name="expert parallel of a dense model",
        text=f"{LLAMA} -tp 2 --enable-expert-parallel",
        result="world 2 | tp 2",
        notes=["ignored"],
    ),
    Case(
        name="roles",
        text=f'{R1} -tp 8 --kv-transfer-config \'{{"kv_role": "kv_producer"}}\' &\n{R1} -dp 8 -ep {KV} &\n',
        result=["world 8 | tp 8 | experts 8x1 slots 256", "world 8 | tp 1 dp 8 | experts 1x8 slots 256"],
    ),
    Case(
        name="a config file",
        text="cat > config.yaml <<EOF\nmodel: deepseek-ai/DeepSeek-R1\n"
        "tensor-parallel-size: 4\nenable_expert_parallel: true\n"
        "eplb-config:\n  num_redundant_experts: 32\nEOF\nvllm serve --config config.yaml --port 8000\n",
        result="world 4 | tp 4 | experts 1x4 slots 288",
        options={"port": 8000, "model": "deepseek-ai/DeepSeek-R1"},
    ),
    Case(
        name="a flag wins over the config file",
        text="echo 'tensor-parallel-size: 4' > c.yaml\nvllm serve Qwen/Qwen3-8B --config c.yaml -tp 2",
        result="world 2 | tp 2",
        notes=["conflict"],
    ),
    Case(
        name="a missing config file",
        text="vllm serve --config other.yaml",
        result="world 1 | tp 1",
        notes=["config-file"],
    ),
    Case(
        name="open sizes",
        text=f"{R1} -tp $TP_SIZE -dp $DP_SIZE -ep",
        result="world ? | tp ? dp ? | experts 1x? slots 256",
        variables=["TP_SIZE", "DP_SIZE"],
    ),
]

REFUSED = [
    Case(name="dcp does not divide", text=f"{R1} -tp 8 -dcp 3", result="refused: -dcp 3", legal=(1, 2, 4, 8)),
    Case(
        name="pcp with dp",
        text=f"{R1} -tp 2 -dp 2 -pcp 2",
        result="refused: excludes --data-parallel-size 2",
        legal=(1,),
    ),
    Case(name="balance without experts", text=f"{R1} -tp 8 --enable-eplb", result="refused: --enable-eplb needs"),
    Case(
        name="nodes do not divide", text=f"{LLAMA} -tp 8 --nnodes 3", result="refused: --nnodes 3", legal=(1, 2, 4, 8)
    ),
    Case(
        name="local dp",
        text=f"{R1} -dp 4 -dpl 8",
        result="refused: is more than --data-parallel-size 4",
        legal=(0, 1, 2, 3, 4),
    ),
    Case(
        name="dp rank", text=f"{R1} -dp 2 --data-parallel-rank 2", result="refused: there are 2 dp ranks", legal=(0, 1)
    ),
    Case(
        name="two ways to balance",
        text=f"{R1} -dp 4 --data-parallel-hybrid-lb --data-parallel-external-lb",
        result="refused: exclude each other",
    ),
    Case(
        name="module size does not divide dp",
        text=f"{R1} -dp 16 -ep " + FINE % '"lmhead_tensor_parallel_size": 3',
        result="refused: lm_head size 3: it must divide --data-parallel-size 16; legal: 1, 2, 4, 8, 16",
        legal=(1, 2, 4, 8, 16),
    ),
    Case(
        name="module size above dp",
        text=f"{R1} -dp 4 -ep " + FINE % '"mlp_tensor_parallel_size": 8',
        result="refused: dense size 8",
        legal=(1, 2, 4),
    ),
    Case(
        name="o_proj with tp",
        text=f"{R1} -tp 2 -dp 8 -ep " + FINE % '"oproj_tensor_parallel_size": 8',
        result="refused: needs --tensor-parallel-size 1, not 2",
        legal=(1,),
    ),
    Case(
        name="o_proj eagerly",
        text=f"{R1} -dp 8 -ep --enforce-eager {KV} " + FINE % '"oproj_tensor_parallel_size": 8',
        result="refused: needs graph mode",
    ),
    Case(
        name="broken JSON",
        text=f"{R1} -dp 8 --additional-config '{{\"a\": }}'",
        result="refused: in line 1, column 7 of the JSON",
    ),
    Case(
        name="a key twice",
        text=f"{R1} -dp 8 " + FINE % '"lmhead_tensor_parallel_size": 8, "lmhead_tensor_parallel_size": 4',
        result="refused: lmhead_tensor_parallel_size is given twice, as 8 and as 4",
    ),
    Case(
        name="two values",
        text=f"{LLAMA} -tp 2 --tensor-parallel-size 4",
        result="refused: -tp 2 (line 1, column 46) and",
    ),
    Case(name="ambiguous", text=f"{LLAMA} --data-parallel 4", result="refused: --data-parallel is ambiguous"),
]


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS, *REFUSED], ids=str)
def test_reads(case: Case) -> None:
    check(case, "vllm")


def test_the_format_alone_takes_its_dp_from_the_user() -> None:
    (reading,) = registry.read(PAGE[0].text, None, Context(settings={"data-parallel-size": "16"}))
    assert reading.layout is not None and reading.layout.world == 16 and reading.layout.o_proj.tp == 8


def test_options_are_written_under_the_engine_s_names() -> None:
    (reading,) = registry.read(
        "sglang serve --model X --tp 2 --context-length 4096 --max-running-requests 8 --disable-radix-cache"
    )
    assert reading.layout is not None
    written = registry.write(reading.layout, "vllm", reading.options)
    assert written.notes == ()
    (back,) = registry.read(written.text)
    names = ("model", "max_model_len", "max_num_seqs", "enable_prefix_caching")
    assert [back.options[name] for name in names] == ["X", 4096, 8, False]


def test_listed_cpus_are_written_as_they_were_read() -> None:
    text = f"VLLM_CPU_OMP_THREADS_BIND='0-7|8-15' {LLAMA} -tp 2"
    (reading,) = registry.read(text)
    assert reading.layout is not None
    written = registry.write(reading.layout, "vllm", reading.options, "vllm")
    assert written.notes == () and written.text.startswith("VLLM_CPU_OMP_THREADS_BIND='0-7|8-15' vllm serve")
    (note,) = registry.write(reading.layout, "sglang", reading.options).notes
    assert note.code == "cannot-say" and "cpus 0-7|8-15" in note.message
    (reading,) = registry.read(f"VLLM_CPU_OMP_THREADS_BIND=$CPUS {LLAMA} -tp 2")
    assert "VLLM_CPU_OMP_THREADS_BIND depends on CPUS" in [note.message for note in reading.notes]


def test_an_option_without_a_name_is_a_note() -> None:
    (reading,) = registry.read("sglang serve --model X --tp 2 --schedule-policy lpm")
    assert reading.layout is not None
    (note,) = registry.write(reading.layout, "vllm", reading.options).notes
    assert note.code == "cannot-say" and "schedule_policy" in note.message


def test_what_vllm_cannot_say_is_a_note() -> None:
    text = "tokenspeed serve Qwen/Qwen3-30B-A3B --world-size 8 --attn-tp-size 2 --moe-tp-size 4 --dist-init-addr a:1"
    (reading,) = registry.read(text)
    assert reading.layout is not None
    notes = registry.write(reading.layout, "vllm", {"model": "Qwen/Qwen3-30B-A3B"}).notes
    assert any(note.code == "cannot-say" and note.message.startswith("experts.tp 4") for note in notes)


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS], ids=str)
def test_what_was_read_can_be_written(case: Case) -> None:
    for reading in registry.read(case.text, None, Context(experts=case.experts)):
        if reading.layout is not None:
            assert check_written(reading.layout, "vllm", reading.experts or 0)
