"""Texts of kinds that the readers met after they were written: pages, harnesses, service files, scripts in Python.

Each has the form of something found in public pages and repositories; names, paths and numbers are made up.
"""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check, read_case
from weft.dialects import registry
from weft.errors import UsageError

EARLY_MINDIE = """{
  "OtherParam": {"ServeParam": {"ipAddress": "127.0.0.1", "port": 1040}, "LogParam": {"logLevel": "Info"}},
  "WorkFlowParam": {"TemplateParam": {"templateType": "Standard"}},
  "ModelDeployParam": {
    "engineName": "mindieservice_llm_engine",
    "npuDeviceIds": [[0, 1, 2, 3]],
    "multiNodesInferEnabled": false,
    "ModelParam": [{"modelName": "q", "modelWeightPath": "/m/Qwen1.5-14B", "worldSize": 4, "pluginParams": ""}]
  },
  "ScheduleParam": {"maxBatchSize": 96}
}
"""

MINDIE_OF_VLLM_API = """{
  "ServerConfig": {"port": 1025, "openAiSupport": "vllm"},
  "BackendConfig": {
    "npuDeviceIds": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "ModelDeployConfig": {"ModelConfig": [
      {"modelName": "r1", "modelWeightPath": "/m/DeepSeek-R1", "worldSize": 8,
       "dp": 4, "tp": 2, "moe_tp": 1, "moe_ep": 8}
    ]}
  }
}
"""

MINDIE_PAGE = """Open the file:

```shell
vim conf/config.json
```

and change it:

```json
{
  "_comment": "only what differs",
  "BackendConfig": {
    "npuDeviceIds": [[0, 1]],
    "ModelDeployConfig": {"ModelConfig": [{"_comment": "ours", "modelWeightPath": "/m/Qwen3-14B", "worldSize": 2}]}
  }
}
```

Then ask it:

```
{"model": "qwen3", "messages": [{"role": "user", "content": "hello"}]}
```
"""

MINDIE_FILLED = """cat > conf/config.json <<EOF
{"BackendConfig": {"npuDeviceIds": [[${DEVICES}]],
  "ModelDeployConfig": {"ModelConfig": [{"modelWeightPath": "/m/Qwen2.5-32B", "worldSize": ${WORLD}}]}}}
EOF
./bin/mindieservice_daemon
"""

PYTHON = """import os
import subprocess

PORT = 8123
tp: int = int(os.environ.get("CHAT_TP", "4"))
stages = os.getenv("CHAT_PP", 2)
cmd = ["vllm", "serve", "Qwen/Qwen2.5-72B-Instruct", "--tensor-parallel-size", str(tp), "-pp", str(stages)]
cmd += ["--port", str(PORT)]
subprocess.run(cmd, check=True)
"""

ECHOED = """CMD="python3 -m sglang.launch_server --model-path Qwen/Qwen3-32B"
CMD="$CMD --tp-size 4"
echo "$CMD"
eval $CMD 2>&1 | tee server.log
"""

FOLDED = """deployment:
  - server_cmd: >
      vllm serve /m/DeepSeek-R1-W8A8
        --data-parallel-size 16
        --data-parallel-size-local 8
        --tensor-parallel-size 1
        --enable-expert-parallel
        --speculative-config
        '{"method": "mtp",
        "num_speculative_tokens": 1}'
        --additional-config
        '{"finegrained_tp_config": {"lmhead_tensor_parallel_size": 4}}'
  - server_cmd: >
      vllm serve /m/DeepSeek-R1-W8A8
        --headless
        --data-parallel-size 16
        --data-parallel-size-local 8
        --data-parallel-start-rank 8
        --tensor-parallel-size 1
        --enable-expert-parallel
        --speculative-config
        '{"method": "mtp",
        "num_speculative_tokens": 1}'
        --additional-config
        '{"finegrained_tp_config": {"lmhead_tensor_parallel_size": 4}}'
"""

FLAG_LISTS = """name: nightly of two roles
model: "someone/Qwen3-235B-A22B-w8a8"
groups:
  - envs:
      USE_V1: "1"
    cmd_template:
      - --port
      - "7100"
      - --tensor-parallel-size
      - "8"
      - --enable-expert-parallel
      - --max-num-seqs
      - "12"
  - cmd_template:
      - --data-parallel-size
      - ${DP}
      - --tensor-parallel-size
      - "1"
      - --enable-expert-parallel
"""

