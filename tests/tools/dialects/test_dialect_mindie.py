"""MindIE: places, roles and what is written; `cases/mindie` holds what is read."""

from __future__ import annotations

import json

import pytest

from tests.support.dialects import case_text
from weft.parallel.layout import resolve
from weft.tools.dialects import registry


def test_local_sizes_stay_inside_a_node() -> None:
    local = {"parallel_options": {"lm_head_local_tp": 8, "o_proj_local_tp": 2}}
    config = {
        "modelName": "DeepSeek-R1",
        "worldSize": 8,
        "tp": 1,
        "dp": 8,
        "moe_ep": 8,
        "models": {"deepseekv2": local},
    }
    (reading,) = registry.read(json.dumps({"ModelDeployConfig": {"ModelConfig": [config]}}))
    assert reading.layout is not None
    assert (reading.layout.lm_head.within, reading.layout.o_proj.within) == ("node", "node")
    (off,) = registry.read(case_text("mindie", "documented", "the fragment"))
    assert off.layout is not None and (off.layout.lm_head.within, off.layout.o_proj.within) == (None, None)


def test_places_are_those_of_the_input() -> None:
    text = case_text("mindie", "documented", "the page around it")
    (reading,) = registry.read(text)
    (note,) = [note for note in reading.notes if note.code == "documented-example"]
    assert note.where is not None
    assert text.splitlines()[note.where.line - 1][note.where.column - 1 :].startswith("2,")


def test_roles_have_their_names() -> None:
    assert [reading.role for reading in registry.read(case_text("mindie", "meanings", "two roles"))] == [
        "prefill",
        "decode",
    ]


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
