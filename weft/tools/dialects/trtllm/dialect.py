"""TensorRT-LLM: its commands and YAML files read into layouts, and a YAML file written from one.

A file is one engine's options, a load balancer alone, or a disaggregated deployment with engines of two roles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from weft.parallel.layout import Layout
from weft.tools.dialects.base import MENTIONED, Context, Diagnostic, Dialect, Document, Draft, Reading, Word, Written
from weft.tools.dialects.families import experts_of
from weft.tools.dialects.flags import Arguments, parse
from weft.tools.dialects.reading import known_share, take_options
from weft.tools.dialects.sizes import Size, Sizes
from weft.tools.dialects.sources.documents.documents import trees
from weft.tools.dialects.sources.documents.tree import Node, Tree, variables_in
from weft.tools.dialects.stated import Stated, Values, named_file, report_repeated, report_unknown
from weft.tools.dialects.trtllm.eplb import KEYS as EPLB_KEYS
from weft.tools.dialects.trtllm.eplb import Balancer, balancer_of
from weft.tools.dialects.trtllm.flags import KEYS, OWN_KEYS, RENAMED, ROLE_KEYS, SIZES, TABLE
from weft.tools.dialects.trtllm.roles import Section, sections
from weft.tools.dialects.trtllm.sizes import derive_sizes
from weft.tools.dialects.trtllm.write import yaml_of
from weft.tools.dialects.writing import checked, context_for

_SUBCOMMANDS = {
    *("serve", "disaggregated", "disaggregated_mpi_worker", "mm_embedding_serve", "grpc"),
    *("throughput", "latency", "build", "prepare-dataset"),
}
_ALIASES = tuple(alias for aliases in SIZES.values() for alias in aliases)
_REPEATED = (*SIZES, *_ALIASES, *EPLB_KEYS, "pp_partition", "moe_config")
_OWN_FLAGS = tuple(name for flag in TABLE.flags for name in flag.names if name.startswith("--") and "_" in name)
_ROLE = re.compile(r"(?i)(?<![a-z])(?:(ctx|context|prefill)|(gen|generation|decode))(?![a-z])")
Role = Literal["", "prefill", "decode"]


class TensorRTLLM:
    """trtllm-serve, trtllm-bench, their YAML files, and programs that start them."""

    name = "trtllm"
    title = "TensorRT-LLM"
    programs = (
        ("-m", r"tensorrt_llm\.commands\.(?:serve|bench)|dynamo\.trtllm"),
        (r"(?:.*/)?trtllm-(?:serve|bench)",),
        (r"(?:.*/)?(?:quickstart_advanced|convert_checkpoint|quantization/quantize)\.py",),
    )

    def recognizes(self, text: str) -> float:
        """Files by keys that are TensorRT-LLM's own; arguments by its flags."""
        keys = set(re.findall(r"(?m)^[ \t]*(?:-[ \t]+)?[\"']?([a-z]\w*)[\"']?[ \t]*:", text))
        if keys & set(OWN_KEYS):
            return 0.97
        if re.search(r"trtllm|tensorrt[-_ ]?llm", text, re.IGNORECASE):
            return MENTIONED
        if keys & set(EPLB_KEYS):
            return 0.7
        if keys & set(SIZES) or len(keys & set(ROLE_KEYS)) > 1:
            return 0.5
        return known_share(text, TABLE, _OWN_FLAGS) if any(flag in text for flag in _OWN_FLAGS) else 0.0

    def read(self, document: Document, context: Context) -> list[Reading]:
        """One engine per variant of a file; two for a disaggregated deployment."""
        if document.kind == "command":
            return _command_readings(self.name, document, context)
        found = [_File(self.name, document, context, tree) for tree in trees(document.text, document.line)]
        return [reading for file in found for reading in file.readings()]

    def write(self, layout: Layout, options: Mapping[str, object], source: str = "") -> Written:
        """A YAML file for `trtllm-serve MODEL --config FILE`."""
        text, notes = yaml_of(layout, options)
        back = self.read(Document(kind="file", text=text, dialect=self.name), context_for(layout, options))
        return checked(layout, text, back, notes)


def _command_readings(name: str, document: Document, context: Context) -> list[Reading]:
    """Of a command and the file that it names."""
    draft = Draft(name, document, context)
    arguments, subcommand = _arguments(document, draft)
    path = arguments.text("config_file")
    file = named_file(document, context, path) if path else None
    if file is not None:
        found = [_File(name, document, context, tree, True) for tree in trees(file.text, file.line)]
        return [reading for each in found for reading in each.readings()]
    if path:
        message = f"the file {path} is not in the text; its values are unknown"
        draft.note("warning", "config-file", message, arguments.where("config_file"))
        if subcommand.startswith("disaggregated"):
            return [draft.finish(_open_sizes(None))]
    return [_Engine(draft, arguments, None).reading(_role(arguments))]


