"""`weft manifest`: what starts a layout's hosts: for `kubectl apply -f`, `docker compose` or `sbatch`. No torch."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from weft.base.errors import ConfigError
from weft.base.machine.cores import CoreShare
from weft.base.options import Setting
from weft.base.plural import size
from weft.base.settings import EngineConfig, engine_settings
from weft.cli.args.checkpoints import opened
from weft.cli.args.dialects import take_foreign
from weft.cli.args.flags import GivenValue, values_of, words_of
from weft.cli.args.model import engine_config_from, layout_from
from weft.cli.commands import serve
from weft.cli.view.say import say
from weft.compute.native import kernels
from weft.frontend.chat.config import chat_settings
from weft.frontend.server.http.config import HttpConfig, http_settings
from weft.model.checkpoint import Checkpoint
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import to_dict
from weft.runtime.launch_plan.hosts import HostResources
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.launch_plan.timeouts import process_settings
from weft.runtime.launchers.manifests.compose import compose
from weft.runtime.launchers.manifests.deployment import (
    API_KEY,
    DIST_SECRET,
    ContainerDeployment,
    ModelFiles,
    host_memory,
)
from weft.runtime.launchers.manifests.kubernetes import lws, statefulset
from weft.runtime.launchers.manifests.slurm import slurm

KINDS = {"lws": lws, "statefulset": statefulset, "compose": compose}
SLURM = "slurm"
NAMES = {"compose": "Docker compose", SLURM: "Slurm"}
"""Kinds without Kubernetes' objects, as their users call them."""
OWN = frozenset(("host", "port", "uds", "api_key", "api_key_file"))
"""Of the server's options, what the manifest itself gives."""
NOT_THERE = (
    *("chat_template", "admin_key", "admin_key_file", "ssl_certfile", "ssl_keyfile"),
    *("expert_stats", "expert_placement", "launcher"),
)
"""Options whose files or keys a manifest does not bring into containers, or that have no meaning there."""
ENOUGH = 1 << 60
"""Bytes of a host that is not planned for a machine."""
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of weft serve, and what to write."""
    serve.add_arguments(parser)
    group = parser.add_argument_group("manifest")
    group.add_argument("--kind", required=True, choices=(*KINDS, SLURM), help="what to write")
    group.add_argument("--name", default="weft", help="of what is made (default: weft)")
    group.add_argument("--image", default="weft", help="the image that the Dockerfile builds (default: weft)")
    group.add_argument("--model-claim", metavar="NAME", help="PersistentVolumeClaim with the files of MODEL's folder")
    group.add_argument(
        "--model-host-path", action="store_true", help="mount MODEL's folder of each node; needs a privileged namespace"
    )
    group.add_argument(
        "--secret-name", metavar="NAME", help=f"a Secret that exists, with the keys {DIST_SECRET} and {API_KEY}"
    )


def run(args: argparse.Namespace) -> int:
    """0; errors are raised."""
    take_foreign(args)
    engine, http, limits = engine_config_from(args), serve.http_from(args), serve.limits_from(args)
    serve.chat_from(args)
    _refuse(args, engine)
    if http.port == 0:
        raise ConfigError("--port 0: a manifest names its port; legal: 1 to 65535", field="port", value=0)
    checkpoint = opened(args, args.model, _say)
    layout = layout_from(args, checkpoint.model_config())
    memory = _memory(checkpoint, layout, engine, args.comm)
    model, files = _model(args)
    deployment = ContainerDeployment(
        name=args.name,
        image=args.image,
        hosts=layout.nodes,
        words=(*model, *_words(args)),
        port=http.port,
        layout=yaml.safe_dump(to_dict(layout), sort_keys=False),
        memory=memory,
        cpus=layout.ranks_per_node * (engine.threads or 1),
        model=files,
        secrets=None if args.secret_name else _secrets(http, layout),
        secret_name=args.secret_name or f"{args.name}-secrets",
        drain_s=limits.drain_timeout,
    )
    for number, each in enumerate(memory):
        _say(f"host {number}: {size(each)} of memory")
    print(slurm(deployment) if args.kind == SLURM else _text(args, KINDS[args.kind](deployment)), end="")
    return 0


def _say(line: str) -> None:
    say(line, sys.stderr)


def _text(args: argparse.Namespace, documents: Iterable[Mapping[str, object]]) -> str:
    use = "kubectl apply -f FILE"
    if args.kind == "compose":
        use = "WEFT_DIST_SECRET=... WEFT_API_KEY=... docker compose -f FILE up"
    return f"# {use}\n" + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, and what stands in two places written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _refuse(args: argparse.Namespace, engine: EngineConfig) -> None:
    """ConfigError: what no manifest can have."""
    given = {**args.engine_given, **args.http_given, **{name: True for name in NOT_THERE if getattr(args, name, None)}}
    for name in (*NOT_THERE, "uds"):
        if name in given:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag}: not in a manifest; leave it out, and add it to what is written", field=name)
    if node_rank := values_of(args.hosts_given).get("node_rank"):
        message = f"--node-rank {node_rank}: a manifest is of all hosts; legal: the command of host 0"
        raise ConfigError(message, field="node_rank", value=node_rank)
    if engine.device != "cpu":
        raise ConfigError(f"device {engine.device}: the image computes on CPUs; legal: cpu", field="device")
    if not _NAME.fullmatch(args.name):
        message = f"--name {args.name!r}: legal: a letter, then at most 41 of a-z, 0-9 and -, without - at the end"
        raise ConfigError(message, field="name", value=args.name)
    if not args.image or any(letter.isspace() for letter in args.image):
        raise ConfigError(f"--image {args.image!r}: give the name of an image, without spaces", field="image")
    for flag, value in (("--model-claim", args.model_claim), ("--secret-name", args.secret_name)):
        if args.kind in NAMES and value is not None:
            raise ConfigError(f"{flag} {value}: {NAMES[args.kind]} has none; leave it out", field=flag, value=value)
    if args.model_host_path and (args.kind in NAMES or args.model_claim is not None):
        reason = f"{NAMES[args.kind]} has none" if args.kind in NAMES else "--model-claim says where MODEL is"
        raise ConfigError(f"--model-host-path: {reason}; leave it out", field="model_host_path")


def _memory(checkpoint: Checkpoint, layout: Layout, engine: EngineConfig, comm: str) -> tuple[int, ...]:
    """Of each host, as the memory plan of hosts that have enough says. ConfigError: it depends on the hosts."""
    if engine.mem_fraction_static is not None and engine.kv_cache_memory is None:
        message = "mem_fraction_static is a share of what a host has, and a manifest says what it must have: give"
        raise ConfigError(f"{message} --kv-cache-memory", field="mem_fraction_static", value=engine.mem_fraction_static)
    shares = tuple(CoreShare((), engine.threads or 1) for _ in range(layout.ranks_per_node))
    hosts = [HostResources(f"host{node}", "", "", ENOUGH, shares, kernels()) for node in range(layout.nodes)]
    # Memory does not depend on collectives, and this machine may lack the compiled ones.
    plan = plan_launch(checkpoint, layout, engine, "gloo" if comm == "auto" else comm, hosts=hosts)
    assert plan.memory is not None
    return host_memory(plan.memory, layout, engine.mem_fraction_static)


def _model(args: argparse.Namespace) -> tuple[list[str], ModelFiles]:
    """The word for it in a container, and where its files are; none for the embedded model."""
    if args.model is None:
        return [], ModelFiles(None)
    path = Path(args.model)
    if not path.exists():
        if args.model_claim is not None:
            message = f"--model-claim {args.model_claim}: {args.model} is downloaded; give a folder that it has"
            raise ConfigError(message, field="model_claim", value=args.model_claim)
        return [args.model], ModelFiles(None)
    path = path.resolve()
    if args.kind not in NAMES and args.model_claim is None and not args.model_host_path:
        message = (
            f"{args.model} is a folder of this machine: give --model-claim NAME, a PersistentVolumeClaim that has its"
            " files, or --model-host-path where each node has it and Pod Security allows hostPath"
        )
        raise ConfigError(message, field="model_claim")
    return [str(path)], ModelFiles(str(path if path.is_dir() else path.parent), args.model_claim)


def _words(args: argparse.Namespace) -> list[str]:
    """Options of weft serve as they were given, by weft or by another engine's words; the layout has a file."""
    http = {name: entry for name, entry in args.http_given.items() if name not in OWN}
    tables: list[tuple[tuple[Setting, ...], Mapping[str, GivenValue]]] = [
        (engine_settings(), args.engine_given),
        (http_settings(), http),
        (chat_settings(), args.chat_given),
        (process_settings(), args.limits_given),
    ]
    words = [word for settings, given in tables for word in words_of(settings, given)]
    plain = {"--revision": args.revision, "--comm": args.comm, "--verify-checkpoint": args.verify_checkpoint}
    return [*words, *(word for flag, value in plain.items() if value not in (None, "auto") for word in (flag, value))]


def _secrets(http: HttpConfig, layout: Layout) -> dict[str, str]:
    """The API key that was given, or a new one, and what hosts prove to each other."""
    key = http.user_key() or secrets.token_urlsafe(32)
    return {API_KEY: key, **({DIST_SECRET: secrets.token_urlsafe(32)} if layout.nodes > 1 else {})}
