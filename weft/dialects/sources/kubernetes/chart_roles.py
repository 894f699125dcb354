"""Services and jobs that give sizes to roles or by short names: prefill and decode, templates, recipes.

One function for each shape of file; what a file says about its cluster is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from weft.dialects.sources.documents.tree import Node
from weft.dialects.sources.kubernetes.chart_commands import PROGRAMS, ChartCommand, text_of, walk

_SHORT_SIZES: Mapping[str, Mapping[str, str]] = {
    "vllm": {name: f"--{word}-parallel-size" for name, word in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data"))},
    "sglang": {name: f"--{name}-size" for name in ("tp", "pp", "dp", "ep")},
    "trtllm": {name: f"--{name}_size" for name in ("tp", "pp", "ep")},
}
_SERVICE_SIZES = {
    "tensor": "--tensor-parallel-size",
    "pipeline": "--pipeline-parallel-size",
    "data": "--data-parallel-size",
    "dataLocal": "--data-parallel-size-local",
    "expert": "--enable-expert-parallel",
}


def model_service(root: Node) -> Iterator[ChartCommand]:
    """Sections decode and prefill with `parallelism` and the arguments of their containers."""
    for role in ("prefill", "decode"):
        section = root.get(role)
        parallelism = section.get("parallelism") if section is not None else None
        if section is None or parallelism is None or section.plain_value("create") is False:
            continue
        command = ChartCommand(role, section.where)
        command.flag("--model", root.get("modelArtifacts", "name") or root.get("modelArtifacts", "uri"))
        command.flag("--tensor-parallel-size", parallelism.get("tensor"))
        command.flag("--data-parallel-size", parallelism.get("data"))
        command.flag("--data-parallel-size-local", parallelism.get("dataLocal"))
        containers = section.get("containers")
        for container in containers.items or () if containers is not None else ():
            command.arguments(container.get("args"))
        workers = parallelism.plain_value("workers")
        command.nodes = workers if type(workers) is int else None
        command.copies(section.get("replicas"))
        yield command


def recipe(root: Node) -> Iterator[ChartCommand]:
    """A job's `sglang_config` with the flags of prefill, decode or aggregated workers, `resources` with their nodes."""
    for dialect in ("sglang", "vllm"):
        for role in ("prefill", "decode", "aggregated"):
            section = root.get("backend", f"{dialect}_config", role)
            if section is None or section.entries is None:
                continue
            command = ChartCommand("" if role == "aggregated" else role, section.where, dialect)
            for key, entry in section.entries.items():
                command.flag("--" + key.replace("_", "-"), entry.node)
            prefix = "agg" if role == "aggregated" else role
            nodes, workers = (root.plain_value("resources", f"{prefix}_{name}") for name in ("nodes", "workers"))
            if type(nodes) is int and type(workers) is int and workers > 0 and nodes % workers == 0 and nodes > 0:
                command.nodes = nodes // workers
            command.copies(root.get("resources", f"{prefix}_workers"))
            yield command


def template(root: Node) -> Iterator[ChartCommand]:
    """Templates of deployments: `engine` with its type, `parallelism` in short names, `engine_args` in the engine's."""
    for node in walk(root):
        sizes, dialect = node.get("parallelism"), text_of(node.get("engine", "type"))
        if sizes is None or sizes.entries is None or dialect not in PROGRAMS:
            continue
        command = ChartCommand(text_of(node.get("name")), node.where, dialect)
        command.flag("--model", node.get("model_source", "uri") or node.get("model"))
        flags = _SHORT_SIZES[dialect]
        for key, entry in sizes.entries.items():
            command.flag(flags.get(key, f"--{key}"), entry.node)
        arguments = node.get("engine_args")
        for key, entry in (arguments.entries or {}).items() if arguments is not None else ():
            command.flag("--" + key.replace("_", "-"), entry.node)
        command.arguments(node.get("engine", "serve_args"))
        yield command


def runtime(root: Node) -> Iterator[ChartCommand]:
    """A VLLMRuntime: model and vllmConfig in a spec, every flag as one word with capitals."""
    spec = root.get("spec")
    config = spec.get("vllmConfig") if spec is not None else None
    if spec is None or config is None or config.entries is None:
        return
    command = ChartCommand(text_of(root.get("metadata", "name")), config.where)
    model = spec.get("model")
    command.flag("--model", model.get("modelURL") if model is not None else None)
    for section in (model, config):
        for key, entry in (section.entries or {}).items() if section is not None else ():
            if key == "extraArgs":
                command.arguments(entry.node)
            elif key not in ("modelURL", "hfTokenSecret", "hfTokenName", "env", "v0", "v1"):
                command.flag("--" + re.sub(r"(?<=[a-z])([A-Z]+)", r"-\1", key).lower(), entry.node)
    command.copies(spec.get("deploymentConfig", "replicas"))
    yield command


def llm_service(root: Node) -> Iterator[ChartCommand]:
    """An LLMInferenceService: its own sizes and those of its prefill, with the arguments of their containers."""
    spec = root.get("spec")
    if spec is None or text_of(root.get("kind")) != "LLMInferenceService":
        return
    prefill = spec.get("prefill")
    for role, section in (("prefill", prefill), ("decode" if prefill is not None else "", spec)):
        if section is None:
            continue
        command = ChartCommand(role or text_of(root.get("metadata", "name")), section.where)
        command.flag("--model", spec.get("model", "name") or spec.get("model", "uri"))
        for key, flag in _SERVICE_SIZES.items():
            command.flag(flag, section.get("parallelism", key))
        containers = section.get("template", "containers")
        for container in containers.items or () if containers is not None else ():
            command.arguments(container.get("args"))
        command.copies(section.get("replicas"))
        yield command
