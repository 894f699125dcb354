"""MindIE: its config.json, whole or as the fragments that documents show, read into layouts and written from one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from weft.parallel.layout import Layout
from weft.tools.dialects.base import MENTIONED, Context, Dialect, Document, Draft, Reading, Written
from weft.tools.dialects.mindie.keys import BUFFERS, HOLDERS, KEYS, LOCAL, MODELS, PLACES, PODS, RENAMED, SERVERS, SIZES
from weft.tools.dialects.mindie.modules import OFF
from weft.tools.dialects.mindie.sizes import Deployment, derive_sizes
from weft.tools.dialects.mindie.write import config_of
from weft.tools.dialects.sources.documents.documents import trees
from weft.tools.dialects.sources.documents.tree import Node, Tree
from weft.tools.dialects.stated import Values, report_repeated, report_unknown
from weft.tools.dialects.writing import checked, context_for

_STRONG = re.compile(r"(?i)ModelDeployConfig|modelWeightPath|npuDeviceIds|_local_tp\b|parallel_options")
_WEAK = re.compile(r"[\"'](?:worldSize|moe_ep|moe_tp|ep_level)[\"']\s*:")
_REPEATED = (*SIZES, *LOCAL, "ep_level", "npuDeviceIds", "ModelConfig")
_CHOSEN = ("deepseekv2", "deepseekv3", "llm")
Role = Literal["", "prefill", "decode"]


class MindIE:
    """Ascend MindIE's server, configured by one JSON file."""

    name = "mindie"
    title = "MindIE"
    programs = ()

    def recognizes(self, text: str) -> float:
        """By keys that only this file has."""
        if _STRONG.search(text):
            return 1.0
        if "mindie" in text.lower():
            return MENTIONED
        if _WEAK.search(text):
            return 0.8
        return 0.4 if re.search(r"\"(?:tp|dp|sp|cp)\"\s*:\s*-?\d", text) else 0.0

    def read(self, document: Document, context: Context) -> list[Reading]:
        """One reading per model; two for a deployment with prefill and decode servers."""
        if not re.search(r"[{:]", document.text):
            draft = Draft(self.name, document, context)
            draft.refuse("MindIE is configured by its config.json, not by arguments; give that file")
            return [draft.finish(None)]
        found = _meant(trees(balanced(document.text), document.line))
        return [reading for tree in found for reading in _Reader(self.name, document, context, tree).readings()]

    def write(self, layout: Layout, options: Mapping[str, object], source: str = "") -> Written:
        """The parts of a config.json that say a layout."""
        text, notes = config_of(layout, options)
        back = self.read(Document(kind="file", text=text, dialect=self.name), context_for(layout, options))
        return checked(layout, text, back, notes)


_MARK = re.compile(r'"(?:[^"\\\n]|\\.)*"|[][{}]')


def balanced(text: str) -> str:
    """A fragment whose brackets were cut off at its end, or that has some too many there, with the right number."""
    opened: list[str] = []
    for mark in _MARK.finditer(text):
        if mark[0] in "[{":
            opened.append("]" if mark[0] == "[" else "}")
        elif mark[0] in ("]", "}"):
            if not opened:
                rest = text[mark.start() :]
                return text[: mark.start()] if not rest.strip("]}, \t\n") else text
            if opened.pop() != mark[0]:
                return text
    return text.rstrip().rstrip(",") + "".join(reversed(opened)) if opened else text


class _Reader:
    """One file."""

    def __init__(self, name: str, document: Document, context: Context, tree: Tree) -> None:
        self.name, self.document, self.context, self.tree = name, document, context, tree

    def draft(self) -> Draft:
        draft = Draft(self.name, self.document, self.context)
        draft.notes += self.tree.notes
        return draft

    def readings(self) -> list[Reading]:
        problem, root = self.tree.problem, self.tree.root
        draft = self.draft()
        if problem is not None:
            draft.refuse(f"{problem.where}: {problem.message}", (), problem.where)
            return [draft.finish(None)]
        if root is None or not root.entries:
            draft.refuse("a mapping of names to values is wanted", (), root.where if root else None)
            return [draft.finish(None)]
        servers = [key for key in SERVERS if key in root.entries]
        if servers:
            return [each for key in servers for each in self.server(root, key)]
        return self.models(root, "", Deployment())

    def server(self, root: Node, key: str) -> list[Reading]:
        """A prefill or decode server of a deployment."""
        role: Role = "prefill" if SERVERS[key] == "prefill" else "decode"
        node = root.get(key)
        assert node is not None
        draft = self.draft()
        values = Values(draft)
        instances, pods = PODS[role]
        values.take(root, "instances", "deploy_config", instances)
        values.take(root, "pods", "deploy_config", pods)
        per_instance = values.number("pods", 0)
        around = Deployment(instances=values.number("instances"), pods=per_instance or None, spread=True)
        return self.models(node, role, around)

    def models(self, root: Node, role: Role, around: Deployment) -> list[Reading]:
        early = _first(root, ("ModelDeployParam",))  # the file of the first releases
        backend = _first(root, ("BackendConfig",)) or early or root
        deploy = _first(backend, ("ModelDeployConfig",)) or _first(root, ("ModelDeployConfig",)) or early or root
        configs = deploy.get("ModelConfig") or deploy.get("ModelParam") or root.get("ModelConfig")
        nodes = configs.items if configs is not None and configs.items is not None else [configs or root]
        return [_Model(self.draft(), root, backend, deploy, node, role).reading(around) for node in nodes]


