"""Engines inside other programs' words: harnesses, service managers, templates, charts, jobs, launchers of sizes.

Each has the form of a deployment found in public documents; names, paths and numbers are made up.
"""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check, read_case
from weft.dialects import registry
from weft.errors import UsageError

RECIPE = """name: "one-prefill-one-decode"
resources:
  gpu_type: "gb200"
  prefill_nodes: 2
  prefill_workers: 1
  decode_nodes: 8
  decode_workers: 2
backend:
  type: sglang
  sglang_config:
    prefill:
      served-model-name: "deepseek-ai/DeepSeek-R1"
      model-path: "/model/"
      disaggregation-mode: "prefill"
      tensor-parallel-size: 8
      data-parallel-size: 8
      enable-dp-attention: true
      moe-a2a-backend: "deepep"
      moe-dense-tp-size: 1
      enable-dp-lm-head: true
    decode:
      served-model-name: "deepseek-ai/DeepSeek-R1"
      model-path: "/model/"
      disaggregation-mode: "decode"
      tensor-parallel-size: 16
      data-parallel-size: 16
      enable-dp-attention: true
      moe-a2a-backend: "deepep"
      ep-num-redundant-experts: 32
      moe-dense-tp-size: 1
      enable-dp-lm-head: true
"""

HCL = """resource "kubernetes_deployment" "llm" {
  spec {
    container {
      name  = "llm"
      image = "vllm/vllm-openai:v0.9"
      args = [
        "--model", "meta-llama/Llama-3.1-8B-Instruct",
        "--tensor-parallel-size", "2",
      ]
    }
  }
}
"""

DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {name: chat}
spec:
  replicas: 3
  template:
    spec:
      containers:
      - image: vllm/vllm-openai:v0.9
        args: ["--model", "Qwen/Qwen2.5-72B-Instruct", "--tensor-parallel-size={{ .Values.tp | default 4 }}"]
"""

CONFIG_MAP = """apiVersion: v1
kind: ConfigMap
metadata: {name: server}
data:
  config.json: |
    {"BackendConfig": {"npuDeviceIds": [[0,1,2,3]],
      "ModelDeployConfig": {"ModelConfig": [{"modelName": "q", "modelWeightPath": "/m/qwen2.5-72b", "worldSize": 4}]}}}
"""

RAY_SERVICE = """apiVersion: ray.io/v1
kind: RayService
spec:
  serveConfigV2: |
    applications:
    - args:
        llm_configs:
        - model_loading_config:
            model_id: chat
            model_source: Qwen/Qwen2.5-7B-Instruct
          engine_kwargs:
            tensor_parallel_size: 4
