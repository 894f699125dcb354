"""Commands as people run them: clusters' scripts, containers, issue reports, Python. Results judged by hand.

Each has the form of a deployment found in public documents; names, paths and numbers are made up.
"""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check

SGLANG = [
    Case(
        name="exports of a device, then a long command",
        text="""export PYTORCH_NPU_ALLOC_CONF=expandable_segments:True
export STREAMS_PER_DEVICE=32

#communication
export DEEP_NORMAL_MODE_USE_INT8_QUANT=1
export HCCL_BUFFSIZE=1600

MODEL_PATH=/data/DeepSeek-R1-W4A8
python3 -m sglang.launch_server \\
    --model-path ${MODEL_PATH} \\
    --tp 16 --trust-remote-code --attention-backend ascend --device npu \\
    --quantization modelslim --watchdog-timeout 9000 \\
    --cuda-graph-bs 8 16 24 28 32 --mem-fraction-static 0.68 \\
    --max-running-requests 128 --context-length 8188 --disable-radix-cache \\
    --chunked-prefill-size -1 --max-prefill-tokens 16384 \\
    --moe-a2a-backend deepep --deepep-mode auto \\
    --enable-dp-attention --dp-size 4 --enable-dp-lm-head \\
    --speculative-algorithm NEXTN --speculative-num-steps 3 \\
    --speculative-eagle-topk 1 --speculative-num-draft-tokens 4 --dtype bfloat16
""",
        result="world 16 | tp 4 dp 4 | dense 16 | experts 1x16 slots 256 shared 1 dispatch all_to_all",
        options={"max_running_requests": None, "max_num_seqs": 128, "max_model_len": 8188},
    ),
    Case(
        name="a decode server of four ranks, variables before it",
        text="""#### Run decode server
MODEL=Qwen/Qwen3-235B-A22B-Instruct-2507
export SGLANG_OPT_USE_JIT_EP_ACTIVATION=0
SGLANG_DEEPEP_BF16_DISPATCH=1 python3 -m sglang.launch_server \\
    --model $MODEL --trust-remote-code \\
    --tp-size 4 --ep-size 4 --dp-size 4 --base-gpu-id 4 \\
    --moe-runner-backend deep_gemm --enable-dp-lm-head --moe-dense-tp-size 1 \\
    --enable-dp-attention --moe-a2a-backend deepep --deepep-mode low_latency \\
    --mem-fraction-static 0.8 --disable-radix-cache --port 30044 --max-running-requests 128 \\
    --disaggregation-mode decode --disaggregation-ib-device mlx5_2,mlx5_3
""",
        result="world 4 | tp 1 dp 4 | experts 1x4 slots 128 dispatch all_to_all",
    ),
    Case(
        name="one line with everything",
        text="SGL_DISABLE_TP_MEMORY_INBALANCE_CHECK=1 MC_TE_METRIC=true python3 -m sglang.launch_server --model-path "
        "/mnt/models/deepseek-ai/DeepSeek-V3-0324 --disaggregation-ib-device mlx5_1 --disaggregation-mode decode "
        "--dist-init-addr 10.0.7.1:5757 --tp-size 16 --dp-size 16 --enable-dp-attention --decode-log-interval 1 "
        "--enable-deepep-moe --page-size 64 --host 0.0.0.0 --trust-remote-code --moe-dense-tp-size 1 "
        "--enable-dp-lm-head --disable-radix-cache --deepep-mode low_latency --mem-fraction-static 0.8 "
        "--max-running-requests 32 --context-length 73728 --ep-num-redundant-experts 32 "
        "--disable-shared-experts-fusion --cuda-graph-max-bs 2 --init-expert-location /mnt/stats.pt "
        "--speculative-algorithm EAGLE --speculative-num-steps 2 --speculative-eagle-topk 1 "
        "--speculative-num-draft-tokens 3 --nnodes 2 --node-rank 0\n",
        result="world 16 nodes 2 | tp 1 dp 16 | experts 1x16 slots 288 dispatch all_to_all",
        notes=["deprecated"],
    ),
    Case(
        name="sizes by arithmetic on a variable",
        text="SGL_ENABLE_JIT_DEEPGEMM=1 python3 -m sglang.launch_server --model-path ${model_path} "
        "--disaggregation-mode decode --host ${node_ip} --dist-init-addr ${master_ip}:5050 --nnodes ${num_decode} "
        "--node-rank ${node_rank} --tp-size $((${num_decode}*8)) --dp-size $((${num_decode}*8)) "
        "--enable-dp-attention --enable-deepep-moe --max-running-requests $((${num_decode}*2048)) "
        "--ep-num-redundant-experts 32 --moe-dense-tp-size 1 --enable-dp-lm-head\n",
        settings={"num_decode": "9", "model_path": "/m/DeepSeek-R1"},
        result="world 72 nodes 9 | tp 1 dp 72 | experts 1x72 slots 288 dispatch all_to_all",
    ),
    Case(
        name="arithmetic on a variable that nobody gives",
        text="python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --nnodes ${num_decode} "
        "--dist-init-addr a:1 --tp-size $((${num_decode}*8)) --dp-size $((${num_decode}*8)) --enable-dp-attention\n",
        result="world ? nodes ? | tp ? dp ? | experts ?x1 slots 256",
        variables=["num_decode"],
    ),
    Case(
        name="addresses from arrays in a loop",
        text="""for i in "${!P_IP[@]}"; do
if [[ "$LOCAL_HOST" == "${P_IP[$i]}" ]]; then
python -m sglang.launch_server --model-path /w/DeepSeek-V3.1 --disaggregation-mode prefill --host ${P_IP[$i]} \\
--port 8000 --disaggregation-bootstrap-port $((8998+$i)) --trust-remote-code --nnodes 1 --node-rank 0 \\
--tp-size 16 --mem-fraction-static 0.6 --attention-backend ascend --device npu --quantization w8a8_int8 \\
--max-running-requests 8 --chunked-prefill-size 32768 --moe-a2a-backend deepep --deepep-mode normal \\
--dp-size 2 --enable-dp-attention --disable-shared-experts-fusion --dtype bfloat16
fi
done
""",
        result="world 16 | tp 8 dp 2 | dense 16 lm_head 16 | experts 1x16 slots 256 shared 1 dispatch all_to_all",
    ),
    Case(
        name="a model card",
        text="```bash\npython -m sglang.launch_server --model deepseek-ai/DeepSeek-V3.2-Exp --tp 8 --dp 8 "
        "--enable-dp-attention\n```\n",
        result="world 8 | tp 1 dp 8 | dense 8 lm_head 8 | experts 8x1 slots 256 shared 8",
        quiet=True,
    ),
    Case(
        name="two nodes under headings",
        text="""# Node 0
python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 16 --nnodes 2 --node-rank 0 \\
  --dist-init-addr 192.168.114.10:20000 --trust-remote-code --host 0.0.0.0 --port 40000

# Node 1
python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 16 --nnodes 2 --node-rank 1 \\
  --dist-init-addr 192.168.114.10:20000 --trust-remote-code --host 0.0.0.0 --port 40000
""",
        result="world 16 nodes 2 | tp 16 | experts 16x1 slots 256",
        notes=["nodes"],
        quiet=True,
    ),
    Case(
        name="two nodes by docker",
        text="""# node 1
docker run --gpus all --shm-size 32g --network=host -v ~/.cache/huggingface:/cache/huggingface --name n1 \\
    --rm -it --env "HF_TOKEN=$HF_TOKEN" --ipc=host lmsysorg/sglang:latest \\
    python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp 16 --dist-init-addr 192.168.1.1:20000 \\
    --nnodes 2 --node-rank 0 --trust-remote-code --host 0.0.0.0 --port 40000
# node 2
docker run --gpus all --shm-size 32g --network=host -v ~/.cache/huggingface:/cache/huggingface --name n2 \\
    --rm -it --env "HF_TOKEN=$HF_TOKEN" --ipc=host lmsysorg/sglang:latest \\
    python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp 16 --dist-init-addr 192.168.1.1:20000 \\
    --nnodes 2 --node-rank 1 --trust-remote-code --host 0.0.0.0 --port 40000
""",
        result="world 16 nodes 2 | tp 16 | experts 16x1 slots 256",
        quiet=True,
    ),
    Case(
        name="the newer command",
        text="sglang serve --model-path openai/gpt-oss-120b --tp-size 8 --reasoning-parser gpt-oss\n",
        result="world 8 | tp 8 | experts 8x1 slots 128",
        quiet=True,
    ),
    Case(
        name="another vendor's devices",
        text="SGLANG_USE_AITER=1 SGLANG_AITER_MLA_PERSIST=1 python3 -m sglang.launch_server "
        "--model amd/DeepSeek-R1-0528-MXFP4 --tensor-parallel-size 8 --attention-backend aiter "
        "--mem-fraction-static 0.85 2>&1 | tee server.log\n",
        result="world 8 | tp 8 | experts 8x1 slots 256",
        quiet=True,
    ),
    Case(
        name="experts over half of the ranks",
        text="docker run -d --ipc=host --network=host --privileged --device=/dev/kfd --device=/dev/dri "
        "lmsysorg/sglang:v0.5.4-rocm700-mi35x python3 -m sglang.launch_server "
        "--model-path Qwen/Qwen3-235B-A22B-FP8 --tp 8 --ep 4 --port 8000\n",
        result="world 8 | tp 8 | experts 2x4 slots 128",
        quiet=True,
    ),
    Case(
        name="context parallel attention",
        text="python -m sglang.launch_server --model deepseek-ai/DeepSeek-V3.2 --tp 8 --dp 2 --enable-dp-attention "
        "--enable-nsa-prefill-context-parallel --attn-cp-size 4 --nsa-prefill-cp-mode round-robin-split\n",
        result="world 8 | tp 1 dp 2 cp 4 | dense 8 lm_head 8 | experts 8x1 slots 256 shared 8",
        notes=["deprecated"],
    ),
    Case(
        name="four stages over four nodes",
        text="python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3.1 --nnodes 4 --node-rank 0 "
        "--tp 8 --pp-size 4 --dist-init-addr 10.1.1.1:20000 --disable-radix-cache --chunked-prefill-size 6144 "
        "--attention-backend fa3 --enable-dynamic-chunking\n",
        result="world 32 nodes 4 stages 4 | tp 8 | experts 8x1 slots 256",
    ),
    Case(
        name="a batch job",
        text="""#!/bin/bash
#SBATCH -J sglang
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8

HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --ntasks=2 --nodes=2 bash -c 'python3 -m sglang.launch_server --model-path meta-llama/Llama-3.1-405B-Instruct \\
    --tp-size 16 --dist-init-addr '$HEAD':8000 --nnodes $SLURM_NNODES --node-rank $SLURM_NODEID' &
wait
""",
        result="world 16 nodes 2 | tp 16",
    ),
    Case(
        name="an engine in Python",
        text='import sglang as sgl\n\nif __name__ == "__main__":\n    llm = sgl.Engine(\n'
        '        model_path="Qwen/Qwen2.5-7B-Instruct", tp_size=2, dp_size=2, mem_fraction_static=0.8)\n'
        '    print(llm.generate("hello"))\n',
        result="world 4 replicas 2 | tp 2",
    ),
    Case(
        name="server arguments in Python",
        text="from sglang.srt.server_args import ServerArgs\nfrom sglang import Engine\n"
        'args = ServerArgs(model_path="deepseek-ai/DeepSeek-V2-Lite", tp_size=4, dp_size=4, '
        "enable_dp_attention=True)\n",
        result="world 4 | tp 1 dp 4 | dense 4 lm_head 4 | experts 4x1 slots 64 shared 4",
    ),
    Case(
        name="a config file by heredoc",
        text="""cat > config.yaml << EOF
model-path: meta-llama/Meta-Llama-3-8B-Instruct
host: 0.0.0.0
port: 30000
tensor-parallel-size: 2
enable-metrics: true
log-requests: true
EOF

python -m sglang.launch_server --config config.yaml
""",
        result="world 2 | tp 2",
        quiet=True,
    ),
    Case(
        name="a command that Python starts",
        text="import subprocess\n"
        'cmd = ["python3", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-32B", "--tp", "4",\n'
        '       "--dp", "2"]\nsubprocess.Popen(cmd)\n',
        result="world 8 replicas 2 | tp 4",
    ),
    Case(
        name="a command as one string of Python",
        text="from sglang.utils import launch_server_cmd\n"
        'server_process, port = launch_server_cmd(\n    """\npython3 -m sglang.launch_server --model-path '
        'Qwen/Qwen2.5-0.5B-Instruct --tp 2 \\\n --host 0.0.0.0 --log-level warning\n"""\n)\n',
        result="world 2 | tp 2",
    ),
    Case(
        name="a test of a benchmark",
        text="python3 -m sglang.bench_one_batch --model-path deepseek-ai/DeepSeek-V3 --batch-size 1 --input 128 "
        "--output 256 --tp 8 --ep-size 8 --moe-a2a-backend deepep --trust-remote-code\n",
        result="world 8 | tp 8 | experts 1x8 slots 256 shared 1 dispatch all_to_all",
    ),
    Case(
        name="prefill and decode on one machine",
        text="""$ python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct \\
  --disaggregation-mode prefill --port 30000 --disaggregation-ib-device mlx5_roce0
$ python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct \\
  --disaggregation-mode decode --port 30001 --base-gpu-id 1 --tp 2
$ python -m sglang_router.launch_router --pd-disaggregation --prefill http://127.0.0.1:30000 \\
  --decode http://127.0.0.1:30001 --host 0.0.0.0 --port 8000
""",
        result=["world 1 | tp 1", "world 2 | tp 2"],
    ),
]

