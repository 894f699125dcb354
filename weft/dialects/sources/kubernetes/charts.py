"""Values of charts, jobs and services that state an engine's sizes in words of their own, as the engine's command.

One function for each shape of file; what a file says about its cluster is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from weft.dialects.base import Document, Word
from weft.dialects.sources.documents.documents import trees
from weft.dialects.sources.documents.tree import Node
from weft.dialects.sources.kubernetes.chart_commands import PROGRAMS, ChartCommand, text_of, walk
from weft.dialects.sources.kubernetes.chart_roles import llm_service, model_service, recipe, runtime, template

_LOOKS = re.compile(
    r"(?m)^[ \t]*(?:-[ \t]+)?(?:servingEngineSpec|engine_kwargs|workerSpec|modelFormat|parallelism|deployment"
    r"|(?:sglang|vllm)_config|vllmConfig):"
)
_RUNTIMES = ("huggingface", "vllm")
_ROLES = {"kv_producer": "prefill", "kv_consumer": "decode"}


def charts(text: str) -> list[Document]:
    """The engines that a file of values describes; empty when it has no known shape."""
    return engines_of(_roots(text, 1), text) if _LOOKS.search(text) else []


def engines_of(roots: Sequence[Node], text: str) -> list[Document]:
    """The engines that trees of values describe, in the first shape that fits any; `text` is the input."""
    for shape in _SHAPES:
        found = [command.document(text) for root in roots for command in shape(root)]
        if found:
            return found
    return []


def _roots(text: str, line: int) -> list[Node]:
    """The documents of a text, and those that its block texts hold."""
    roots = [tree.root for tree in trees(text, line) if tree.root is not None and tree.problem is None]
    held = [
        (scalar, node.where.line + 1)
        for root in roots
        for _, node in root.leaves()
        if isinstance(scalar := node.scalar, str) and "\n" in scalar and _LOOKS.search(scalar)
    ]
    return [*roots, *(root for inner, first in held for root in _roots(inner, first))]


def _stack(root: Node) -> Iterator[ChartCommand]:
    """A chart whose servingEngineSpec lists models, each with a vllmConfig."""
    models = root.get("servingEngineSpec", "modelSpec")
    for model in models.items or () if models is not None else ():
        command = ChartCommand(text_of(model.get("name")), model.where)
        command.flag("--model", model.get("modelURL"))
        config = model.get("vllmConfig")
        for key, entry in (config.entries or {}).items() if config is not None else ():
            if key == "extraArgs":
                command.arguments(entry.node)
            elif not re.fullmatch(r"v[01]", key):
                command.flag("--" + re.sub(r"(?<!^)([A-Z])", r"-\1", key).lower(), entry.node)
        role = text_of(model.get("lmcacheConfig", "kvRole"))
        if role in _ROLES:
            command.name = _ROLES[role]
        command.copies(model.get("replicaCount"))
        yield command


def _inference_service(root: Node) -> Iterator[ChartCommand]:
    """An InferenceService whose runtime is vLLM; workerSpec has the sizes of one over several nodes."""
    predictor = root.get("spec", "predictor")
    model = predictor.get("model") if predictor is not None else None
    if predictor is None or model is None or text_of(model.get("modelFormat", "name")).lower() not in _RUNTIMES:
        return
    command = ChartCommand(text_of(root.get("metadata", "name")), model.where)
    command.arguments(model.get("args"))
    renamed = {"--model_id": "--model", "--model_name": "--served-model-name", "--model_dir": "--model"}
    for at, word in enumerate(command.words):
        name, equals, value = word.text.partition("=")
        if name in renamed:
            command.words[at] = Word(renamed[name] + equals + value, word.where, word.variables)
    if not any(word.text.startswith("--model") for word in command.words):
        command.flag("--model", model.get("storageUri"))
    worker = predictor.get("workerSpec")
    if worker is not None:
        stages = worker.get("pipelineParallelSize")
        command.flag("--tensor-parallel-size", worker.get("tensorParallelSize"))
        command.flag("--pipeline-parallel-size", stages)
        command.nodes = stages.scalar if stages is not None and type(stages.scalar) is int else None
    yield command


def _deployment(root: Node) -> Iterator[ChartCommand]:
    """A job whose `deployment` names an engine as its type and the sizes by the engine's own names."""
    section = root.get("deployment")
    dialect = text_of(section.get("type")) if section is not None else ""
    if section is None or section.entries is None or dialect not in PROGRAMS:
        return
    command = ChartCommand("", section.where, dialect)
    model = next((node for key in ("hf_model_handle", "checkpoint_path", "model") if (node := section.get(key))), None)
    name = {"vllm": "--model", "sglang": "--model-path", "trtllm": "--model"}[dialect]
    command.flag(name, model if model is not None and model.scalar else section.get("checkpoint_path"))
    for key, entry in section.entries.items():
        if re.fullmatch(r"\w+_parallel_size|port|gpu_memory_utilization|served_model_name", key):
            command.flag("--" + key.replace("_", "-"), entry.node)
    command.arguments(section.get("extra_args"))
    yield command


def _keywords(root: Node) -> Iterator[ChartCommand]:
    """Mappings of engine_kwargs, wherever they stand, with the model beside them."""
    for node in walk(root):
        arguments = node.get("engine_kwargs")
        if arguments is None or arguments.entries is None:
            continue
        loading = node.get("model_loading_config") or node
        command = ChartCommand(text_of(loading.get("model_id")), node.where)
        command.flag("--model", loading.get("model_source") or loading.get("model_id"))
        for key, entry in arguments.entries.items():
            command.flag("--" + key.replace("_", "-"), entry.node)
        yield command


_SHAPES: tuple[Callable[[Node], Iterator[ChartCommand]], ...] = (
    _stack,
    _inference_service,
    _deployment,
    _keywords,
    model_service,
    recipe,
    template,
    llm_service,
    runtime,
)
