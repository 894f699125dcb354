"""MindIE: every example of its page on tensor parallelism, and cases from its documented behaviour."""

from __future__ import annotations

import json

import pytest

from tests.support.dialects import Case, check
from weft.dialects import registry
from weft.dialects.base import Context
from weft.layout import resolve

PAGE_JSON = """"ModelDeployConfig" :
{
   "maxSeqLen" : 2560,
   "maxInputTokenLen" : 2048,
   "truncation" : false,
   "ModelConfig" : [
     {
         "modelInstanceType" : "Standard",
         "modelName" : "DeepSeek-R1_w8a8",
         "modelWeightPath" : "/data/weights/DeepSeek-R1_w8a8",
         "worldSize" : 8,
         "cpuMemSize" : 5,
         "npuMemSize" : -1,
         "backendType" : "atb",
         "trustRemoteCode" : false,
         "tp": 2,
         "models": {
            "deepseekv2": {
                "parallel_options": {
                    "lm_head_local_tp": -1,
                    "o_proj_local_tp": -1
                }
            }
         }
      }
   ]
},
"""
PAGE_TEXT = (
    "Table 2 Supplementary parameters: models in ModelConfig\n\n"
    "o_proj_local_tp\n\nInteger\n\n[1, worldSize / Number of nodes]\n\n"
    "  1. Open the config.json file of the Server.\n    cd {MindIE installation directory}/latest/mindie-service/\n"
    "    vi conf/config.json\n  2. Set serving parameters.\n\n"
    + "".join(f"     {number}\n" for number in range(1, 28))
    + "".join(f"    {line}\n" for line in PAGE_JSON.splitlines())
    + "    \n  3. Start the service.\n    ./bin/mindieservice_daemon\n"
)
PAGE_RESULT = "world 8 | tp 2 dp 4 | experts 8x1 slots 256"
PAGE_OPTIONS = {"max_model_len": 2560, "model": "/data/weights/DeepSeek-R1_w8a8", "maxInputTokenLen": 2048}

PAGE = [
    Case(
        name="the fragment",
        text=PAGE_JSON,
        result=PAGE_RESULT,
        notes=["documented-example", "fragment"],
        options=PAGE_OPTIONS,
    ),
    Case(
        name="the page around it",
        text=PAGE_TEXT,
        result=PAGE_RESULT,
        notes=["documented-example"],
        options=PAGE_OPTIONS,
    ),
    Case(
        name="with lines numbered",
        text="".join(f"{number:2d} {line}\n" for number, line in enumerate(PAGE_JSON.splitlines(), 1)),
        result=PAGE_RESULT,
        notes=["documented-example"],
        options=PAGE_OPTIONS,
    ),
    Case(
        name="with a comma missing",
        text=PAGE_JSON.replace('"tp": 2,', '"tp": 2'),
        result=PAGE_RESULT,
        notes=["missing-comma", "documented-example"],
    ),
]


def model(local: dict[str, object] | None = None, section: dict[str, object] | None = None, **sizes: object) -> str:
    """A ModelConfig of DeepSeek-R1."""
    config: dict[str, object] = {"modelName": "DeepSeek-R1", **sizes}
    inner = {**(section or {}), **({"parallel_options": local} if local else {})}
    if inner:
        config["models"] = {"deepseekv2": inner}
    return json.dumps({"ModelDeployConfig": {"ModelConfig": [config]}})


def whole(config: dict[str, object], server: dict[str, object] | None = None, **backend: object) -> str:
    """A whole config.json."""
    deploy = {"ModelConfig": [{"modelName": "DeepSeek-R1", **config}]}
    document = {"Version": "1.0.0", "BackendConfig": {**backend, "ModelDeployConfig": deploy}}
    return json.dumps({**document, **({"ServerConfig": server} if server else {})})


ROLES = """{
  "deploy_config": {"p_instances_num": 2, "d_instances_num": 1,
                    "single_p_instance_pod_num": 2, "single_d_instance_pod_num": 4},
  "mindie_server_prefill_config": {
    "ServerConfig": {"distDPServerEnabled": false},
    "BackendConfig": {"ModelDeployConfig": {"ModelConfig": [
      {"modelName": "DeepSeek-R1", "worldSize": 8, "tp": 8, "dp": 2, "moe_ep": 4, "moe_tp": 4}
    ]}}
  },
  "mindie_server_decode_config": {
    ...
    "ServerConfig": {"distDPServerEnabled": true},   // one server for each rank
    "BackendConfig": {"npuDeviceIds": [[0]], "ModelDeployConfig": {"ModelConfig": [
      {"modelName": "DeepSeek-R1", "worldSize": 1, "tp": 1, "dp": 64, "moe_ep": 64, "moe_tp": 1,
       "models": {"deepseekv2": {"ep_level": 2, "parallel_options": {"lm_head_local_tp": 16, "o_proj_local_tp": 2}}}}
    ]}}
  }
}
"""

