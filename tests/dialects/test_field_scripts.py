"""Scripts of other kinds, quotes inside quotes, branches and strings of Python: met after the readers were written.

Each has the form of something found in public pages and repositories; names, paths and numbers are made up.
"""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check

NESTED = """srun -N 2 bash -c '
    export HOST_IP="$(ip -o addr show | awk "{split(\\$4,a,\\"/\\"); print a[1]; exit}")"
    python -c "import vllm" || { echo "not here"; exit 1; }
    vllm serve '"$MODEL"' \\
      --tensor-parallel-size 4 --pipeline-parallel-size 2 \\
      --nnodes 2 --node-rank "$SLURM_PROCID" --master-addr '"$HEAD"'
' > serve.log 2>&1 &
"""

BRANCHES = """ARGS=(--model-path Qwen/Qwen3-32B --tensor-parallel-size 4)
if command -v sglang >/dev/null; then
  exec sglang serve "${ARGS[@]}"
else
  exec python -m sglang.launch_server "${ARGS[@]}"
fi
"""

LISTED = (
    '1 2 3 4 5 6 | "ModelConfig" : [ { "modelWeightPath" : "/data/DeepSeek-R1", "worldSize" : 8, "moe_ep": 8, '
    '"models": {"deepseekv2": {"ep_level": 2} } } ],\n'
)

RUNTIME = """kind: VLLMRuntime
metadata: {name: chat}
spec:
  model: {modelURL: meta-llama/Llama-3.1-8B, maxModelLen: 4096, maxNumSeqs: 32}
  vllmConfig:
    enablePrefixCaching: false
    tensorParallelSize: 2
    gpuMemoryUtilization: "0.8"
    extraArgs: ["--port", "8005"]
    v1: true
  deploymentConfig: {replicas: 2}
"""

BATCH = "@echo off\nset MODEL=Qwen/Qwen2.5-7B-Instruct\nset TP=2\nwsl vllm serve %MODEL% --tensor-parallel-size %TP%\n"

STRINGS = """import subprocess

model = "Qwen/Qwen2.5-32B-Instruct"
tp = 4
subprocess.Popen(
    f"vllm serve {model} "
    f"--tensor-parallel-size {tp} "
    f"--max-model-len {args.length} --served-model-name 'chat'",
    shell=True,
)
"""

UNIT = """[Container]
Image=docker.io/vllm/vllm-openai:latest
Exec=--model Qwen/Qwen3-32B --tensor-parallel-size 2 --max-model-len 16384

[Install]
WantedBy=default.target
"""

LINES = """type: service
env:
  - MODEL=mistralai/Mixtral-8x7B-Instruct-v0.1
commands:
  - pip install vllm
  - vllm serve $MODEL
      --max-model-len 4096
      --tensor-parallel-size $CARDS
"""

SHOWN_PART = """Change these:

```json
{
...
"BackendConfig": {
"npuDeviceIds" : [[2,3]], # two cards
...
"ModelDeployConfig":
{
"ModelConfig" : [
{
"modelName" : "v", # any name
"modelWeightPath" : "/m/glm-4-9b",
"worldSize" : 2,
...
}
]
}
```
"""

HINTED = """```bash
trtllm-serve /path/of/model --tp_size 8 &
sleep 200
nsys profile -o whole -y 50 -d 10 trtllm-serve ...
```
"""

READ = [
    (
        "vllm",
        Case(
            name="quotes inside substitutions",
            text=NESTED,
            settings={"MODEL": "zai-org/GLM-5"},
            result="world 8 nodes 2 stages 2 | tp 4 | experts 4x1 slots 256",
        ),
    ),
    ("sglang", Case(name="two branches with one command", text=BRANCHES, result="world 4 | tp 4")),
    (
        "mindie",
        Case(
            name="all numbers of a listing in front",
            text=LISTED,
            result="world 8 | tp 8 | experts 1x8 slots 256 dispatch all_to_all",
        ),
    ),
    (
        "vllm",
        Case(
            name="a runtime",
            text=RUNTIME,
            result="world 2 | tp 2",
            notes=["copies"],
            options={"max_num_seqs": 32, "max_model_len": 4096, "port": 8005, "enable_prefix_caching": False},
        ),
    ),
    (
        "vllm",
        Case(
            name="a batch file",
            text=BATCH,
            result="world 2 | tp 2",
            options={"model": "Qwen/Qwen2.5-7B-Instruct"},
        ),
    ),
    (
        "vllm",
        Case(
            name="strings of Python with names in them",
            text=STRINGS,
            result="world 4 | tp 4",
            options={"model": "Qwen/Qwen2.5-32B-Instruct", "served_model_name": "chat", "max_model_len": None},
        ),
    ),
    (
        "vllm",
        Case(name="a container's unit", text=UNIT, result="world 2 | tp 2", options={"max_model_len": 16384}),
    ),
    (
        "vllm",
        Case(
            name="lines of a task",
            text=LINES,
            settings={"CARDS": "4"},
            result="world 4 | tp 4 | experts 4x1 slots 8",
            options={"max_model_len": 4096},
        ),
    ),
    (
        "mindie",
        Case(name="a part that ends inside of its braces", text=SHOWN_PART, result="world 2 | tp 2"),
    ),
    ("trtllm", Case(name="a command that is only hinted at", text=HINTED, result="world 8 | tp 8")),
    (
        "vllm",
        Case(
            name="tests with a mark",
            text="vllm serve Qwen/Qwen3-4B -tp 2\npytest -m vllm tests/x.py -v",
            result="world 2 | tp 2",
        ),
    ),
    (
        "sglang",
        Case(
            name="a step of training is no model of that name",
            text="python -m sglang.launch_server --model-path me/tuned_step350 --dp-size 2",
            result="world 2 replicas 2 | tp 1",
        ),
    ),
]


@pytest.mark.parametrize(("dialect", "case"), READ, ids=str)
def test_read_as_judged_by_hand(dialect: str, case: Case) -> None:
    check(case, dialect)