VLLM = [
    Case(
        name="a local server of two engines",
        text="""export HCCL_IF_IP=2.0.0.0
export GLOO_SOCKET_IFNAME="eth0"
export VLLM_USE_MODELSCOPE=True

vllm serve Qwen/Qwen1.5-MoE-A2.7B  \\
  --host 0.0.0.0 --port 20002 --served-model-name Qwen \\
  --data-parallel-size 2 --data-parallel-size-local 2 \\
  --data-parallel-address 2.0.0.0 --data-parallel-rpc-port 13389 \\
  --tensor-parallel-size 4 --enable-expert-parallel --no-enable-prefix-caching \\
  --max-num-seqs 16 --max-model-len 4096 --max-num-batched-tokens 4096 \\
  --gpu-memory-utilization 0.9 --trust-remote-code --enforce-eager
""",
        result="world 8 | tp 4 dp 2 | experts 1x8 slots 60",
    ),
    Case(
        name="a head and a headless node",
        text="""# Node 0  (with ip address 10.99.48.128)
vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 4 --data-parallel-size 4 --data-parallel-size-local 2 \\
    --data-parallel-address 10.99.48.128 --data-parallel-rpc-port 13345
# Node 1
vllm serve deepseek-ai/DeepSeek-V3 --headless --tensor-parallel-size 4 --data-parallel-size 4 \\
    --data-parallel-size-local 2 --data-parallel-start-rank 2 \\
    --data-parallel-address 10.99.48.128 --data-parallel-rpc-port 13345
""",
        result="world 16 nodes 2 | tp 4 dp 4 | experts 16x1 slots 256",
        notes=["nodes"],
        quiet=True,
    ),
    Case(
        name="an engine for each rank behind a balancer",
        text="""# Rank 0
CUDA_VISIBLE_DEVICES=0 vllm serve Qwen/Qwen3-30B-A3B --data-parallel-size 2 --data-parallel-rank 0 --port 8000
# Rank 1
CUDA_VISIBLE_DEVICES=1 vllm serve Qwen/Qwen3-30B-A3B --data-parallel-size 2 --data-parallel-rank 1 --port 8001
""",
        result="world 2 | tp 1 dp 2 | experts 2x1 slots 128",
        quiet=True,
    ),
    Case(
        name="nodes by rank, aliases",
        text="vllm serve meta-llama/Llama-3.1-405B -tp 8 -pp 2 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1\n",
        result="world 16 nodes 2 stages 2 | tp 8",
        quiet=True,
    ),
    Case(
        name="a flag joined with its value",
        text="vllm serve Qwen/Qwen2.5-72B-Instruct -tp=4 --pipeline_parallel_size=2 --gpu_memory_utilization 0.92\n",
        result="world 8 stages 2 | tp 4",
        options={"gpu_memory_utilization": 0.92},
        quiet=True,
    ),
    Case(
        name="in the background with a log",
        text="CUDA_VISIBLE_DEVICES=0,1,2,3 nohup vllm serve /data/Qwen3-30B-A3B-Instruct-2507 --tensor-parallel-size 4 "
        "--enable-expert-parallel > vllm.log 2>&1 &\ntail -f vllm.log\n",
        result="world 4 | tp 4 | experts 1x4 slots 128",
        quiet=True,
    ),
    Case(
        name="ray across machines",
        text="""# On the head node
ray start --head --port=6379 --num-gpus=8
# On the worker
ray start --address=10.0.0.1:6379 --num-gpus=8
# On the head node
vllm serve deepseek-ai/DeepSeek-R1 --tensor-parallel-size 8 --pipeline-parallel-size 2 \\
  --distributed-executor-backend ray --trust-remote-code
""",
        result="world 16 stages 2 | tp 8 | experts 8x1 slots 256",
    ),
    Case(
        name="an image with its entrypoint",
        text="docker run --runtime nvidia --gpus all -v ~/.cache/huggingface:/cache/huggingface "
        '--env "HUGGING_FACE_HUB_TOKEN=<secret>" -p 8000:8000 --ipc=host vllm/vllm-openai:v0.8.5 '
        "--model google/gemma-7b --tensor-parallel-size 4 --deployment-mode ray --ray-address=auto\n",
        result="world 4 | tp 4",
        notes=["unknown-flag"],
    ),
    Case(
        name="an image and its shell",
        text="docker run -it --rm --device /dev/davinci0 quay.io/ascend/vllm-ascend:v0.11.0rc1 bash\n\n"
        "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2\n",
        result="world 2 | tp 2",
    ),
    Case(
        name="offline in Python",
        text="from vllm import LLM, SamplingParams\n\nllm = LLM(\n"
        '    model="meta-llama/Llama-3.3-70B-Instruct",\n    tensor_parallel_size=4,\n    pipeline_parallel_size=2,\n'
        '    distributed_executor_backend="ray",  # across machines\n    gpu_memory_utilization=0.92,\n)\n'
        "outputs = llm.generate(prompts, SamplingParams(temperature=0))\n",
        result="world 8 stages 2 | tp 4",
        options={"gpu_memory_utilization": 0.92},
    ),
    Case(
        name="asynchronous in Python",
        text="from vllm.engine.arg_utils import AsyncEngineArgs\n"
        "from vllm.engine.async_llm_engine import AsyncLLMEngine\n"
        "TP = 8\nengine_args = AsyncEngineArgs(model=MODEL, tensor_parallel_size=TP, enable_expert_parallel=True,\n"
        "                              data_parallel_size=2, max_model_len=4096)\n"
        "engine = AsyncLLMEngine.from_engine_args(engine_args)\n",
        result="world 16 | tp 8 dp 2 | experts 1x16 slots ?",
    ),
    Case(
        name="arguments that Python unpacks",
        text="from vllm import LLM\nkwargs = dict(tensor_parallel_size=2, max_model_len=2048)\n"
        'llm = LLM("Qwen/Qwen3-8B", **kwargs)\n',
        result="world 2 | tp 2",
    ),
    Case(
        name="a config file",
        text="""cat <<'EOF' > /tmp/vllm.yaml
model: Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8
tensor_parallel_size: 8
enable-expert-parallel: true
max-model-len: 131072
compilation-config:
  cudagraph_mode: PIECEWISE
EOF
VLLM_USE_DEEP_GEMM=1 vllm serve --config /tmp/vllm.yaml --port 8001
""",
        result="world 8 | tp 8 | experts 1x8 slots 160",
        quiet=True,
    ),
    Case(
        name="ranks placed by ray",
        text="vllm serve deepseek-ai/DeepSeek-R1-0528 --data-parallel-size 16 --data-parallel-size-local 8 "
        "--data-parallel-backend=ray --enable-expert-parallel --all2all-backend deepep_high_throughput\n",
        result="world 16 nodes 2 | tp 1 dp 16 | experts 1x16 slots 256 dispatch all_to_all",
        quiet=True,
    ),
    Case(
        name="prefill and decode beside each other",
        text="""# prefiller
CUDA_VISIBLE_DEVICES=0 vllm serve Qwen/Qwen3-0.6B --port 8100 --enforce-eager \\
  --kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"kv_producer","kv_buffer_device":"cuda"}' &
# decoder
CUDA_VISIBLE_DEVICES=1,2 vllm serve Qwen/Qwen3-0.6B --port 8200 --tensor-parallel-size 2 \\
  --kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"kv_consumer","kv_buffer_device":"cuda"}' &
python toy_proxy_server.py --port 8192 --prefiller-port 8100 --decoder-port 8200
""",
        result=["world 1 | tp 1", "world 2 | tp 2"],
    ),
    Case(
        name="settings of an accelerator plug-in",
        text="vllm serve vllm-ascend/DeepSeek-V3.1-W8A8 --data-parallel-size 2 --tensor-parallel-size 8 "
        '--quantization ascend --enable-expert-parallel --additional-config \'{"ascend_scheduler_config":'
        '{"enabled":true},"torchair_graph_config":{"enabled":true},"chunked_prefill_for_mla":true}\'\n',
        result="world 16 | tp 8 dp 2 | experts 1x16 slots 256",
    ),
    Case(
        name="an older place of a module's size",
        text="vllm serve vllm-ascend/DeepSeek-R1-W8A8 --data-parallel-size 32 --data-parallel-size-local 16 "
        "--tensor-parallel-size 1 --enable-expert-parallel --additional-config "
        '\'{"lmhead_tensor_parallel_size":16,"multistream_overlap_shared_expert":true}\'\n',
        result="world 32 nodes 2 | tp 1 dp 32 | lm_head 16 | experts 1x32 slots 256",
        notes=["deprecated"],
    ),
    Case(
        name="a benchmark",
        text="vllm bench throughput --model meta-llama/Llama-3.1-70B -tp 4 --input-len 1024 --output-len 128\n",
        result="world 4 | tp 4",
    ),
    Case(
        name="a benchmark's script",
        text="python3 benchmarks/benchmark_throughput.py --model meta-llama/Llama-2-70b-hf --tensor-parallel-size 8 "
        "--input-len 512 --output-len 128 --num-prompts 100\n",
        result="world 8 | tp 8",
    ),
    Case(
        name="the older module",
        text="python3 -m vllm.entrypoints.openai.api_server --model mistralai/Mixtral-8x22B-Instruct-v0.1 "
        "--tensor-parallel-size 8 --worker-use-ray --disable-log-requests --swap-space 16\n",
        result="world 8 | tp 8 | experts 8x1 slots 8",
        notes=["removed"],
    ),
    Case(
        name="a Dockerfile",
        text="FROM python:3.10-slim-buster\n\nRUN pip install vllm ray\n\nARG model\nARG gpu\nENV model=$model\n"
        "ENV gpu=$gpu\n\nCMD python -m vllm.entrypoints.api_server --model $model --tensor-parallel-size $gpu\n",
        settings={"gpu": "4"},
        result="world 4 | tp 4",
    ),
    Case(
        name="a Makefile",
        text="stop:\n\tray stop\n\nhead:\n\tray start --head --port 6379 --node-ip-address 192.168.20.1\n\n"
        "serve:\n\tvllm serve Qwen/Qwen3-0.6B \\\n\t\t--distributed-executor-backend ray \\\n"
        "\t\t--tensor-parallel-size 1 \\\n\t\t--pipeline-parallel-size 2\n",
        result="world 2 stages 2 | tp 1",
    ),
    Case(
        name="an array of arguments",
        text="""ARGS=(
  --tensor-parallel-size 8
  --enable-expert-parallel      # experts whole
  --max-model-len 32768
)
if [ "$FP8" = 1 ]; then
  ARGS+=(--kv-cache-dtype fp8)
fi
exec vllm serve "$MODEL_ID" "${ARGS[@]}"
""",
        settings={"MODEL_ID": "MiniMaxAI/MiniMax-M2"},
        result="world 8 | tp 8 | experts 1x8 slots 256",
    ),
    Case(
        name="decode context parallel",
        text="vllm serve moonshotai/Kimi-K2-Instruct -tp 8 -dcp 8 --trust-remote-code --max-num-seqs 64\n",
        result="world 8 | tp 8 kv 8 | experts 8x1 slots 384",
        quiet=True,
    ),
    Case(
        name="balanced experts in dotted words",
        text="vllm serve deepseek-ai/DeepSeek-V3-0324 --tensor-parallel-size 1 --data-parallel-size 8 "
        "--enable-expert-parallel --enable-eplb --eplb-config.num_redundant_experts 32 "
        "--eplb-config.step_interval 3000 --eplb-config.window_size 1000\n",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 288 balance global interval 3000",
        quiet=True,
    ),
    Case(
        name="ray serve in Python",
        text="from ray import serve\nfrom ray.serve.llm import LLMConfig, build_openai_app\n\nconfig = LLMConfig(\n"
        '    model_loading_config=dict(model_id="qwen", model_source="Qwen/Qwen2.5-32B-Instruct"),\n'
        "    engine_kwargs=dict(tensor_parallel_size=4, pipeline_parallel_size=2, max_model_len=8192),\n)\n"
        'app = build_openai_app({"llm_configs": [config]})\n',
        result="world 8 stages 2 | tp 4",
    ),
    Case(
        name="a service of an init system",
        text="[Unit]\nDescription=vllm\nAfter=network.target\n\n[Service]\nUser=llm\n"
        "Environment=CUDA_VISIBLE_DEVICES=0,1\nExecStart=/srv/venv/bin/vllm serve Qwen/Qwen2.5-14B-Instruct \\\n"
        "  --tensor-parallel-size 2 --port 8000\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n",
        result="world 2 | tp 2",
    ),
    Case(
        name="a report with its environment",
        text="### Your current environment\n\n8 x H20, vllm 0.10.1\n\n### Describe the bug\n\nI start it like this:\n\n"
        "```\nvllm serve zai-org/GLM-4.5 -tp 8 --enable-expert-parallel --tool-call-parser glm45\n```\n\n"
        "and after an hour it hangs:\n\n```\nERROR 08-07 10:00:00 [core.py:700] EngineCore died\n```\n",
        result="world 8 | tp 8 | experts 1x8 slots 160",
    ),
]

