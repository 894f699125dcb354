"""Commands out of reports, guides and repositories, collected after the readers were written. Results judged by hand.

Each has the form of something found in public threads and pages; names, paths and numbers are made up.
"""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check

TEMPLATE = """export HCCL_IF_IP=your_ip_here
export OMP_NUM_THREADS=10
export ASCEND_RT_VISIBLE_DEVICES=$1

vllm serve /models/deepseek_r1_w8a8 \\
    --host 0.0.0.0 \\
    --port $2 \\
    --data-parallel-size $3 \\
    --data-parallel-rank $4 \\
    --data-parallel-address $5 \\
    --data-parallel-rpc-port $6 \\
    --tensor-parallel-size $7 \\
    --enable-expert-parallel \\
    --max-num-seqs 28 \\
    --quantization ascend \\
    --speculative-config '{"num_speculative_tokens": 1, "method":"deepseek_mtp"}' \\
    --kv-transfer-config \\
    '{"kv_connector": "MooncakeLayerwiseConnector",
    "kv_role": "kv_consumer",
    "kv_port": "30200",
    "kv_connector_extra_config": {
              "prefill": { "dp_size": 2, "tp_size": 8 },
              "decode": { "dp_size": '"$3"', "tp_size": '"$7"' }
        }
    }' \\
    --additional-config \\
    '{"ascend_scheduler_config": {"enabled": true}, "torchair_graph_config":{"enabled":true,"graph_batch_size":[28]}}'
"""

COMMENTED = """python3 -m sglang.launch_server \\
  --model-path deepseek-v3.2 \\
  --host 0.0.0.0 \\
  --port 8055 \\
  --served-model-name DeepSeek-V3.2 \\
  \\
  `# ===== prefill and decode apart =====` \\
  --disaggregation-mode prefill \\
  --disaggregation-ib-device mlx5_1,mlx5_2 \\
  \\
  `# ===== parallelism =====` \\
  --tp-size 8 \\
  --dp-size 8 \\
  --enable-dp-attention \\
  --enable-dp-lm-head \\
  --moe-dense-tp-size 1
"""

ROLES_OF_A_JOB = """#!/bin/bash
#SBATCH --partition=${partition}
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=4

ctx_port=8001
gen_port=8002
# Launch a context server with `tp_size=8` on two 4-GPU nodes.
srun --container-image=${container_image} \\
     --container-mounts=${mount_paths} \\
     -N 2 --ntasks-per-node=4 \\
     --mpi=pmix \\
     bash -c "trtllm-llmapi-launch trtllm-serve meta-llama/Llama-3.1-70B --tp_size 8 --port ${ctx_port} \
--extra_llm_api_options ${work_path}/ctx_extra-llm-api-config.yaml --server_role context" &

# Launch a generation server with `tp_size=4` on one 4-GPU node.
srun --container-image=${container_image} \\
     -N 1 --ntasks-per-node=4 \\
     --mpi=pmix \\
     bash -c "trtllm-llmapi-launch trtllm-serve meta-llama/Llama-3.1-70B --tp_size 4 --port ${gen_port} \
--extra_llm_api_options ${work_path}/gen_extra-llm-api-config.yaml --server_role generation" &
"""

NODES_THAT_DO_NOT_DIVIDE = "\n".join(
    f"# node {rank + 1}\npython3 -m sglang.launch_server --model-path /models/dsv3 --tp 14 "
    f"--dist-init-addr 10.0.0.1:5000 --nnodes 4 --node-rank {rank} --trust-remote-code --enable-torch-compile\n"
    for rank in range(4)
)

LOG = """(qwen25vl) me@instance-1:~/code$ vllm serve /models/Qwen2.5-VL-72B-Instruct --dtype auto --host 127.0.0.1 \
--port 6006 --tensor-parallel-size 4
INFO 02-12 13:31:03 __init__.py:190] Automatically detected platform cuda.
INFO 02-12 13:31:04 api_server.py:840] vLLM API server version 0.7.2
INFO 02-12 13:31:04 api_server.py:841] args: Namespace(subparser='serve', host='127.0.0.1', port=6006)
"""

VALUES = """app: qwen25-72b-instruct
modelName: Qwen/Qwen2.5-72B-Instruct
replicaCount: 1
extraArgs:
  - "--tp"
  - "8"
  - "--dp"
  - "1"
  - "--schedule-conservativeness"
  - "0.5"
  - "--tool-call-parser"
  - "qwen25"
resources:
  limits:
    nvidia.com/gpu: "8"
"""

