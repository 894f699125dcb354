"""`weft verify`: the user's model under a layout against one rank. Exit code 0: they agree; 1: they do not; 3: too few
tokens were decided to say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from weft.base.errors import ConfigError, UsageError
from weft.base.options import check_range
from weft.base.plural import counted
from weft.base.printable import printable_lines
from weft.base.settings import EngineConfig
from weft.cli.args.checkpoints import opened
from weft.cli.args.hosts import add_hosts_arguments, is_agent, met_hosts, run_agent
from weft.cli.args.model import add_model_arguments, engine_config_from, layout_from
from weft.compute.comm.registry import CHOICES
from weft.compute.native.build import ensure_built
from weft.engine.text import Tokenizer
from weft.model.checkpoint import Checkpoint
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.hosts import HostResources
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.start import start_workers
from weft.runtime.worker.numerics import numerics_of
from weft.tools.verify.compare import LEAST_DECIDED
from weft.tools.verify.memory import check_memory
from weft.tools.verify.record import Prompt
from weft.tools.verify.report import document, lines
from weft.tools.verify.verify import Verdict, Verifier, VerifyReport

_WITHOUT = {
    "server_cpus": "verify has no front end and no engine",
    "served_model_name": "verify serves nothing",
    "seed": "verify draws nothing",
}
"""Options of an engine that nothing here depends on, and why."""
EXIT_CODES: dict[Verdict, int] = {"agrees": 0, "differs": 1, "undecided": 3}
TEXTS = (
    "The capital of France is",
    "Once upon a time, in a village at the foot of a mountain, there lived a weaver who",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 5, 8, 13,",
    "Water boils at one hundred degrees. When the pressure falls, it boils at a lower temperature; on a high summit, "
    "where the air is thin, it takes longer to cook rice, because",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, layout and engine options as for serve; prompts and how many tokens to compare."""
    add_model_arguments(parser)
    group = parser.add_argument_group(
        "comparison",
        "dtype auto means float32 here, the sharpest test of a layout. A token is decided where one rank prefers it by"
        " more than the dtype's tolerance: in bfloat16, and with int8 activations, fewer are. Exit code 0: at least"
        f" {LEAST_DECIDED:.0%} of the tokens are decided and equal, nothing differs; 1: something differs; 3: too few"
        " are decided",
    )
    group.add_argument("--prompt", action="append", metavar="TEXT", help="compare on this text (repeatable)")
    group.add_argument("--tokens", type=int, default=16, metavar="N", help="greedy tokens per prompt (default: 16)")
    group.add_argument(
        "--comm", choices=(*CHOICES, "lockstep"), default="auto",
        help="backend of the real processes; lockstep: no processes, only ranks in turns",
    )  # fmt: skip
    group.add_argument("--json", action="store_true", help="print JSON, schema weft.verify/1")
    add_hosts_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0: the layout gives what one rank gives; 1: it does not; 3: nothing differs, but too little was decided."""
    check_range("--tokens", args.tokens, 1)
    _refuse_unused(args)
    progress = _say_nothing if args.json else _say
    ensure_built(say=progress)
    checkpoint = opened(args, args.model, _say)
    config = checkpoint.model_config()
    layout = layout_from(args, config)
    engine = engine_config_from(args)
    _refuse_moves(layout, engine)
    if engine.dtype == "auto":
        engine = replace(engine, dtype="float32")
    if args.comm == "lockstep":
        layout = replace(layout, nodes=1)
    if is_agent(args):
        return run_agent(args, layout, engine, checkpoint, progress)
    hosts, resources = met_hosts(args, layout, engine, checkpoint, progress)
    with contextlib.closing(hosts) if hosts is not None else contextlib.nullcontext():
        return _compare(args, checkpoint, layout, engine, hosts, resources, progress)


def _compare(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    layout: Layout,
    engine: EngineConfig,
    hosts: AgentPool | None,
    resources: Sequence[HostResources],
    progress: Callable[[str], None],
) -> int:
    config = checkpoint.model_config()
    comm = "auto" if args.comm == "lockstep" else args.comm
    plan = plan_launch(checkpoint, layout, engine, comm, hosts=resources)
    one = replace(engine, expert_placement=None, cpus=None)
    alone = plan_launch(checkpoint, resolve({}, num_experts=config.num_experts), one)
    check_memory(alone, plan, served=args.comm != "lockstep")
    prompts = _prompts(checkpoint, config.vocab_size, args.prompt)
    _check_length(max(map(len, prompts)), args.tokens, plan.engine.max_model_len or config.context)
    report = _verify(plan, prompts, args.tokens, args.comm != "lockstep", progress, hosts)
    print(json.dumps(document(plan, report), indent=2) if args.json else "\n".join(lines(plan, report)))
    return EXIT_CODES[report.verdict]


def _refuse_moves(layout: Layout, engine: EngineConfig) -> None:
    """UsageError: what only happens while serving."""
    if layout.experts is not None and layout.experts.balance.policy != "none":
        raise UsageError("--eplb: verify compares the experts where they begin, nothing moves; leave balancing out")
    if engine.expert_stats is not None:
        raise UsageError("--expert-stats: verify records no loads; leave it out")


def _refuse_unused(args: argparse.Namespace) -> None:
    """UsageError: what nothing here depends on."""
    lockstep = args.comm == "lockstep"
    unused = _WITHOUT | dict.fromkeys(("threads", "cpus") if lockstep else (), "ranks in lockstep are no processes")
    unused |= {"ranks_per_device": "ranks in lockstep are all on one device"} if lockstep else {}
    for name, why in unused.items():
        if name in args.engine_given:
            raise UsageError(f"{args.engine_given[name].flag}: {why}; leave it out")


def _check_length(prompt: int, tokens: int, most: int) -> None:
    if prompt + tokens > most:
        together = f"{prompt + tokens} with the longest prompt"
        raise ConfigError(f"--tokens: {tokens}: {together}; max_model_len is {most}", field="tokens", value=tokens)


def _verify(
    plan: LaunchPlan,
    prompts: Sequence[Prompt],
    tokens: int,
    served: bool,
    progress: Callable[[str], None],
    hosts: AgentPool | None,
) -> VerifyReport:
    verifier = Verifier(
        checkpoint=plan.checkpoint,
        config=plan.config,
        layout=plan.of_replica(0).layout,
        engine=plan.engine,
        slot_maps=plan.slot_maps,
        numerics=numerics_of(plan.engine),
        device=torch.device(plan.engine.device),
        progress=progress,
    )
    if not served:
        return verifier.run(prompts, tokens)
    ranks = counted(plan.layout.world, "process", "es")
    progress(f"starting {ranks}, collectives {plan.comm}")
    with contextlib.ExitStack() as stack:
        executors = []
        for replica in range(plan.layout.replicas):
            executors.append(start_workers(plan.of_replica(replica), hosts=hosts))
            stack.callback(executors[-1].close)
        return verifier.run(prompts, tokens, executors)


def _prompts(checkpoint: Checkpoint, vocab: int, texts: Sequence[str] | None) -> list[Prompt]:
    """Token ids of the texts; a model without a tokenizer gets fixed ids in their place."""
    if checkpoint.tokenizer is None:
        if texts:
            raise UsageError("--prompt: this model has no tokenizer; leave the option out")
        return [tuple((7 * i * i + 3 * i + start) % vocab for i in range(4 + 5 * start)) for start in range(5)]
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    prompts = list(dict.fromkeys(tuple(tokenizer.encode(text)) for text in texts or TEXTS))
    if any(len(prompt) < 2 for prompt in prompts):
        raise UsageError("--prompt: at least two tokens are needed")
    return prompts


def _say(line: str) -> None:
    print(printable_lines(line), file=sys.stderr, flush=True)


def _say_nothing(line: str) -> None:
    """Progress is not shown beside JSON."""