class _Model:
    """One ModelConfig with what stands around it."""

    def __init__(self, draft: Draft, root: Node, backend: Node, deploy: Node, model: Node, role: Role) -> None:
        self.draft, self.root, self.backend, self.deploy, self.model = draft, root, backend, deploy, model
        self.role: Role = role
        self.values = Values(draft)

    def reading(self, around: Deployment) -> Reading:
        report_repeated(self.draft, self.root, _REPEATED)
        for key in SIZES:
            self.values.take(self.model, key, key)
        sections = self.sections()
        for section in sections:
            self.section(section)
        self.options()
        signs = [key for key in ("moe_ep", "moe_tp") if self.values.number(key, 1, off=OFF) != 1]
        named = [key for key in ("deepseekv2", "deepseekv3") if self.model.get("models", key) is not None]
        signs += [f"models.{key}" for key in named] + (["ep_level"] if "ep_level" in self.values else [])
        sizes = derive_sizes(self.values, self.draft, self.around(around), ", ".join(signs))
        return self.draft.finish(sizes, role=self.role)

    def around(self, around: Deployment) -> Deployment:
        """Devices, instances and nodes from BackendConfig and ServerConfig."""
        devices = self.backend.get("npuDeviceIds")
        first = devices.items[0] if devices is not None and devices.items else None
        listed = first.items if first is not None and not first.elided else None
        count = len(listed) if listed is not None and all(type(item.scalar) is int for item in listed) else None
        self.values.take(self.backend, "modelInstanceNumber", "modelInstanceNumber")
        self.values.take(self.backend, "multiNodesInferEnabled", "multiNodesInferEnabled")
        self.values.take(self.root, "distDPServerEnabled", "ServerConfig", "distDPServerEnabled")
        spread = self.values.switch("multiNodesInferEnabled") or self.values.switch("distDPServerEnabled")
        backend = self.model.get("backendType")
        return Deployment(
            devices=count,
            instances=around.instances if around.instances != 1 else self.values.number("modelInstanceNumber"),
            pods=around.pods,
            spread=around.spread or spread,
            backend=str(backend.scalar) if backend is not None else "atb",
        )

    def sections(self) -> list[Node]:
        """Sections of models that hold parallel options; those of the model's own file stand at the top."""
        found = [self.model.get("models", key) or self.root.get("models", key) for key in _CHOSEN[:2]]
        found.append(self.root.get("llm"))
        if self.model.get("parallel_options") is not None:
            found.append(self.model)
        return [node for node in found if node is not None and node.entries is not None]

    def section(self, node: Node) -> None:
        for key in LOCAL:
            if self.values.take(node, key, key) is not None:
                place = node.get(key)
                message = f"{key} belongs into parallel_options; the engine looks for it only there"
                self.draft.note("warning", "misplaced", message, place.where if place else None)
            self.values.take(node, key, "parallel_options", key)
        self.values.take(node, "ep_level", "ep_level")
        self.values.take(node, "eplb.level", "eplb", "level")
        self.values.take(node, "eplb.num_redundant_experts", "eplb", "num_redundant_experts")
        for key, least in BUFFERS.items():
            self.values.take(node, key, "parallel_options", key)
            self.values.number(key, None, minimum=least)
        options = node.get("parallel_options")
        for key, entry in (options.entries if options is not None and options.entries else {}).items():
            if key not in LOCAL and key not in BUFFERS:
                report_unknown(self.draft, entry, "parallel_options.", (*LOCAL, *BUFFERS))
        if node is not self.model:
            for key, entry in (node.entries or {}).items():
                if key not in MODELS and key not in LOCAL:
                    report_unknown(self.draft, entry, "models.", MODELS)

    def options(self) -> None:
        """Everything that is no size, under shared names where there are any."""
        draft = self.draft
        for level in (self.root, self.backend, self.deploy, self.model):
            for key, entry in (level.entries or {}).items():
                if key in (*HOLDERS, *SERVERS) or key.startswith("_"):
                    continue
                if key in SIZES and level is self.model:
                    continue
                if key not in KEYS and key not in ("llm", "parallel_options", "env_config"):
                    report_unknown(draft, entry, "", KEYS)
                self.option(key, entry.node)
        if "model" not in draft.options and draft.context.model:
            draft.options["model"] = draft.context.model

    def option(self, key: str, node: Node) -> None:
        for name, leaf in node.leaves(key + "."):
            last = name.rpartition(".")[2]
            if last in (*LOCAL, "ep_level"):
                continue
            value = leaf.plain()
            if name == "npuMemSize":
                if isinstance(value, int) and value > 0:
                    self.draft.options["kv_cache_memory"] = value << 30
                continue
            known = RENAMED.get(last) if name.removesuffix(last) in PLACES else None
            self.draft.options[known or name] = value


def _meant(found: list[Tree]) -> list[Tree]:
    """Without the JSON of a page that is none of this file, as that of a request, where there is such a file."""
    known = {*KEYS, *SIZES, *LOCAL, *SERVERS, *MODELS}
    ours = [tree for tree in found if tree.problem is not None or tree.root is not None and tree.root.names() & known]
    return ours or found


def _first(node: Node, path: tuple[str, ...]) -> Node | None:
    found = node.get(*path)
    return found if found is not None and found.entries is not None else None


DIALECT: Dialect = MindIE()