"""

READ = [
    (
        "sglang",
        Case(
            name="nodes of srun inside its command",
            text="srun -N 4 bash -c 'python3 -m sglang.launch_server --model-path /m/DeepSeek-R1 --tp 32 "
            "--nnodes $SLURM_NNODES --node-rank $SLURM_NODEID --dist-init-addr $HEAD:5000'\n",
            result="world 32 nodes 4 | tp 32 | experts 32x1 slots 256",
        ),
    ),
    (
        "vllm",
        Case(
            name="keys of Python as JSON",
            text='{\n  "model": "Qwen/Qwen3-235B-A22B",\n  "tensor_parallel_size": 8,\n'
            '  "enable_expert_parallel": true,\n  "gpu_memory_utilization": 0.9\n}\n',
            result="world 8 | tp 8 | experts 1x8 slots 128",
        ),
    ),
    ("vllm", Case(name="a block text of a service", text=RAY_SERVICE, result="world 4 | tp 4")),
    (
        "vllm",
        Case(
            name="a log of one engine",
            text="INFO [utils.py:233] non-default args: {'model_tag': 'Qwen/Qwen3-32B', 'model': 'Qwen/Qwen3-32B', "
            "'tensor_parallel_size': 4, 'max_num_seqs': 64}\n",
            result="world 4 | tp 4",
            options={"model": "Qwen/Qwen3-32B", "max_num_seqs": 64},
        ),
    ),
    (
        "sglang",
        Case(
            name="a log of another",
            text="[12:00:01] server_args=ServerArgs(model_path='deepseek-ai/DeepSeek-R1', tp_size=8, dp_size=1, "
            "nnodes=1, node_rank=0, enable_dp_attention=False, ep_size=1, quantization='fp8')\n",
            result="world 8 | tp 8 | experts 8x1 slots 256",
        ),
    ),
    (
        "sglang",
        Case(
            name="a job's recipe of two roles",
            text=RECIPE,
            notes=["copies"],
            result=[
                "world 8 nodes 2 | tp 1 dp 8 | experts 1x8 slots 256 dispatch all_to_all",
                "world 16 nodes 4 | tp 1 dp 16 | experts 1x16 slots 288 dispatch all_to_all",
            ],
        ),
    ),
    ("vllm", Case(name="an infrastructure's language", text=HCL, result="world 2 | tp 2")),
    ("vllm", Case(name="copies of a deployment", text=DEPLOYMENT, notes=["copies"], result="world 4 | tp 4")),
    ("mindie", Case(name="a file inside a ConfigMap", text=CONFIG_MAP, result="world 4 | tp 4")),
    (
        "vllm",
        Case(
            name="a benchmark's pairs",
            text="lm_eval --model vllm --model_args pretrained=Qwen/Qwen3-8B,tensor_parallel_size=2,"
            "data_parallel_size=2,enforce_eager=True,gpu_memory_utilization=0.9 --tasks gsm8k\n",
            result="world 4 replicas 2 | tp 2",
            options={"model": "Qwen/Qwen3-8B", "enforce_eager": True, "gpu_memory_utilization": 0.9},
        ),
    ),
    (
        "vllm",
        Case(
            name="a file that printf writes",
            text="vllm serve --config <(printf 'model: meta-llama/Llama-3.1-70B\\ntensor-parallel-size: 8\\n')\n",
            result="world 8 | tp 8",
        ),
    ),
    (
        "vllm",
        Case(
            name="a file that printf writes by a format",
            text="vllm serve --config <(printf '%s\\n' 'model: meta-llama/Llama-3.1-70B' 'tensor-parallel-size: 8')\n",
            result="world 8 | tp 8",
        ),
    ),
    (
        "vllm",
        Case(
            name="a service manager's file",
            text="[program:llm]\ncommand=/usr/bin/vllm serve /models/Qwen2.5-72B --tensor-parallel-size 2 "
            "--port 80\nautorestart=true\n",
            result="world 2 | tp 2",
        ),
    ),
    (
        "vllm",
        Case(
            name="a playbook",
            text="- tasks:\n    - name: run\n      shell: |\n        docker run -d vllm/vllm-openai:v0.9 \\\n"
            "          --model openai/gpt-oss-20b --tensor-parallel-size {{ vllm_tp | default(2) }}\n",
            notes=["variable-default"],
            result="world 2 | tp 2 | experts 2x1 slots 32",
        ),
    ),
    (
        "vllm",
        Case(
            name="a template's name without a default",
            text="vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size {{ tp }}\n",
            variables=["tp"],
            result="world ? | tp ?",
        ),
    ),
    (
        "trtllm",
        Case(
            name="hosts of mpirun",
            text='mpirun -H hosta:8,hostb:8 -n 16 bash -c "trtllm-llmapi-launch trtllm-bench --model '
            'deepseek-ai/DeepSeek-V3 throughput --tp 16 --ep 4"\n',
            result="world 16 nodes 2 | tp 16 | experts 4x4 slots 256",
        ),
    ),
    (
        "vllm",
        Case(
            name="nodes of srun",
            text="srun -N 2 --ntasks-per-node=1 vllm serve meta-llama/Llama-3.1-405B -tp 8 -pp 2\n",
            result="world 16 nodes 2 stages 2 | tp 8",
        ),
    ),
    (
        "vllm",
        Case(
            name="a cluster's script takes the image",
            text="bash run_cluster.sh vllm/vllm-openai:v0.9 $HEAD --head /hf -e VLLM_HOST_IP=$HEAD\n"
            "bash run_cluster.sh vllm/vllm-openai:v0.9 $HEAD --worker /hf -e VLLM_HOST_IP=$HERE\n"
            "vllm serve meta-llama/Llama-3.1-405B -tp 8 -pp 2\n",
            result="world 16 stages 2 | tp 8",
        ),
    ),
    (
        "vllm",
        Case(
            name="balanced experts of an accelerator plug-in",
            text="vllm serve /m/DeepSeek-R1-w8a8 -dp 16 -tp 1 --enable-expert-parallel --additional-config "
            """'{"eplb_config": {"dynamic_eplb": true, "expert_heat_collection_interval": 600, """
            """"num_redundant_experts": 16}}'\n""",
            result="world 16 | tp 1 dp 16 | experts 1x16 slots 272 balance global interval 600",
        ),
    ),
    (
        "sglang",
        Case(
            name="a config file alone",
            text="model-path: meta-llama/Llama-3.3-70B-Instruct\nport: 30000\ntensor-parallel-size: 4\n"
            "mem-fraction-static: 0.88\n",
            result="world 4 | tp 4",
        ),
    ),
    (
        "trtllm",
        Case(
            name="quantized, then built",
            text="python3 examples/quantization/quantize.py --model_dir ./llama-3.1-405b --qformat fp8 --output_dir "
            "./c --tp_size 8 --pp_size 2\ntrtllm-build --checkpoint_dir ./c --output_dir ./e\n"
            "mpirun -n 16 python3 ../run.py --engine_dir ./e\n",
            result="world 16 stages 2 | tp 8",
        ),
    ),
]

