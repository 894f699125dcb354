"""Services, Makefiles, lists of Python and environments: kinds of texts that the readers met after they were written.

Each has the form of something found in public pages and repositories; names, paths and numbers are made up.
"""

from __future__ import annotations

import pytest

from tests.support.dialects import Case, check, read_case
from weft.dialects import registry
from weft.errors import UsageError

FENCED_MANIFEST = """One node is enough:

```yaml
kind: Deployment
spec:
  containers:
  - image: vllm/vllm-openai:latest
    command:
    - python
    - -m
    - vllm.entrypoints.openai.api_server
    - --model=/m/llama-2-70b
    - --tensor-parallel-size=8
```

Apply it with `kubectl apply -f it.yaml --wait`.
"""

FENCED_ARGUMENTS = """The tuned arguments of vLLM:

```json
{"args": ["--max-model-len=2048", "--tensor-parallel-size=2"]}
```
"""

PLACEHOLDER = """tee /tmp/opts.yml <<EOF
print_iter_log: true
EOF
trtllm-serve serve /m/llama3.1_70B --max_num_tokens max_num_tokens --max_seq_len 2k --tp_size 4 \\
    --extra_llm_api_options /tmp/opts.yml
"""

RETURNED = """def command(gpu):
    return ["python", "-u", "-m", "sglang.launch_server", "--model-path", str(MODELS["big"]), "--tp", "2",
            "--mem-fraction-static", str(cfg["mem"]), "--port", str(31000 + gpu * 10)]
"""

ONE_STRING = """parts = ["python -m sglang.launch_server", "--model-path", model_name]
parts.extend(["--tp", "2", "--port", "30000"])
run(" ".join(parts))
"""

LINES = """{"commands": {"serve": [
    ["python3 -m sglang.launch_server --trust-remote-code"],
    ["--model-path /m/DeepSeek-R1"],
    [" --tp 8 --dp 4 --enable-dp-attention --enable-dp-lm-head"]
]}}
"""

UNPACKED = """from vllm import AsyncEngineArgs
config = {"model": str(args.model), "tensor_parallel_size": 4, "max_model_len": args.length, "block_size": 32}
engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**config))
"""

PROJECTIONS = """export TOKENSPEED_SOME_MODEL_O_PROJ_TP_SIZE=4
export TOKENSPEED_SOME_MODEL_QKV_PROJ_TP_SIZE=4
export TOKENSPEED_SOME_MODEL_SHARED_EXPERT_TP_SIZE=2
python -m tokenspeed.cli serve --model deepseek-ai/DeepSeek-V3 --world-size 16 --nprocs-per-node 8 \\
  --attn-tp-size 1 --data-parallel-size 16 --moe-tp-size 1 --expert-parallel-size 16 --dist-init-addr HEAD:29500
"""

EMPTY = """LIMIT="${LIMIT:-}"
ARGS=(--model openai/gpt-oss-20b --attn-tp-size 2 --moe-tp-size 2)
[ -n "$LIMIT" ] && ARGS+=(--comm-fusion-max-num-tokens "$LIMIT")
tokenspeed serve "${ARGS[@]}" &
"""

LLM_SERVICE = """kind: LLMInferenceService
metadata: {name: wide}
spec:
  model: {uri: "hf://deepseek-ai/DeepSeek-R1", name: deepseek-ai/DeepSeek-R1}
  parallelism: {data: 16, dataLocal: 8, tensor: 1, expert: true}
  template:
    containers:
    - args: ["--max-model-len", "8192"]
  prefill:
    replicas: 2
    parallelism: {tensor: 8}
"""

START_COMMAND = """base_image: {image: "vllm/vllm-openai:v0.9"}
docker_server:
  start_command: sh -c "HF_TOKEN=$(cat /secrets/token) vllm serve Qwen/Qwen2.5-72B-Instruct --tensor-parallel-size 4"
  server_port: 8000
model_name: chat
"""

MAKEFILE = (
    "MODEL ?= Qwen/Qwen3-32B\ntp := 4   # cards\nEXTRA = --max-model-len 4096 --enforce-eager\n\n"
    "serve:\n\t@docker run --gpus all vllm/vllm-openai:latest \\\n"
    "\t\t--model $(MODEL) --tensor-parallel-size $(tp) $(EXTRA)\n"
)

BACKEND_PARAMETERS = """name: chat
huggingface_repo_id: Qwen/Qwen2.5-72B-Instruct
backend: vllm
backend_parameters:
  - --tensor-parallel-size=4
  - --max-model-len=8192
"""

SENTENCES = """We use vllm serve for all our tests, and stop trtllm-serve before.

```
log_info "vllm serve is up"
echo "Starting vllm serve with model=$MODEL port=$PORT"
vllm serve Qwen/Qwen3-Coder-Next -tp 2
```
"""

CUT_OUT = """{
  "BackendConfig": {
    "npuDeviceIds": [[0, 1, 2, 3]],
    "ModelDeployConfig": {"ModelConfig": [{"modelWeightPath": "/m/DeepSeek-R1-Distill-Qwen-7B", "worldSize": 4}]}
  }
}
```

- "httpsEnabled" is off here
"""

BRACELESS = """```json
"multiNodesInferEnabled" : false, # one node
...
"npuDeviceIds" : [[0,1,2,3,4,5,6,7]],
...
"modelName" : "kimi_k2" # any name
"modelWeightPath" : "/data/weights",
"worldSize":8,
```
"""

