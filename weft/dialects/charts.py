"""Values of charts, jobs and services that state an engine's sizes in words of their own, as the engine's command.

One function for each shape of file; what a file says about its cluster is left to it. Knows no size's meaning.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from weft.dialects.base import Document, Note, Where, Word
from weft.dialects.documents import trees
from weft.dialects.surroundings import copies_note
from weft.dialects.tree import Node, variables_in

_LOOKS = re.compile(
    r"(?m)^[ \t]*(?:-[ \t]+)?(?:servingEngineSpec|engine_kwargs|workerSpec|modelFormat|parallelism|deployment"
    r"|(?:sglang|vllm)_config):"
)
_RUNTIMES = ("huggingface", "vllm")
_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python", "-m", "sglang.launch_server"),
    "trtllm": ("trtllm-serve",),
}
_SHORT_SIZES: Mapping[str, Mapping[str, str]] = {
    "vllm": {name: f"--{word}-parallel-size" for name, word in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data"))},
    "sglang": {name: f"--{name}-size" for name in ("tp", "pp", "dp", "ep")},
    "trtllm": {name: f"--{name}_size" for name in ("tp", "pp", "ep")},
}
_ROLES = {"kv_producer": "prefill", "kv_consumer": "decode"}


@dataclass
class _Command:
    """Words of one engine, gathered from a file's values."""

    name: str
    where: Where
    dialect: str = "vllm"
    nodes: int | None = None
    words: list[Word] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def flag(self, name: str, node: Node | None) -> None:
        """A flag with the value of a node, if there is one."""
        if node is None or node.scalar is None and node.entries is None and node.items is None:
            return
        if isinstance(node.scalar, bool):
            self.words.append(Word(name if node.scalar else "--no-" + name[2:], node.where))
            return
        self.words.append(Word(name, node.where))
        if node.entries is not None:
            self.words.append(Word(json.dumps(node.plain(), default=str), node.where, quoted=True))
        for item in node.items if node.items is not None else () if node.entries is not None else (node,):
            self.words.append(Word(str(item.scalar), item.where, variables_in(item.scalar), quoted=True))

    def arguments(self, node: Node | None) -> None:
        """Words of a list, or of one line of shell."""
        if node is None:
            return
        if node.items is None:
            words = _split(str(node.scalar)) if isinstance(node.scalar, str) else []
            self.words += [Word(word, node.where, variables_in(word)) for word in words]
            return
        for item in node.items:
            text = str(item.scalar)
            parts = _split(text) if re.match(r"--?[\w-]+[ \t]", text) else [text]
            for part in parts:
                self.words.append(Word(part, item.where, variables_in(part), quoted=not part.startswith("-")))

    def copies(self, node: Node | None) -> None:
        """So many engines of this kind, which do not know of each other."""
        count = node.scalar if node is not None else None
        if node is not None and type(count) is int and count > 1:
            self.notes.append(copies_note(count, node.where))

    def document(self, text: str) -> Document:
        program = tuple(Word(word, self.where) for word in _PROGRAMS[self.dialect])
        return Document(
            kind="command",
            text=text,
            name=self.name,
            line=self.where.line,
            program=program,
            words=tuple(self.words),
            notes=tuple(self.notes),
            dialect=self.dialect,
            nodes=self.nodes,
        )


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


def _stack(root: Node) -> Iterator[_Command]:
    """A chart whose servingEngineSpec lists models, each with a vllmConfig."""
    models = root.get("servingEngineSpec", "modelSpec")
    for model in models.items or () if models is not None else ():
        command = _Command(_text(model.get("name")), model.where)
        command.flag("--model", model.get("modelURL"))
        config = model.get("vllmConfig")
        for key, entry in (config.entries or {}).items() if config is not None else ():
            if key == "extraArgs":
                command.arguments(entry.node)
            elif not re.fullmatch(r"v[01]", key):
                command.flag("--" + re.sub(r"(?<!^)([A-Z])", r"-\1", key).lower(), entry.node)
        role = _text(model.get("lmcacheConfig", "kvRole"))
        if role in _ROLES:
            command.name = _ROLES[role]
        command.copies(model.get("replicaCount"))
        yield command


def _inference_service(root: Node) -> Iterator[_Command]:
    """An InferenceService whose runtime is vLLM; workerSpec has the sizes of one over several nodes."""
    predictor = root.get("spec", "predictor")
    model = predictor.get("model") if predictor is not None else None
    if predictor is None or model is None or _text(model.get("modelFormat", "name")).lower() not in _RUNTIMES:
        return
    command = _Command(_text(root.get("metadata", "name")), model.where)
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