TEMPLATES = """kind: ConfigMap
data:
  templates.yaml: |
    - name: chat
      spec:
        engine: {type: vllm, serve_args: ["--port=8001", "--enable-prefix-caching"]}
        model_source: {uri: meta-llama/Llama-3.1-70B-Instruct}
        parallelism: {tp: 4, pp: 2, dp: 1}
        engine_args: {max_num_seqs: 32}
"""

ROUTED = """cat > ctx.yaml <<EOF
tensor_parallel_size: 2
EOF
cat > router.yaml <<EOF
hostname: localhost
context_servers: {num_instances: 1, urls: ["localhost:8001"]}
generation_servers: {num_instances: 1, urls: ["localhost:8002"]}
EOF
trtllm-serve meta-llama/Llama-3.1-8B --port 8001 --config ctx.yaml &
trtllm-serve meta-llama/Llama-3.1-8B --port 8002 --tp_size 4 &
trtllm-serve disaggregated -c router.yaml
"""

TRAINER = """CUDA_VISIBLE_DEVICES=0,1 python -m trl.scripts.vllm_serve --model Qwen/Qwen2.5-7B \\
    --tensor_parallel_size 2 --enable_prefix_caching true

accelerate launch --config_file zero3.yaml train.py --config recipe.yaml
"""

READ = [
    ("mindie", Case(name="the file of the first releases", text=EARLY_MINDIE, result="world 4 | tp 4")),
    (
        "mindie",
        Case(
            name="a file that names another engine's API",
            text=MINDIE_OF_VLLM_API,
            result="world 8 | tp 2 dp 4 | experts 1x8 slots 256",
        ),
    ),
    ("mindie", Case(name="a page with requests and commands", text=MINDIE_PAGE, result="world 2 | tp 2")),
    (
        "mindie",
        Case(name="devices from a variable", text=MINDIE_FILLED, settings={"WORLD": "8"}, result="world 8 | tp 8"),
    ),
    (
        "vllm",
        Case(
            name="numbers and defaults of Python",
            text=PYTHON,
            result="world 8 stages 2 | tp 4",
            notes=["variable-default"],
            options={"port": 8123},
        ),
    ),
    ("sglang", Case(name="a command that is shown, then run", text=ECHOED, result="world 4 | tp 4")),
    (
        "vllm",
        Case(
            name="values on lines of their own",
            text=FOLDED,
            result="world 16 nodes 2 | tp 1 dp 16 | lm_head 4 | experts 1x16 slots 256",
        ),
    ),
    (
        "vllm",
        Case(
            name="lists of flags under keys of a harness",
            text=FLAG_LISTS,
            result=["world 8 | tp 8 | experts 1x8 slots 128", "world ? | tp 1 dp ? | experts 1x? slots 128"],
            variables=["DP"],
            options={"max_num_seqs": 12},
        ),
    ),
    ("vllm", Case(name="templates of deployments", text=TEMPLATES, result="world 8 stages 2 | tp 4")),
    (
        "trtllm",
        Case(name="servers and their router", text=ROUTED, result=["world 2 | tp 2", "world 4 | tp 4"]),
    ),
    ("vllm", Case(name="a trainer's server", text=TRAINER, result="world 2 | tp 2")),
    (
        "vllm",
        Case(
            name="a trainer's command",
            text="trl vllm-serve --model Qwen/Qwen2.5-7B --tensor-parallel-size 2 --data-parallel-size 2\n",
            result="world 4 replicas 2 | tp 2",
        ),
    ),
]


@pytest.mark.parametrize(("dialect", "case"), READ, ids=str)
def test_read_as_judged_by_hand(dialect: str, case: Case) -> None:
    check(case, dialect)


def test_options_of_an_early_file_have_their_shared_names() -> None:
    (reading,) = read_case(Case(name="", text=EARLY_MINDIE, result=""))
    assert (reading.options["port"], reading.options["max_num_seqs"]) == (1040, 96)
    assert [note for note in reading.notes if note.level != "info"] == []


def test_a_launcher_that_is_given_no_size_is_not_read_as_one_rank() -> None:
    with pytest.raises(UsageError, match="give the command that it starts"):
        registry.read("srun ./start-cluster.py apptainer vllm.sif --auto --model Qwen/Qwen3-8B --enforce-eager\n")