EXAMPLE_CHART = """image:
  repository: "vllm/vllm-openai"
  tag: "latest"
  command: ["vllm", "serve", "/data/", "--served-model-name", "opt-125m", "--tensor-parallel-size", "2", \
"--host", "0.0.0.0", "--port", "8000"]
containerPort: 8000
resources:
  limits:
    nvidia.com/gpu: 2
"""

WIDE_PYTHON = """from ray.serve.llm import LLMConfig, build_dp_deployment

config = {
    "model_loading_config": {"model_id": "deepseek", "model_source": "deepseek-ai/DeepSeek-V3"},
    "engine_kwargs": {"tensor_parallel_size": 1, "data_parallel_size": 16, "enable_expert_parallel": True},
}
app = build_dp_deployment(LLMConfig(**config))
"""

BATCH = """from ray.data.llm import vLLMEngineProcessorConfig

config = vLLMEngineProcessorConfig(
    model_source="unsloth/Llama-3.1-8B-Instruct",
    engine_kwargs={
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": 4096,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
    },
    concurrency=1,
)
"""

MODAL = """def serve():
    import subprocess

    cmd = [
        "vllm",
        "serve",
        "--uvicorn-log-level=info",
        MODEL_NAME,
        "--revision",
        MODEL_REVISION,
        "--host",
        "0.0.0.0",
        "--port",
        str(VLLM_PORT),
    ]
    cmd += ["--tensor-parallel-size", str(N_GPU)]
    subprocess.Popen(" ".join(cmd), shell=True)
"""

ACTIONS = """jobs:
  nightly:
    runs-on: h100
    steps:
      - name: start
        env:
          MODEL: Qwen/Qwen3-30B-A3B
        run: |
          nohup python3 -m sglang.launch_server --model $MODEL --tp 4 --ep 4 --port 30000 > s.log 2>&1 &
          sleep 60
      - name: stop
        run: kill %1
"""

PODMAN = """podman run --device nvidia.com/gpu=all --security-opt=label=disable -v ~/models:/models:Z -p 8000:8000 \\
  registry.redhat.io/rhaiis/vllm-cuda-rhel9:3.0.0 \\
  --model RedHatAI/Llama-3.2-1B-Instruct-FP8 --tensor-parallel-size=2
"""

BENCH_MATRIX = """for tp in 8; do
  for conc in 4 8; do
    python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1-0528 --tp $tp --mem-fraction-static 0.9 &
    sleep 600
  done
done
"""

FUNCTION = """start_server() {
  local tp=$1
  vllm serve Qwen/Qwen3-32B --tensor-parallel-size "$tp" --port 8000 &
}
start_server 4
"""

HEAD_AND_WORKER = """# node 0
vllm serve nvidia/Kimi-K2-Thinking-NVFP4 --tensor-parallel-size 8 --nnodes 2 --node-rank 0 \\
  --master-addr 10.0.0.1 --master-port 29500 --kv-transfer-config '{"kv_connector":"NixlConnector",
  "kv_role":"kv_producer"}'
# node 1
vllm serve nvidia/Kimi-K2-Thinking-NVFP4 --tensor-parallel-size 8 --nnodes 2 --node-rank 1 --headless \\
  --master-addr 10.0.0.1 --master-port 29500 --kv-transfer-config '{"kv_connector":"NixlConnector",
  "kv_role":"kv_producer"}'
"""

LITELLM = """services:
  vllm:
    image: vllm/vllm-openai:v0.10.2
    command: >
      --model openai/gpt-oss-20b
      --tensor-parallel-size 2
      --async-scheduling
    deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 2, capabilities: [gpu]}]}}}
  litellm:
    image: ghcr.io/berriai/litellm:main-latest
    command: ["--config", "/app/config.yaml", "--port", "4000"]
"""

NOMAD_LIKE = """job "llm" {
  task "serve" {
    driver = "docker"
    config {
      image = "lmsysorg/sglang:latest"
      args = ["python3", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-8B", "--tp", "2"]
    }
  }
}
"""