TWO_DEPLOYMENTS = """Define a file as shown below.

```yaml
model: meta-llama/Llama-3.1-8B
context_servers: {num_instances: 1, tp_size: 1}
generation_servers: {num_instances: 1, tp_size: 1}
```

Or two servers behind one of two ranks:

```yaml
model: meta-llama/Llama-3.1-8B
...
context_servers: {num_instances: 1, tp_size: 2}
generation_servers: {num_instances: 2, tp_size: 1}
```

```bash
mpirun -n WORLD_SIZE python3 -m disagg.worker --engine_args model.json &
```
"""

READ = [
    (
        "vllm",
        Case(name="sentences about commands", text=SENTENCES, result="world 2 | tp 2 | experts 2x1 slots 512"),
    ),
    (
        "vllm",
        Case(
            name="code in a sentence",
            text="It hangs with ``` vllm serve Qwen/Qwen3-8B -tp 2 ``` here.\n",
            result="world 2 | tp 2",
        ),
    ),
    ("mindie", Case(name="cut out of a page", text=CUT_OUT, result="world 4 | tp 4")),
    ("mindie", Case(name="no braces", text=BRACELESS, result="world 8 | tp 8 | experts 8x1 slots 384")),
    (
        "trtllm",
        Case(
            name="two deployments on a page",
            text=TWO_DEPLOYMENTS,
            result=["world 1 | tp 1", "world 1 | tp 1", "world 2 | tp 2", "world 2 replicas 2 | tp 1"],
        ),
    ),
    ("vllm", Case(name="a manifest on a page", text=FENCED_MANIFEST, result="world 8 | tp 8", quiet=True)),
    ("vllm", Case(name="arguments on a page", text=FENCED_ARGUMENTS, result="world 2 | tp 2", quiet=True)),
    (
        "trtllm",
        Case(name="a flag's own name as its value", text=PLACEHOLDER, result="world 4 | tp 4"),
    ),
    ("sglang", Case(name="a list that is returned", text=RETURNED, result="world 2 | tp 2")),
    ("sglang", Case(name="a program in one string", text=ONE_STRING, result="world 2 | tp 2")),
    (
        "sglang",
        Case(
            name="lines of a command as lists",
            text=LINES,
            result="world 8 | tp 2 dp 4 | dense 8 | experts 8x1 slots 256 shared 8",
        ),
    ),
    (
        "vllm",
        Case(
            name="a mapping with open values",
            text=UNPACKED,
            result="world 4 | tp 4",
            options={"block_size": 32, "max_model_len": None},
        ),
    ),
    (
        "tokenspeed",
        Case(
            name="projections by the environment",
            text=PROJECTIONS,
            result="world 16 nodes 2 | tp 1 dp 16 | o_proj 4 | experts 1x16 slots 256 shared 2",
            notes=["derived", "approximation"],
        ),
    ),
    (
        "tokenspeed",
        Case(
            name="an empty value",
            text=EMPTY,
            result="world 2 | tp 2 | experts 2x1 slots 32",
            notes=["empty-value"],
        ),
    ),
    (
        "vllm",
        Case(
            name="a service of two roles by short names",
            text=LLM_SERVICE,
            result=["world 8 | tp 8 | experts 8x1 slots 256", "world 16 nodes 2 | tp 1 dp 16 | experts 1x16 slots 256"],
            notes=["copies"],
        ),
    ),
    ("vllm", Case(name="a command under a key of its own", text=START_COMMAND, result="world 4 | tp 4")),
    (
        "vllm",
        Case(
            name="a Makefile",
            text=MAKEFILE,
            result="world 4 | tp 4",
            notes=["variable-default"],
            options={"model": "Qwen/Qwen3-32B", "max_model_len": 4096, "enforce_eager": True},
        ),
    ),
    ("vllm", Case(name="parameters of a backend", text=BACKEND_PARAMETERS, result="world 4 | tp 4")),
    (
        "vllm",
        Case(
            name="a trainer's server by the engine's name",
            text="swift deploy --model Qwen/Qwen2.5-72B-Instruct --infer_backend vllm --seed 3 "
            "--vllm_tensor_parallel_size 4 --vllm_max_model_len 8192\n",
            result="world 4 | tp 4",
            options={"max_model_len": 8192},
            quiet=True,
        ),
    ),
]

ELSEWHERE = [
    "engine=Python\noption.model_id=m/x\noption.tensor_parallel_degree=8\noption.rolling_batch=vllm\n",
    'env = {"SM_VLLM_MODEL": "m/x", "SM_VLLM_TENSOR_PARALLEL_SIZE": "4"}\n',
]


@pytest.mark.parametrize(("dialect", "case"), READ, ids=str)
def test_read_as_judged_by_hand(dialect: str, case: Case) -> None:
    check(case, dialect)


@pytest.mark.parametrize("text", ELSEWHERE)
def test_a_model_servers_own_settings_are_refused_with_what_to_give(text: str) -> None:
    with pytest.raises(UsageError, match="give the command of the engine inside"):
        registry.read(text)


def test_a_projection_that_does_not_divide_the_stage_is_refused() -> None:
    text = PROJECTIONS.replace("_O_PROJ_TP_SIZE=4", "_O_PROJ_TP_SIZE=3")
    (reading,) = read_case(Case(name="", text=text, result=""))
    assert reading.refused is not None and reading.refused.legal == (1, 2, 4, 8, 16)
    assert "O_PROJ_TP_SIZE 3" in reading.refused.message


def test_long_lists_of_names_are_read_in_no_time() -> None:
    items = ", ".join(f'names["{at}"]' for at in range(400))
    with pytest.raises(UsageError):
        registry.read(f"values = [{items}, 1.5 ** 2]\n")