class _File:
    """One tree of a file; `named`: the document is the command that names it, and its flags count too."""

    def __init__(self, name: str, document: Document, context: Context, tree: Tree, named: bool = False) -> None:
        self.name, self.document, self.context = name, document, context
        self.tree, self.named = tree, named

    def start(self) -> tuple[Draft, Arguments | None]:
        """A draft for one reading, and the flags beside the file."""
        draft = Draft(self.name, self.document, self.context)
        draft.notes += self.tree.notes
        return draft, _arguments(self.document, draft)[0] if self.named else None

    def readings(self) -> list[Reading]:
        tree, root = self.tree, self.tree.root
        draft, arguments = self.start()
        if tree.problem is not None:
            draft.refuse(f"{tree.problem.where}: {tree.problem.message}", (), tree.problem.where)
            return [draft.finish(None)]
        if root is None and arguments is not None:
            return [_Engine(draft, arguments, None).reading(_role(arguments))]
        if root is None or root.entries is None:
            draft.refuse("a mapping of names to values is wanted", (), root.where if root else None)
            return [draft.finish(None)]
        if root.entries and root.keys() <= set(EPLB_KEYS):
            return [self._balancer(root)]
        if found := sections(root):
            return self._servers(found)
        return [_Engine(draft, arguments, _unwrapped(root)).reading(_role(arguments), tree.name)]

    def _servers(self, found: list[Section]) -> list[Reading]:
        """Without a side that has no instance, where the other has some."""
        some = [section for section in found if section.count != 0]
        kept = some if some and len(some) < len(found) else found
        left = [f"{section.key} has no instance: left out" for section in found if section not in kept]
        notes = [Diagnostic("info", "no-instance", message) for message in left]
        return [self._server(section).noted(*notes) for section in kept]

    def _balancer(self, root: Node) -> Reading:
        """A load balancer alone says nothing about sizes but the slots."""
        draft, _ = self.start()
        report_repeated(draft, root, EPLB_KEYS)
        balancer = Balancer(draft, root)
        _, experts = experts_of(draft.context.model, "a load balancer", draft)
        sizes = _open_sizes(1)
        sizes.moe, sizes.num_experts = True, experts
        sizes.expert_tp = sizes.expert_ep = sizes.shared = None
        balancer.apply(sizes, attention_dp=True)
        draft.note("info", "open", "this is the load balancer alone; the engine's own file says its sizes", root.where)
        return draft.finish(sizes)

    def _server(self, section: Section) -> Reading:
        """An engine of a disaggregated deployment; what stands around its section holds for both roles."""
        draft, _ = self.start()
        node, role = section.node, section.role
        if node.entries is None:
            draft.refuse(f"{section.key}: a mapping of names to values is wanted", (), section.where)
            return draft.finish(None, role=role)
        if section.outside:
            others = ", ".join(section.outside)
            draft.note("info", "job", f"{others}: of the job, not of an engine; only its model is read", section.where)
        engine = _Engine(draft, None, Node(node.where, entries={**(section.shared.entries or {}), **node.entries}))
        count = engine.instances(section)
        stated = [name for name in SIZES if name in engine.values]
        if not stated and node.get("urls") is not None:
            message = "the servers are started by commands of their own, which say their sizes"
            draft.note("info", "open", message, node.where)
            return draft.finish(_open_sizes(count), role=role)
        return engine.reading(role, replicas=count)