def _deployment(root: Node) -> Iterator[_Command]:
    """A job whose `deployment` names an engine as its type and the sizes by the engine's own names."""
    section = root.get("deployment")
    dialect = _text(section.get("type")) if section is not None else ""
    if section is None or section.entries is None or dialect not in _PROGRAMS:
        return
    command = _Command("", section.where, dialect)
    model = next((node for key in ("hf_model_handle", "checkpoint_path", "model") if (node := section.get(key))), None)
    name = {"vllm": "--model", "sglang": "--model-path", "trtllm": "--model"}[dialect]
    command.flag(name, model if model is not None and model.scalar else section.get("checkpoint_path"))
    for key, entry in section.entries.items():
        if re.fullmatch(r"\w+_parallel_size|port|gpu_memory_utilization|served_model_name", key):
            command.flag("--" + key.replace("_", "-"), entry.node)
    command.arguments(section.get("extra_args"))
    yield command


def _keywords(root: Node) -> Iterator[_Command]:
    """Mappings of engine_kwargs, wherever they stand, with the model beside them."""
    for node in _walk(root):
        arguments = node.get("engine_kwargs")
        if arguments is None or arguments.entries is None:
            continue
        loading = node.get("model_loading_config") or node
        command = _Command(_text(loading.get("model_id")), node.where)
        command.flag("--model", loading.get("model_source") or loading.get("model_id"))
        for key, entry in arguments.entries.items():
            command.flag("--" + key.replace("_", "-"), entry.node)
        yield command


def _model_service(root: Node) -> Iterator[_Command]:
    """Sections decode and prefill with `parallelism` and the arguments of their containers."""
    for role in ("prefill", "decode"):
        section = root.get(role)
        parallelism = section.get("parallelism") if section is not None else None
        if section is None or parallelism is None or section.plain_value("create") is False:
            continue
        command = _Command(role, section.where)
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


def _recipe(root: Node) -> Iterator[_Command]:
    """A job's `sglang_config` with the flags of prefill, decode or aggregated workers, `resources` with their nodes."""
    for dialect in ("sglang", "vllm"):
        for role in ("prefill", "decode", "aggregated"):
            section = root.get("backend", f"{dialect}_config", role)
            if section is None or section.entries is None:
                continue
            command = _Command("" if role == "aggregated" else role, section.where, dialect)
            for key, entry in section.entries.items():
                command.flag("--" + key.replace("_", "-"), entry.node)
            prefix = "agg" if role == "aggregated" else role
            nodes, workers = (root.plain_value("resources", f"{prefix}_{name}") for name in ("nodes", "workers"))
            if type(nodes) is int and type(workers) is int and workers > 0 and nodes % workers == 0 and nodes > 0:
                command.nodes = nodes // workers
            command.copies(root.get("resources", f"{prefix}_workers"))
            yield command


def _template(root: Node) -> Iterator[_Command]:
    """Templates of deployments: `engine` with its type, `parallelism` in short names, `engine_args` in the engine's."""
    for node in _walk(root):
        sizes, dialect = node.get("parallelism"), _text(node.get("engine", "type"))
        if sizes is None or sizes.entries is None or dialect not in _PROGRAMS:
            continue
        command = _Command(_text(node.get("name")), node.where, dialect)
        command.flag("--model", node.get("model_source", "uri") or node.get("model"))
        flags = _SHORT_SIZES[dialect]
        for key, entry in sizes.entries.items():
            command.flag(flags.get(key, f"--{key}"), entry.node)
        arguments = node.get("engine_args")
        for key, entry in (arguments.entries or {}).items() if arguments is not None else ():
            command.flag("--" + key.replace("_", "-"), entry.node)
        command.arguments(node.get("engine", "serve_args"))
        yield command


_SHAPES: tuple[Callable[[Node], Iterator[_Command]], ...] = (
    _stack,
    _inference_service,
    _deployment,
    _keywords,
    _model_service,
    _recipe,
    _template,
)


def _walk(node: Node) -> Iterator[Node]:
    if node.entries is not None:
        yield node
        for entry in node.entries.values():
            yield from _walk(entry.node)
    for item in node.items or ():
        yield from _walk(item)


def _text(node: Node | None) -> str:
    return str(node.scalar) if node is not None and isinstance(node.scalar, str) else ""


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