TRT_LONG = """EXTRA_LLM_API_FILE=/tmp/config.yml

cat << EOF > ${EXTRA_LLM_API_FILE}
enable_attention_dp: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 720
moe_config:
  backend: TRTLLM
stream_interval: 20
num_postprocess_workers: 4
EOF
trtllm-serve openai/gpt-oss-120b --host 0.0.0.0 --port 8000 --max_batch_size 720 --max_num_tokens 16384 \\
  --kv_cache_free_gpu_memory_fraction 0.9 --tp_size ${TP:-8} --ep_size ${EP:-8} --trust_remote_code \\
  --config ${EXTRA_LLM_API_FILE}
"""

TRT_APPEND = """echo "enable_attention_dp: true" > opts.yml
echo "moe_config:" >> opts.yml
echo "  backend: CUTLASS" >> opts.yml
mpirun -n 1 --oversubscribe --allow-run-as-root \\
trtllm-serve deepseek-ai/DeepSeek-V3 --tp_size 8 --ep_size 4 --extra_llm_api_options opts.yml
"""

TRT_TEE = """sudo tee /etc/trt.yaml >/dev/null <<'YAML'
tensor_parallel_size: 4
pipeline_parallel_size: 2
YAML
trtllm-serve meta-llama/Llama-3.1-405B-Instruct --config /etc/trt.yaml
"""

TRT_HELIX = """context_parallel_size: 2
cp_config:
  cp_type: HELIX
  tokens_per_block: 32
tensor_parallel_size: 4
moe_expert_parallel_size: 2
pipeline_parallel_size: 1
"""

MINDIE_DECODE = """{
  "BackendConfig": {
    "npuDeviceIds": [[0,1,2,3,4,5,6,7]],
    "multiNodesInferEnabled": true,
    "ModelDeployConfig": {
      "ModelConfig": [{
        "modelName": "deepseek",
        "modelWeightPath": "/data/DeepSeek-R1-W8A8",
        "worldSize": 32,
        "dp": 32, "tp": 1, "sp": 1, "moe_tp": 1, "moe_ep": 32,
        "models": {"deepseekv2": {
          "ep_level": 2,
          "parallel_options": {"o_proj_local_tp": 2, "lm_head_local_tp": 8}
        }}
      }]
    }
  }
}
"""