class _Engine:
    """Flags and keys of one engine."""

    def __init__(self, draft: Draft, arguments: Arguments | None, root: Node | None) -> None:
        self.draft, self.root = draft, root
        self.values = Values(draft)
        self.moe_config = False
        if arguments is not None:
            self._flags(arguments)
        if root is not None:
            self._keys(root)
        if "model" not in draft.options and draft.context.model:
            draft.options["model"] = draft.context.model
        if "model" not in draft.options and "model_path" in draft.options:
            draft.options["model"] = draft.options["model_path"]

    def _flags(self, arguments: Arguments) -> None:
        take_options(arguments, self.draft, {})
        self.draft.options.pop("config_file", None)
        for dest, argument in arguments.given.items():
            if argument.flag.size:
                self.values.add(dest, Stated(argument.name, argument.value, argument.where, argument.variables))

    def _keys(self, root: Node) -> None:
        report_repeated(self.draft, root, _REPEATED)
        for name, aliases in SIZES.items():
            for key in (*aliases, name):
                self.values.take(root, name, key)
        self.values.take(root, "cp_type", "cp_config", "cp_type")
        partition = root.get("pp_partition")
        if partition is not None:
            self.values.add("pp_partition", Stated("pp_partition", partition.plain(), partition.where))
        self.moe_config = bool(root.get("moe_config"))
        for key, entry in (root.entries or {}).items():
            if key not in KEYS and key not in ("context_servers", "generation_servers"):
                report_unknown(self.draft, entry, "", KEYS)
            elif key not in _REPEATED or key == "moe_config":
                self._options(key, entry.node)

    def _options(self, key: str, node: Node) -> None:
        for name, leaf in node.leaves(key + "."):
            if name.startswith("moe_config.load_balancer") or name == "cp_config.cp_type":
                continue
            option = RENAMED.get(name, name)
            value = leaf.plain()
            if option == "model" and "model" in self.draft.options:
                continue
            before = self.draft.options.get(option)
            if before is not None and before != value:
                message = f"{name}: the file's {value} wins over {before} of the command"
                self.draft.note("warning", "conflict", message, leaf.where)
            self.draft.options[option] = value
            if isinstance(value, str) and re.search(r"[$<]\{?\w", value) and option != "model":
                names = ", ".join(variables_in(value))
                self.draft.note("info", "open-option", f"{name} depends on {names}", leaf.where)

    def instances(self, section: Section) -> Size:
        """Servers of a role; they are copies of the engine."""
        stated = section.instances
        if stated is not None:
            name = f"num_{'ctx' if section.role == 'prefill' else 'gen'}_servers"
            self.values.add("num_instances", Stated(name, stated.scalar, stated.where, variables_in(stated.scalar)))
        elif self.root is not None:
            self.values.take(self.root, "num_instances", "num_instances")
        for option in ("num_instances", "urls"):
            self.draft.options.pop(option, None)
        return self.values.number("num_instances")

    def reading(self, role: Role, name: str = "", replicas: Size = 1) -> Reading:
        load_balancer = self.root.get("moe_config", "load_balancer") if self.root else None
        if load_balancer is None and self.root is not None:
            load_balancer = self.root.get("moe_load_balancer")
        balancer = balancer_of(self.draft, load_balancer)
        sizes = derive_sizes(self.values, self.draft, balancer, self.moe_config, replicas)
        return self.draft.finish(sizes, name=name, role=role)


def _unwrapped(root: Node) -> Node:
    """The engine's keys where all of them stand under one key of the user's own (llm_args: ...)."""
    inner = [entry.node for entry in (root.entries or {}).values() if entry.node.keys() & set(SIZES)]
    return inner[0] if len(inner) == 1 and not root.keys() & set(KEYS) else root


def _open_sizes(replicas: Size) -> Sizes:
    """Sizes that the text does not say."""
    sizes = Sizes(nodes=None, replicas=replicas, stages=None, tp=None, dp=None, cp=None, kv_split=None)
    sizes.o_proj = sizes.dense = sizes.embedding = sizes.lm_head = None
    return sizes


def _arguments(document: Document, draft: Draft) -> tuple[Arguments, str]:
    """The flags of a command, its model among the draft's options, and its subcommand."""
    arguments = parse(_spelled(document), TABLE, draft)
    words = list(arguments.positional)
    subcommand = words.pop(0).text if words and words[0].text in _SUBCOMMANDS else ""
    if words and "model" not in arguments and not subcommand.startswith("disaggregated"):
        draft.options["model"] = words.pop(0).text
    for word in words:
        if word.text not in _SUBCOMMANDS:
            draft.note("warning", "unknown-word", f"{word.text!r} belongs to no flag: ignored", word.where)
    return arguments, subcommand


def _spelled(document: Document) -> list[Word]:
    """The words with -m as the model where the command is the benchmark's, in which it is that."""
    if not document.program or not re.search(r"trtllm-bench$|commands\.bench$", document.program[-1].text):
        return list(document.words)
    return [replace(word, text="--model") if word.text == "-m" else word for word in document.words]


def _role(arguments: Arguments | None) -> Role:
    """The role that --server_role says, or the name of the config file."""
    for dest in ("server_role", "disaggregation_mode", "config_file"):
        text = arguments.text(dest) if arguments is not None else ""
        found = _ROLE.search(text.replace("_", " ").replace("-", " "))
        if found:
            return "prefill" if found[1] else "decode"
    return ""


DIALECT: Dialect = TensorRTLLM()