TRTLLM = [
    Case(
        name="a job of two nodes",
        text="""#!/bin/bash
#SBATCH -A <account>
#SBATCH -N 2
#SBATCH --ntasks-per-node=8
#SBATCH -J serve

### pytorch backend
srun -l \\
    --container-image=${CONTAINER_IMAGE} \\
    --container-mounts=${MOUNT_DIR}:${MOUNT_DEST} \\
    --export=ALL,PYTHONPATH=${SOURCE_ROOT} \\
    --mpi=pmix \\
    bash -c "
        set -ex
        $PROLOGUE
        export PATH=$PATH:~/.local/bin

        trtllm-llmapi-launch \\
         trtllm-serve $LOCAL_MODEL \\
            --tp_size 16 \\
            --backend pytorch \\
            --host 0.0.0.0 \\
            ${ADDITIONAL_OPTIONS}
    "
""",
        settings={"LOCAL_MODEL": "/m/Llama-3.1-405B"},
        result="world 16 nodes 2 | tp 16",
    ),
    Case(
        name="servers of two roles by their files",
        text="""echo -e "disable_overlap_scheduler: True\\ncache_transceiver_config:\\n  backend: UCX" > context_x.yml
echo -e "cache_transceiver_config:\\n  backend: UCX" > gen_extra.yml
#Context servers
CUDA_VISIBLE_DEVICES=0 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 --port 8001 \\
    --extra_llm_api_options ./context_x.yml &> log_ctx_0 &
#Generation servers
CUDA_VISIBLE_DEVICES=2,3 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 --port 8003 --tp_size 2 \\
    --extra_llm_api_options ./gen_extra.yml &> log_gen_0 &
""",
        result=["world 1 | tp 1", "world 2 | tp 2"],
        quiet=True,
    ),
    Case(
        name="in Python",
        text="from tensorrt_llm import LLM, SamplingParams\n\ndef main():\n    llm = LLM(\n"
        '        model="deepseek-ai/DeepSeek-R1", tensor_parallel_size=8, moe_expert_parallel_size=4,\n'
        "        enable_attention_dp=True)\n    for output in llm.generate(prompts):\n        print(output)\n",
        result="world 8 | tp 1 dp 8 | experts 2x4 slots 256",
    ),
    Case(
        name="in Python with configurations as objects",
        text="from tensorrt_llm import LLM\nfrom tensorrt_llm.llmapi import KvCacheConfig, MoeConfig, CudaGraphConfig\n"
        "from tensorrt_llm.llmapi import MoeLoadBalancerConfig\n\n"
        "kv_cache_config = KvCacheConfig(free_gpu_memory_fraction=0.7, dtype='fp8')\n"
        "moe_config = MoeConfig(backend='WIDEEP', load_balancer=MoeLoadBalancerConfig(num_slots=288, "
        "layer_updates_per_iter=1))\n"
        "llm = LLM(model='/models/DeepSeek-V3', tensor_parallel_size=32, moe_expert_parallel_size=32, "
        "enable_attention_dp=True,\n          kv_cache_config=kv_cache_config, moe_config=moe_config)\n",
        result="world 32 | tp 1 dp 32 | experts 1x32 slots 288 balance global interval 1000",
        options={"free_gpu_memory_fraction": 0.7, "kv_cache_dtype": "fp8"},
    ),
    Case(
        name="a benchmark with its file",
        text="""cat > ./extra-llm-api-config.yml <<EOF
enable_attention_dp: true
cuda_graph_config:
  enable_padding: true
  batch_sizes: [1, 2, 4, 8, 16, 32, 64, 128, 256, 384]
EOF
trtllm-bench --model deepseek-ai/DeepSeek-R1 --model_path /models/DeepSeek-R1 \\
  throughput --dataset /data/ds.txt --tp 8 --ep 8 --backend pytorch --max_batch_size 384 \\
  --max_num_tokens 1536 --concurrency 3072 --kv_cache_free_gpu_mem_fraction 0.85 --streaming \\
  --extra_llm_api_options ./extra-llm-api-config.yml
""",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
        options={"max_num_seqs": 384},
        quiet=True,
    ),
    Case(
        name="by mpirun in a container",
        text='docker exec -it trt bash -c "mpirun -n 1 --oversubscribe --allow-run-as-root trtllm-serve '
        'nvidia/Llama-3.1-405B-Instruct-FP4 --tp_size 4 --pp_size 2 --max_batch_size 512"\n',
        result="world 8 stages 2 | tp 4",
        options={"max_num_seqs": 512},
        quiet=True,
    ),
    Case(
        name="flags with dashes",
        text="trtllm-serve openai/gpt-oss-120b --tp-size 4 --ep-size 4 --max-batch-size 640 --trust-remote-code\n",
        result="world 4 | tp 4 | experts 1x4 slots 128",
    ),
    Case(
        name="the advanced quick start",
        text="cd examples/llm-api\npython quickstart_advanced.py --model_dir /m/DeepSeek-V3 --tp_size 8 "
        "--moe_ep_size 8 --enable_attention_dp --kv_cache_fraction 0.6 --spec_decode_algo MTP --spec_decode_nextn 3\n",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
    ),
    Case(
        name="a checkpoint converted for so many ranks",
        text="python3 convert_checkpoint.py --model_dir ./Llama-3.1-70B --output_dir ./ckpt --dtype float16 "
        "--tp_size 4 --pp_size 2\ntrtllm-build --checkpoint_dir ./ckpt --output_dir ./engine --gemm_plugin float16\n",
        result="world 8 stages 2 | tp 4",
    ),
    Case(
        name="a worker of another framework",
        text="python3 -m dynamo.trtllm --model-path /model/deepseek-r1-fp4 --served-model-name deepseek-ai/DeepSeek-R1 "
        "--tensor-parallel-size 8 --expert-parallel-size 8 --enable-attention-dp --disaggregation-mode decode\n",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
    ),
]