REPORTS = [
    (
        "vllm",
        Case(
            name="a script with arguments",
            text=TEMPLATE,
            settings={"3": "32", "4": "0", "7": "1"},
            result="world 32 | tp 1 dp 32 | experts 1x32 slots 256",
        ),
    ),
    (
        "sglang",
        Case(
            name="comments between backticks",
            text=COMMENTED,
            result="world 8 | tp 1 dp 8 | experts 8x1 slots 256 shared 8",
            options={"port": 8055},
        ),
    ),
    (
        "trtllm",
        Case(
            name="two roles of one job",
            text=ROLES_OF_A_JOB,
            result=["world 8 nodes 2 | tp 8", "world 4 | tp 4"],
        ),
    ),
    (
        "sglang",
        Case(
            name="nodes that do not divide", text=NODES_THAT_DO_NOT_DIVIDE, result="refused: --nnodes 4: tp x pp is 14"
        ),
    ),
    ("vllm", Case(name="a command and its log", text=LOG, result="world 4 | tp 4", options={"port": 6006})),
    ("sglang", Case(name="values with extra arguments", text=VALUES, result="world 8 | tp 8")),
    ("vllm", Case(name="values with a command", text=EXAMPLE_CHART, result="world 2 | tp 2")),
    (
        "vllm",
        Case(name="a mapping unpacked", text=WIDE_PYTHON, result="world 16 | tp 1 dp 16 | experts 1x16 slots 256"),
    ),
    (
        "vllm",
        Case(
            name="a processor of batches",
            text=BATCH,
            result="world 4 stages 2 | tp 2",
            options={"max_num_batched_tokens": 4096},
        ),
    ),
    (
        "vllm",
        Case(name="a list that grows", text=MODAL, settings={"N_GPU": "4"}, result="world 4 | tp 4"),
    ),
    ("sglang", Case(name="a workflow", text=ACTIONS, result="world 4 | tp 4 | experts 1x4 slots 128")),
    ("vllm", Case(name="another image of the engine", text=PODMAN, result="world 2 | tp 2")),
    ("sglang", Case(name="a loop of one size", text=BENCH_MATRIX, result="world 8 | tp 8 | experts 8x1 slots 256")),
    ("vllm", Case(name="a function's argument", text=FUNCTION, settings={"1": "4"}, result="world 4 | tp 4")),
    (
        "vllm",
        Case(
            name="a producer of two nodes",
            text=HEAD_AND_WORKER,
            result="world 8 nodes 2 | tp 8 | experts 8x1 slots 384",
        ),
    ),
    (
        "vllm",
        Case(name="compose, folded, beside another", text=LITELLM, result="world 2 | tp 2 | experts 2x1 slots 32"),
    ),
    ("sglang", Case(name="a task of an orchestrator", text=NOMAD_LIKE, result="world 2 | tp 2")),
    (
        "trtllm",
        Case(
            name="the file's name in a variable",
            text=TRT_LONG,
            result="world 8 | tp 8 | experts 1x8 slots 128",
            options={"max_num_seqs": 720},
        ),
    ),
    (
        "trtllm",
        Case(name="a file line by line", text=TRT_APPEND, result="world 8 | tp 1 dp 8 | experts 2x4 slots 256"),
    ),
    ("trtllm", Case(name="a file through tee", text=TRT_TEE, result="world 8 stages 2 | tp 4")),
    (
        "trtllm",
        Case(
            name="helix",
            text=TRT_HELIX,
            experts=256,
            result="world 8 | tp 4 cp 2 | o_proj 8 dense 8 | experts 4x2 slots 256 shared 8",
        ),
    ),
    (
        "mindie",
        Case(
            name="four nodes with local sizes",
            text=MINDIE_DECODE,
            result="world 32 nodes 4 | tp 1 dp 32 | o_proj 2 lm_head 8 | experts 1x32 slots 256 dispatch all_to_all",
        ),
    ),
    (
        "vllm",
        Case(
            name="a switch with a value",
            text="export  CUDA_VISIBLE_DEVICES=1,2\n\nvllm serve /m/Qwen3-30B-A3B-Instruct-2507-FP8  \\\n"
            "--served-model-name Qwen3-30B \\\n--tensor-parallel-size 2 \\\n--pipeline-parallel-size 1 \\\n"
            "--gpu-memory-utilization  0.9 \\\n--max-model-len 64000 \\\n--enforce_eager true \n",
            result="world 2 | tp 2 | experts 2x1 slots 128",
            options={"max_model_len": 64000},
        ),
    ),
    (
        "vllm",
        Case(
            name="a prompt with variables",
            text="(venv) (base) me@beaker:~/vllm$ vllm serve $MODEL --tensor-parallel-size 3\n",
            result="world 3 | tp 3",
        ),
    ),
    (
        "vllm",
        Case(
            name="a distillate in a local folder",
            text="CUDA_VISIBLE_DEVICES=2,3 vllm serve ./deepseek-r1-distill-qwen-14b --max_model_len 8192 "
            "--tensor-parallel-size 2\n",
            result="world 2 | tp 2",
            options={"max_model_len": 8192},
        ),
    ),
    (
        "vllm",
        Case(
            name="through uv",
            text="uv run --with vllm vllm serve Qwen/Qwen3-Next-80B-A3B-Instruct -tp 4 --enable-expert-parallel\n",
            result="world 4 | tp 4 | experts 1x4 slots 512",
        ),
    ),
    (
        "vllm",
        Case(
            name="in a terminal that goes on",
            text="tmux new -d -s llm 'vllm serve google/gemma-3-27b-it --tensor-parallel-size 2 --port 8003'\n",
            result="world 2 | tp 2",
        ),
    ),
    (
        "vllm",
        Case(
            name="on other hosts",
            text='ssh gpu01 "source ~/venv/bin/activate && vllm serve Qwen/Qwen2.5-72B-Instruct-AWQ -tp 2 -pp 2"\n',
            result="world 4 stages 2 | tp 2",
        ),
    ),
    (
        "vllm",
        Case(
            name="a job by its wrap",
            text='sbatch --nodes=1 --gpus=4 --wrap="vllm serve mistralai/Mixtral-8x7B-Instruct-v0.1 -tp 4"\n',
            result="world 4 | tp 4 | experts 4x1 slots 8",
        ),
    ),
    (
        "sglang",
        Case(
            name="torchrun-like words before it",
            text="numactl --cpunodebind=0 --membind=0 python3 -m sglang.launch_server --model-path Qwen/QwQ-32B --tp=2 "
            "--enable-p2p-check\n",
            result="world 2 | tp 2",
        ),
    ),
    (
        "sglang",
        Case(
            name="a benchmark offline",
            text="python -m sglang.bench_offline_throughput --model-path meta-llama/Llama-3.1-8B-Instruct "
            "--num-prompts 10 --tp 2 --dp 2\n",
            result="world 4 replicas 2 | tp 2",
        ),
    ),
    (
        "sglang",
        Case(
            name="a quoted size",
            text="python -m sglang.launch_server --model-path 'Qwen/Qwen3-4B' --tp '2' --mem-fraction-static=\"0.8\"\n",
            result="world 2 | tp 2",
        ),
    ),
    (
        "sglang",
        Case(
            name="a condition around a flag",
            text='EP_ARGS=""\nif [ $EP -gt 1 ]; then EP_ARGS="--ep-size $EP"; fi\n'
            "python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 8 $EP_ARGS\n",
            settings={"EP": "8"},
            result="world 8 | tp 8 | experts 1x8 slots 256",
        ),
    ),
    (
        "trtllm",
        Case(
            name="a module",
            text="python3 -m tensorrt_llm.commands.serve serve Qwen/Qwen3-235B-A22B --tp_size 4 --ep_size 4 "
            "--max_batch_size 161\n",
            result="world 4 | tp 4 | experts 1x4 slots 128",
        ),
    ),
    (
        "trtllm",
        Case(
            name="a benchmark over nodes",
            text="srun -N 9 --ntasks 36 --ntasks-per-node 4 --mpi pmix trtllm-llmapi-launch trtllm-bench "
            "-m deepseek-ai/DeepSeek-R1 --model_path /m/r1 throughput --tp 36 --ep 36 --dataset d.json "
            "--backend pytorch --max_batch_size 32\n",
            result="world 36 nodes 9 | tp 36 | experts 1x36 slots 288",
        ),
    ),
    (
        "tokenspeed",
        Case(
            name="a module of tokenspeed",
            text="CUDA_VISIBLE_DEVICES=0 tokenspeed serve --model Qwen/Qwen3-8B --tensor-parallel-size=2 --port 8000\n",
            result="world 2 | tp 2",
        ),
    ),
    (
        "vllm",
        Case(
            name="two sizes in one page",
            text="For one GPU:\n\n    vllm serve Qwen/Qwen3-8B\n\nFor four:\n\n    vllm serve Qwen/Qwen3-8B -tp 4\n",
            result=["world 1 | tp 1", "world 4 | tp 4"],
        ),
    ),
    (
        "vllm",
        Case(
            name="a line wrapped by a mail",
            text="> vllm serve Qwen/Qwen3-32B --tensor-parallel-size 4 \\\n>   --max-model-len 32768\n",
            result="world 4 | tp 4",
            options={"max_model_len": 32768},
        ),
    ),
    (
        "vllm",
        Case(
            name="bold text of a page",
            text="Run `vllm serve Qwen/Qwen3-14B --tensor-parallel-size 2` and wait.\n",
            result="world 2 | tp 2",
        ),
    ),
    (
        "sglang",
        Case(
            name="a script of their own with the engine's flags",
            text="python examples/run.py --model-path a/OLMoE-1B-7B --dp-size=2 --tp-size=2 --enable-dp-attention\n",
            result="world 2 | tp 1 dp 2 | dense 2 lm_head 2 | experts 2x1 slots 64 shared 2",
        ),
    ),
    (
        "trtllm",
        Case(
            name="a file that a command writes",
            text="trtllm-serve Qwen/Qwen3-235B-A22B --tp_size 8 --config <(echo 'stream_interval: 10')\n",
            result="world 8 | tp 8 | experts 8x1 slots 128",
            options={"stream_interval": 10},
        ),
    ),
    (
        "vllm",
        Case(
            name="windows' shell",
            text="docker run --gpus all -p 8000:8000 --ipc=host vllm/vllm-openai:latest ^\n"
            "  --model Qwen/Qwen2.5-7B-Instruct ^\n  --tensor-parallel-size 2\n",
            result="world 2 | tp 2",
        ),
    ),
]


@pytest.mark.parametrize(("dialect", "case"), REPORTS, ids=str)
def test_read_as_judged_by_hand(dialect: str, case: Case) -> None:
    check(case, dialect)