ELSEWHERE = [
    ("lmdeploy serve api_server internlm/internlm2-chat-20b --tp 2\n", "lmdeploy"),
    ("docker run ghcr.io/huggingface/text-generation-inference:3 --model-id m/x --num-shard 4\n", "text-generation"),
    ("python3 scripts/launch_triton_server.py --world_size=4 --model_repo=/m\n", "convert_checkpoint"),
    ("trtllm-build --checkpoint_dir ./c --output_dir ./e --gemm_plugin auto\n", "convert_checkpoint"),
    ("docker run -e NIM_TENSOR_PARALLEL_SIZE=4 nvcr.io/nim/meta/llama-3.1-70b-instruct:1.8\n", "NIM"),
    ("python launch_online_dp.py --dp-size 4 --tp-size 8 --dp-size-local 2 --dp-rank-start 0\n", "run_dp_template"),
    ('python examples/data_parallel.py \\\n  --model="ibm/PowerMoE-3b" \\\n  --dp-size=2 \\\n  --tp-size=2\n', "vLLM"),
    ("docker run -e TENSOR_PARALLEL_SIZE=2 runpod/worker-v1-vllm:stable\n", "variables"),
]


@pytest.mark.parametrize(("dialect", "case"), READ, ids=str)
def test_read_as_judged_by_hand(dialect: str, case: Case) -> None:
    check(case, dialect)


@pytest.mark.parametrize(("text", "reason"), ELSEWHERE)
def test_a_launcher_whose_sizes_stand_elsewhere_is_refused_with_what_to_give(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        registry.read(text)


def test_places_of_a_pair_are_inside_its_word() -> None:
    text = "lm_eval --model vllm --model_args pretrained=meta-llama/Llama-3.1-8B,tensor_parallel_size=0\n"
    (reading,) = read_case(Case(name="", text=text, result=""))
    assert reading.refused is not None and reading.refused.where is not None
    assert text[reading.refused.where.column - 1 :].startswith("tensor_parallel_size=0")
