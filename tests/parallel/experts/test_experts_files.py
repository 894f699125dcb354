"""Files of statistics and placements: round trips, what other programs write, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.expert_worlds import TRACES, trace, trace_file
from weft.base.errors import ConfigError
from weft.parallel.experts import LoadBalancer, SlotShape, even_placement
from weft.parallel.experts.files.formats import to_sglang, to_trtllm, to_weft
from weft.parallel.experts.files.sources import read_any, read_loads, read_placement

SHAPE = SlotShape(256, 288, 32)
PLACEMENT = LoadBalancer(SHAPE).plan(trace(TRACES[0])).placement


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_weft_json_round_trip(tmp_path: Path) -> None:
    plan = LoadBalancer(SHAPE).plan(trace(TRACES[0]))
    document = to_weft(plan, SHAPE, 0.5)
    assert document["schema"] == "weft.experts.balance/1"
    assert {"balance", "phy2log", "logcnt", "moved_share", "seconds"} <= set(document)
    path = write(tmp_path / "plan.json", document)
    for ranks in (None, 32):
        read = read_placement(path, ranks).placement
        assert read is not None and read.ranks == 32
        assert (read.phy2log == PLACEMENT.phy2log).all()
    with pytest.raises(ConfigError, match="ranks 16: the placement has 32"):
        read_placement(path, 16)


def test_sglang_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path / "map.json", to_sglang(PLACEMENT))
    read = read_placement(path, 32).placement
    assert read is not None and (read.phy2log == PLACEMENT.phy2log).all()
    with pytest.raises(ConfigError, match="give --ranks"):
        read_placement(path)


def test_trtllm_round_trip(tmp_path: Path) -> None:
    text = to_trtllm(PLACEMENT, [1, 2, 4, 5, 6], layer_updates_per_iter=2)
    document = yaml.safe_load(text)
    assert (document["num_slots"], document["layer_updates_per_iter"]) == (288, 2)
    assert list(document["initial_global_assignments"]) == [1, 2, 4, 5, 6]
    source = read_placement(write(tmp_path / "moe.yaml", text), 32)
    assert source.missing == {0, 3} and source.placement is not None
    assert (source.placement.phy2log[[1, 2, 4, 5, 6]] == PLACEMENT.phy2log[[1, 2, 4, 5, 6]]).all()
    assert (source.placement.phy2log[0] == even_placement(1, SHAPE).phy2log[0]).all()


def test_a_file_as_others_write_it(tmp_path: Path) -> None:
    text = """
initial_global_assignments:
  3: [0, 1, 2, 3,
      3, 1]
  4:
  - 1
  - 0
  - 3
  - 2
  - 0
  - 1
num_slots: 6
layer_updates_per_iter: 0
"""
    source = read_placement(write(tmp_path / "ep.yml", text), 3)
    assert source.placement is not None and source.placement.experts == 4
    assert source.placement.phy2log[4].tolist() == [1, 0, 3, 2, 0, 1]
    assert source.missing == {0, 1, 2}


def test_statistics_in_every_form(tmp_path: Path) -> None:
    rows = [[1, 2], [3, 4.5]]
    for name, value in (("a", {"logical_count": rows}), ("b", {"loads": rows}), ("c", rows), ("d", [rows, rows])):
        path = write(tmp_path / f"{name}.json", value)
        assert read_loads(path).tolist() == (np.array(rows) * (2 if name == "d" else 1)).tolist()
    packed = tmp_path / "e.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert read_loads(packed).tolist() == rows
    assert read_loads(trace_file(TRACES[0])).shape == (8, 256)


def test_files_are_told_apart(tmp_path: Path) -> None:
    assert read_any(write(tmp_path / "a.json", [[1, 2]])).placement is None
    assert read_any(write(tmp_path / "b.json", to_sglang(PLACEMENT)), 32).loads is None


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[" * 200_000, "not JSON"),
        ("a.yaml", "a: [", "not YAML"),
        ("a.json", '{"a": 1}', "no placement; wanted an object with phy2log"),
        ("a.json", '{"physical_to_logical_map": [[0, 1], [0]]}', "layers of 1 to 2 slots"),
        ("a.json", '{"physical_to_logical_map": [[0, 1.5]]}', "experts are whole numbers"),
        ("a.json", '{"physical_to_logical_map": [[0, true]]}', "experts are whole numbers"),
        ("a.json", '{"physical_to_logical_map": [[0, 99999999999999999999]]}', "beyond 64 bits"),
        ("a.json", '{"physical_to_logical_map": []}', "a list of layers is needed"),
        ("a.json", '{"physical_to_logical_map": [[0, 1, 1]]}', "slots 3: not divisible by 2 ranks"),
        ("a.json", '{"physical_to_logical_map": [[0, 2]]}', "2 experts|3 experts need a slot each"),
        ("a.json", '{"phy2log": [[0, 1]], "ranks": 2}', "experts: missing; legal: a whole number from 1"),
        ("a.yaml", "initial_global_assignments: {0: [0, 1]}\nlayer_updates_per_iter: 0", "num_slots: missing"),
        ("a.yaml", "initial_global_assignments: {0: [0, 1]}\nnum_slots: 2", "layer_updates_per_iter: missing"),
        (
            "a.yaml",
            "num_slots: 4\nlayer_updates_per_iter: 0\ninitial_global_assignments: {0: [0, 1]}",
            "num_slots: 4, but",
        ),
        ("a.yaml", "num_slots: 2\nlayer_updates_per_iter: 0\ninitial_global_assignments: {x: [0]}", "layer 'x'; legal"),
        ("a.yaml", "initial_global_assignments:\n  0: [0, 1]\n  0: [1, 0]\n", "line 3: 0 stands there twice"),
        ("a.yaml", "initial_global_assignments: []\nnum_slots: 2\nlayer_updates_per_iter: 0", "a mapping of layer"),
    ],
)
def test_bad_placements(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_placement(path, 2)
    assert str(caught.value).startswith(str(path))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_loads(tmp_path / "none.json")
    broken = tmp_path / "broken.json.gz"
    broken.write_bytes(gzip.compress(b"[[1, 2]]")[:-6])
    with pytest.raises(ConfigError, match="broken.json.gz"):
        read_loads(broken)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_loads(binary)
    with pytest.raises(ConfigError, match="no statistics; wanted a JSON object with logical_count or loads"):
        read_loads(write(tmp_path / "other.json", {"counts": [[1]]}))
    with pytest.raises(ConfigError, match="other.json: load -1.0 of layer 0, expert 0 is negative"):
        read_loads(write(tmp_path / "other.json", [[-1]]))