MEANINGS = [
    Case(name="tp is the world", text=model(worldSize=8), result="world 8 | tp 8 | experts 8x1 slots 256", quiet=True),
    Case(name="tp alone", text=model(worldSize=8, tp=8), result="world 8 | tp 8 | experts 8x1 slots 256", quiet=True),
    Case(
        name="dp and tp",
        text=model(worldSize=8, tp=4, dp=2, moe_tp=8),
        result="world 8 | tp 4 dp 2 | experts 8x1 slots 256",
        quiet=True,
    ),
    Case(
        name="dp alone", text=model(worldSize=8, dp=2, moe_tp=8), result="world 8 | tp 4 dp 2 | experts 8x1 slots 256"
    ),
    Case(
        name="the page on data parallelism",
        text=model(worldSize=8, tp=1, dp=8, cp=1, sp=1),
        result="world 8 | tp 1 dp 8 | experts 8x1 slots 256",
        notes=["default"],
    ),
    Case(
        name="the page on context parallelism",
        text=model(worldSize=16, dp=1, cp=2, sp=8, tp=8, moe_ep=16, moe_tp=1),
        result="world 16 | tp 8 cp 2 kv 8 | experts 1x16 slots 256",
        quiet=True,
    ),
    Case(
        name="the page on sequence parallelism",
        text=model(worldSize=16, dp=2, sp=8, tp=8, moe_ep=16, moe_tp=1),
        result="world 16 | tp 8 dp 2 kv 8 | experts 1x16 slots 256",
        quiet=True,
    ),
    Case(
        name="the page on expert parallelism",
        text=model(
            section={"ep_level": 2, "alltoall_ep_buffer_scale_factors": [[1048576, 1.32], [0, 8.0]]},
            worldSize=8,
            moe_ep=8,
        ),
        result="world 8 | tp 8 | experts 1x8 slots 256 dispatch all_to_all",
        quiet=True,
    ),
    Case(
        name="expert parallelism by all-gather",
        text=model(
            section={"ep_level": 1, "enable_init_routing_cutoff": True, "topk_scaling_factor": 0.25},
            worldSize=8,
            moe_ep=8,
        ),
        result="world 8 | tp 8 | experts 1x8 slots 256 dispatch all_gather",
        quiet=True,
    ),
    Case(
        name="moe_tp and moe_ep",
        text=model(worldSize=16, tp=8, dp=2, moe_tp=4, moe_ep=4),
        result="world 16 | tp 8 dp 2 | experts 4x4 slots 256",
    ),
    Case(
        name="-1 is off",
        text=model(worldSize=8, tp=8, dp=-1, moe_tp=-1, moe_ep=8),
        result="world 8 | tp 8 | experts 1x8 slots 256",
        notes=["version"],
    ),
    Case(name="pp", text=model(worldSize=16, tp=8, pp=2), result="world 16 stages 2 | tp 8 | experts 8x1 slots 256"),
    Case(
        name="lm_head and o_proj inside the node",
        text=model({"lm_head_local_tp": 8, "o_proj_local_tp": 2}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="world 8 | tp 1 dp 8 | o_proj 2 lm_head 8 | experts 1x8 slots 256",
        quiet=True,
    ),
    Case(
        name="1 is off too",
        text=model({"lm_head_local_tp": 1, "o_proj_local_tp": 1}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
    ),
    Case(
        name="lm_head with tp",
        text=model({"lm_head_local_tp": 8}, worldSize=8, tp=2, dp=4, moe_ep=8),
        result="world 8 | tp 2 dp 4 | lm_head 8 | experts 1x8 slots 256",
        notes=["advised-against"],
    ),
    Case(
        name="the dense MLP",
        text=model({"dense_mlp_local_tp": 4}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="world 8 | tp 1 dp 8 | dense 4 | experts 1x8 slots 256",
    ),
    Case(
        name="outside parallel_options",
        text=model(section={"lm_head_local_tp": 8, "o_proj_local_tp": 2}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="world 8 | tp 1 dp 8 | o_proj 2 lm_head 8 | experts 1x8 slots 256",
        notes=["misplaced"],
    ),
    Case(
        name="another model has no local sizes",
        text=model({"lm_head_local_tp": 8}, worldSize=8, tp=1, dp=8, moe_ep=8).replace(
            "DeepSeek-R1", "Qwen3-235B-A22B"
        ),
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 128",
        notes=["ignored"],
    ),
    Case(
        name="a dense model",
        text='{"ModelConfig": [{"modelName": "llama_65b", "worldSize": 4, "npuMemSize": 20}]}',
        result="world 4 | tp 4",
        options={"kv_cache_memory": 20 << 30},
        quiet=True,
    ),
    Case(
        name="redundant experts",
        text=model(section={"eplb": {"level": 1, "num_redundant_experts": 32}}, worldSize=16, tp=1, dp=16, moe_ep=16),
        result="world 16 | tp 1 dp 16 | experts 1x16 slots 288",
    ),
    Case(
        name="redundant experts, dynamic",
        text=model(section={"eplb": {"level": 2, "num_redundant_experts": 16}}, worldSize=16, tp=1, dp=16, moe_ep=16),
        result="world 16 | tp 1 dp 16 | experts 1x16 slots 272 balance global interval 1000",
    ),
    Case(
        name="redundant experts, off",
        text=model(section={"eplb": {"level": 0, "num_redundant_experts": 16}}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
        notes=["ignored"],
    ),
    Case(
        name="a whole file",
        text=whole(
            {"worldSize": 4},
            {"ipAddress": "127.0.0.1", "port": 1025},
            npuDeviceIds=[[0, 1, 2, 3]],
            ScheduleConfig={"maxBatchSize": 200, "cacheBlockSize": 128},
        ),
        result="world 4 | tp 4 | experts 4x1 slots 256",
        options={"host": "127.0.0.1", "port": 1025, "max_num_seqs": 200, "block_size": 128},
        quiet=True,
    ),
    Case(
        name="instances",
        text=whole({"worldSize": 2}, modelInstanceNumber=2, npuDeviceIds=[[0, 1], [2, 3]]),
        result="world 4 replicas 2 | tp 2 | experts 2x1 slots 256",
    ),
    Case(
        name="two nodes",
        text=whole(
            {"worldSize": 8, "tp": 8, "dp": 2, "moe_tp": 4, "moe_ep": 4},
            multiNodesInferEnabled=True,
            npuDeviceIds=[list(range(8))],
        ),
        result="world 16 nodes 2 | tp 8 dp 2 | experts 4x4 slots 256",
        notes=["approximation"],
    ),
    Case(
        name="nodes that only the rank table knows",
        text=whole({"worldSize": 8}, multiNodesInferEnabled=True, npuDeviceIds=[list(range(8))]),
        result="world ? nodes ? | tp ? | experts ?x1 slots 256",
        notes=["open"],
    ),
    Case(
        name="the world of a rank table, given",
        text=whole({"worldSize": 8}, multiNodesInferEnabled=True, npuDeviceIds=[list(range(8))]),
        settings={"worldSize": "16"},
        result="world 16 nodes 2 | tp 16 | experts 16x1 slots 256",
    ),
    Case(
        name="two roles",
        text=ROLES,
        result=[
            "world 32 nodes 4 replicas 2 | tp 8 dp 2 | experts 4x4 slots 256",
            "world 64 nodes 4 | tp 1 dp 64 | o_proj 2 lm_head 16 | experts 1x64 slots 256 dispatch all_to_all",
        ],
        notes=["approximation", "elided"],
    ),
    Case(
        name="cp of the torch backend",
        text=model(worldSize=32, backendType="torch", dp=1, cp=32, tp=1, sp=1, moe_ep=32, moe_tp=1),
        result="world 32 | tp 1 cp 32 | experts 1x32 slots 256",
        notes=["documented-example"],
    ),
    Case(
        name="two models",
        text='{"ModelConfig": [{"modelName": "llama_65b", "worldSize": 4}, {"modelName": "llama_7b", "worldSize": 2}]}',
        result=["world 4 | tp 4", "world 2 | tp 2"],
    ),
    Case(name="no world", text=model(tp=2, dp=4, moe_ep=8), result="world 8 | tp 2 dp 4 | experts 1x8 slots 256"),
    Case(
        name="nothing to go by",
        text=model(backendType="atb"),
        result="world ? | tp ? | experts ?x1 slots 256",
        notes=["open"],
    ),
    Case(
        name="an open size",
        text='"ModelConfig": [{"modelName": "llama_65b", "worldSize": 8, "tp": ${TP}, "dp": 2}]',
        result="world ? | tp ? dp 2",
        variables=["TP"],
    ),
    Case(
        name="an open size that is given",
        text='"ModelConfig": [{"modelName": "llama_65b", "worldSize": 8, "tp": <tp>, "dp": 2}]',
        settings={"tp": "4"},
        result="world 8 | tp 4 dp 2",
    ),
    Case(
        name="a bare ModelConfig",
        text='{"modelName": "llama_65b", "worldSize": 8, "tp": 4, "dp": 2, "cp": 1}',
        result="world 8 | tp 4 dp 2",
    ),
    Case(
        name="a quoted number",
        text='{"modelName": "llama_65b", "worldSize": "8"}',
        result="world 8 | tp 8",
        notes=["quoted"],
    ),
    Case(
        name="an unknown key",
        text='{"modelName": "llama_65b", "worldSize": 8, "moe_epp": 4}',
        result="world 8 | tp 8",
        notes=["unknown-key"],
    ),
    Case(
        name="an unknown parallel option",
        text=model({"lmhead_local_tp": 4}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
        notes=["unknown-key"],
    ),
    Case(
        name="a heredoc and the start",
        text=f"cat > conf/config.json <<'EOF'\n{model(worldSize=8, moe_ep=8)}\nEOF\n./bin/mindieservice_daemon\n",
        result="world 8 | tp 8 | experts 1x8 slots 256",
    ),
]

REFUSED = [
    Case(
        name="the product of the sizes",
        text=model(worldSize=8, tp=2, dp=2, moe_tp=8),
        result="refused: tp 2 x dp 2 = 4, but worldSize is 8",
        legal=(1, 2, 4, 8),
    ),
    Case(
        name="the product of the experts' sizes",
        text=model(worldSize=8, tp=1, dp=8, moe_tp=4, moe_ep=4),
        result="refused: moe_tp 4 x moe_ep 4 = 16, but worldSize is 8",
        legal=(1, 2, 4, 8),
    ),
    Case(
        name="moe_tp alone does not divide", text=model(worldSize=8, tp=1, dp=8, moe_tp=3), result="refused: moe_tp 3"
    ),
    Case(name="tp does not divide", text=model(worldSize=8, tp=3), result="refused: tp 3"),
    Case(
        name="o_proj with tp",
        text=model({"o_proj_local_tp": 4}, worldSize=8, tp=2, dp=4, moe_ep=8),
        result="refused: o_proj_local_tp 4 cannot be enabled together with tp 2",
        legal=(-1,),
    ),
    Case(
        name="lm_head above a node",
        text=model({"lm_head_local_tp": 16}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="refused: lm_head_local_tp 16: [1, worldSize / nodes] = [1, 8]",
        legal=(-1, 1, 2, 4, 8),
    ),
    Case(
        name="o_proj above a node",
        text=model({"o_proj_local_tp": 16}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="refused: o_proj_local_tp 16",
        legal=(-1, 1, 2, 4, 8),
    ),
    Case(
        name="lm_head does not divide",
        text=model({"lm_head_local_tp": 3}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="refused: lm_head_local_tp 3: does not divide",
    ),
    Case(
        name="lm_head 0",
        text=model({"lm_head_local_tp": 0}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="refused: lm_head_local_tp 0: at least 1",
    ),
    Case(
        name="sp is tp",
        text=model(worldSize=16, tp=8, dp=2, sp=4, moe_ep=16),
        result="refused: sp 4: must be tp 8",
        legal=(1, 8),
    ),
    Case(name="cp needs sp", text=model(worldSize=16, tp=8, cp=2, moe_ep=16), result="refused: cp 2 needs sp = tp = 8"),
    Case(
        name="cp is 1 or 2",
        text=model(worldSize=16, tp=4, cp=4, sp=4, moe_ep=16),
        result="refused: cp 4: the documents allow 1 and 2",
        legal=(1, 2),
    ),
    Case(
        name="cp with dp",
        text=model(worldSize=16, tp=4, cp=2, sp=4, dp=2, moe_ep=16),
        result="refused: cp 2 with dp 2",
        legal=(1,),
    ),
    Case(name="pp with dp", text=model(worldSize=16, tp=4, pp=2, dp=2), result="refused: pp 2 with dp 2", legal=(1,)),
    Case(
        name="ep_level",
        text=model(section={"ep_level": 3}, worldSize=8, moe_ep=8),
        result="refused: ep_level 3",
        legal=(1, 2),
    ),
    Case(
        name="ep_level 2 with moe_tp",
        text=model(section={"ep_level": 2}, worldSize=8, moe_ep=4),
        result="refused: ep_level 2 needs moe_tp 1, not 2",
        legal=(1,),
    ),
    Case(
        name="a small buffer",
        text=model({"hccl_moe_ep_buffer": 64}, worldSize=8),
        result="refused: hccl_moe_ep_buffer 64: at least 512",
    ),
    Case(
        name="devices",
        text=whole({"worldSize": 8}, npuDeviceIds=[[0, 1, 2, 3]]),
        result="refused: worldSize 8, but npuDeviceIds has 4 devices",
        legal=(4,),
    ),
    Case(
        name="the dense MLP above a node",
        text=model({"dense_mlp_local_tp": 16}, worldSize=8, tp=1, dp=8, moe_ep=8),
        result="refused: dense_mlp_local_tp 16",
    ),
    Case(
        name="the dense MLP not above tp",
        text=model({"dense_mlp_local_tp": 2}, worldSize=8, tp=4, dp=2, moe_ep=8),
        result="refused: dense_mlp_local_tp 2: must exceed tp 4",
    ),
    Case(
        name="no number",
        text='{"modelName": "llama_65b", "worldSize": "eight"}',
        result="refused: worldSize eight: not a whole number",
    ),
    Case(
        name="a key twice",
        text='{"modelName": "llama_65b",\n"worldSize": 8,\n"tp": 2,\n"dp": 4,\n"tp": 4}',
        result="refused: tp is given twice as 2 and as 4, in line 3 and in line 5",
        notes=["conflict"],
        legal=(2, 4),
    ),
    Case(
        name="broken",
        text='{"modelName": "llama_65b",\n "worldSize": }',
        result="refused: line 2, column 15: not readable as JSON",
    ),
    Case(
        name="never closed",
        text='{"modelName": "llama_65b",\n "worldSize": 8',
        result="refused: line 1, column 1: not readable as JSON: this { is never closed",
    ),
    Case(
        name="no config",
        text="mindieservice_daemon --config-file",
        result="refused: MindIE is configured by its config.json",
    ),
]


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS, *REFUSED], ids=str)
def test_reads(case: Case) -> None:
    check(case, "mindie")


def test_local_sizes_stay_inside_a_node() -> None:
    (reading,) = registry.read(model({"lm_head_local_tp": 8, "o_proj_local_tp": 2}, worldSize=8, tp=1, dp=8, moe_ep=8))
    assert reading.layout is not None
    assert (reading.layout.lm_head.within, reading.layout.o_proj.within) == ("node", "node")
    (off,) = registry.read(PAGE_JSON)
    assert off.layout is not None and (off.layout.lm_head.within, off.layout.o_proj.within) == (None, None)


def test_places_are_those_of_the_input() -> None:
    (reading,) = registry.read(PAGE_TEXT)
    (note,) = [note for note in reading.notes if note.code == "documented-example"]
    assert note.where is not None
    assert PAGE_TEXT.splitlines()[note.where.line - 1][note.where.column - 1 :].startswith("2,")


def test_roles_have_their_names() -> None:
    assert [reading.role for reading in registry.read(ROLES)] == ["prefill", "decode"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"attention.tp": 2, "embedding.tp": 1}, "embedding.tp 1 cannot be said; the engine will have 2"),
        (
            {"attention.tp": 4, "attention.kv_split": 2},
            "the engine would not start with this layout: sp 2: must be tp 4, or 1 for off",
        ),
        ({"attention.dp": 8, "lm_head.tp": 8}, "lm_head.within unset cannot be said; the engine will have node"),
    ],
)
def test_what_cannot_be_said_is_a_note(given: dict[str, object], text: str) -> None:
    written = registry.write(resolve(given), "mindie", {})
    assert text in [note.message for note in written.notes]


def test_options_go_under_the_engines_keys() -> None:
    options = {"model": "/models/DeepSeek-R1", "max_num_seqs": 32, "max_model_len": 4096, "port": 9000, "strange": 3}
    written = registry.write(resolve({"attention.tp": 8}), "mindie", options)
    document = json.loads(written.text)
    backend = document["BackendConfig"]
    assert (document["ServerConfig"], backend["ScheduleConfig"]) == ({"port": 9000}, {"maxBatchSize": 32})
    assert backend["ModelDeployConfig"]["maxSeqLen"] == 4096
    assert backend["ModelDeployConfig"]["ModelConfig"][0]["modelName"] == "DeepSeek-R1"
    assert [note.message for note in written.notes] == ["option strange 3 has no key in this engine's file"]


@pytest.mark.parametrize("case", [*PAGE, *MEANINGS], ids=str)
def test_what_was_read_can_be_written(case: Case) -> None:
    for reading in registry.read(case.text, None, Context(settings=case.settings, experts=case.experts)):
        if reading.layout is not None:
            written = registry.write(
                reading.layout, "mindie", {"num_experts": reading.experts or 0, "model": "DeepSeek-R1"}
            )
            assert [note.message for note in written.notes] == []
