"""Engines inside charts that helm installs: values of files and flags, in helm's order.

Each has the form of a deployment found in public documents; names, paths and numbers are made up.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dialects import check_result, check_shape
from weft.dialects import registry
from weft.dialects.base import Context, Reading
from weft.errors import UsageError

STACK = """servingEngineSpec:
  modelSpec:
  - name: llama
    modelURL: meta-llama/Llama-3.1-70B-Instruct
    replicaCount: 1
    vllmConfig:
      tensorParallelSize: 2
      maxModelLen: 4096
"""
MODEL_SERVICE = """modelArtifacts:
  name: Qwen/Qwen3-235B-A22B
decode:
  parallelism: {tensor: 1, data: 8}
  containers:
  - args: [--enable-expert-parallel]
"""
FILES = {"values.yaml": STACK, "service.yaml": MODEL_SERVICE, "charts/stack/values.yaml": STACK, "big.txt": "16"}
WITH_FILE = f"cat > here.yaml <<EOF\n{STACK}EOF\nhelm upgrade --install stack vllm/vllm-stack -n ai -f here.yaml"
SPEC = "servingEngineSpec.modelSpec[0]"
TP = f"{SPEC}.vllmConfig.tensorParallelSize"
PP = f"{SPEC}.vllmConfig.pipelineParallelSize"
ARGS = f"{SPEC}.vllmConfig.extraArgs"


def read(text: str, files: Mapping[str, str] = FILES) -> list[Reading]:
    return registry.read(text, None, Context(read_file=files.get))


READ = {
    "a file beside": ("helm install s vllm/vllm-stack -f values.yaml", "world 2 | tp 2"),
    "a file that the text writes": (WITH_FILE, "world 2 | tp 2"),
    "a flag over a file": (f"{WITH_FILE} --set {TP}=8", "world 8 | tp 8"),
    "the last flag wins": (f"{WITH_FILE} --set {TP}=8 --set {TP}=4", "world 4 | tp 4"),
    "a file before a flag, wherever it stands": (f"helm install s c --set {TP}=4 -f values.yaml", "world 4 | tp 4"),
    "several in one flag": (f"helm install s c --values=values.yaml --set {TP}=4,{PP}=2", "world 8 stages 2 | tp 4"),
    "a list": (
        f"helm install s c -f values.yaml --set '{ARGS}={{--pipeline-parallel-size,2}}'",
        "world 4 stages 2 | tp 2",
    ),
    "null takes away": (f"helm install s c -f values.yaml --set {TP}=null", "world 1 | tp 1"),
    "a text": (f"helm install s c -f values.yaml --set-string {TP}=4", "world 4 | tp 4"),
    "JSON": (
        f"""helm install s c -f values.yaml --set-json '{SPEC}.vllmConfig={{"tensorParallelSize": 4}}'""",
        "world 4 | tp 4",
    ),
    "a file's text": (f"helm install s c -f values.yaml --set-file {TP}=big.txt", "world 16 | tp 16"),
    "a chart in a folder": ("helm install s charts/stack", "world 2 | tp 2"),
    "a chart without the release's name": ("helm template --generate-name charts/stack", "world 2 | tp 2"),
    "no file at all": (f"helm install s c --set {SPEC}.modelURL=Qwen/Qwen2.5-72B,{TP}=4", "world 4 | tp 4"),
    "another shape": (
        "helm install ms llm-d/modelservice -f service.yaml --set decode.parallelism.data=16",
        "world 16 | tp 1 dp 16 | experts 1x16 slots 128",
    ),
    "flags and words around it": (
        "kubectl create ns ai\nsudo helm --kube-context k -n ai install --version 1.2 s vllm/vllm-stack \\\n"
        "  -f values.yaml --wait --timeout 10m",
        "world 2 | tp 2",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_values_are_read_in_helms_order(name: str) -> None:
    text, result = READ[name]
    (reading,) = read(text)
    check_result(reading, result)
    check_shape(reading)
    lines = text.split("\n")
    for place in (note.where for note in reading.notes if note.where is not None):
        assert place.line <= len(lines) and place.column <= len(lines[place.line - 1]) + 1


def said(reading: Reading) -> dict[str, str]:
    """What is more than plain information, and what is said of the chart, by code."""
    return {note.code: note.message for note in reading.notes if note.level != "info" or note.code.startswith("chart")}


def test_what_is_not_known_is_said() -> None:
    (reading,) = read(f"{WITH_FILE} -f there.yaml --set router.size=2 --set 'a[x=1' --set {SPEC}.replicaCount=3")
    found = said(reading)
    assert found["chart-elsewhere"].startswith("the chart vllm/vllm-stack is not here")
    assert found["file-elsewhere"] == "the values file there.yaml is not here: what it says is not known"
    assert found["chart-value"] == "--set router.size=2: what is read of the chart does not depend on it"
    assert found["unknown-value"] == "--set a[x=1: not read"
    assert any(note.message.startswith("3 copies of this engine") for note in reading.notes)
    (place,) = {note.where for note in reading.notes if note.code == "chart-value"}
    assert place is not None and place.text == "router.size=2"


def test_what_an_engine_depends_on_is_silent() -> None:
    (reading,) = read(f"{WITH_FILE} --set {TP}=4,{SPEC}.modelURL=m/Qwen2.5-7B")
    assert set(said(reading)) == {"chart-elsewhere"} and reading.options["model"] == "m/Qwen2.5-7B"


def test_a_broken_file_is_said_with_its_place() -> None:
    (reading,) = read("helm install s c -f bad.yaml -f values.yaml", FILES | {"bad.yaml": "a: [1\n"})
    (note,) = [note for note in reading.notes if note.code == "syntax"]
    assert note.where is not None and note.where.text == "bad.yaml"


def test_another_chart_beside_an_engine_is_no_matter() -> None:
    (reading,) = read("helm install g grafana/grafana --set persistence.enabled=true\nvllm serve m/Qwen2.5-7B -tp 2")
    check_result(reading, "world 2 | tp 2")


def test_a_chart_without_an_engine_is_refused_with_what_to_give() -> None:
    with pytest.raises(UsageError, match="no value here names an engine.*helm get values RELEASE"):
        read("helm install grafana grafana/grafana --set persistence.enabled=true")


PARTS = st.sampled_from(["a", ".", "[0]", "[", "]", "=", ",", "{", "}", "\\", "1", SPEC, "vllmConfig", "null", " "])
FLAGS = st.sampled_from(["--set", "--set-json", "--set-string", "--set-file", "--set-literal"])


@settings(max_examples=300)
@given(st.lists(PARTS, max_size=30).map("".join), FLAGS)
def test_no_value_breaks_the_reader(value: str, flag: str) -> None:
    for reading in read(f"helm install s c -f values.yaml {flag} '{value}'"):
        check_shape(reading)