OTHERS = [
    Case(
        name="tokenspeed, decode ranks with experts spread",
        text="docker run --gpus all --ipc=host tokenspeed/runtime:latest tokenspeed serve moonshotai/Kimi-K2-Instruct "
        "--data-parallel-size 8 --attn-tp-size 1 --moe-tp-size 1 --enable-expert-parallel --world-size 8 "
        "--all2all-backend deepep --deepep-mode low_latency --dist-init-addr 10.0.0.1:25000\n",
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 384 dispatch all_to_all",
    ),
    Case(
        name="tokenspeed, two nodes",
        text="# host a\ntokenspeed serve Qwen/Qwen3-235B-A22B --nnodes 2 --node-rank 0 --nprocs-per-node 8 "
        "--world-size 16 --attn-tp-size 8 --dist-init-addr a:25000\n# host b\n"
        "tokenspeed serve Qwen/Qwen3-235B-A22B --nnodes 2 --node-rank 1 "
        "--nprocs-per-node 8 --world-size 16 --attn-tp-size 8 --dist-init-addr a:25000\n",
        result="world 16 nodes 2 | tp 8 dp 2 | lm_head 1 | experts 16x1 slots 128",
    ),
]

FIELD = [
    *(("sglang", case) for case in SGLANG),
    *(("vllm", case) for case in VLLM),
    *(("trtllm", case) for case in TRTLLM),
    *(("tokenspeed", case) for case in OTHERS),
]


@pytest.mark.parametrize(("dialect", "case"), FIELD, ids=str)
def test_read_as_judged_by_hand(dialect: str, case: Case) -> None:
    check(case, dialect)
