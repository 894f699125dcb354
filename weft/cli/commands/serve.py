"""`weft serve`: a model over HTTP. Says in a few lines what it starts, then gives a request to try.

Errors come in this order: an impossible option, a port in use, a model that cannot be read, a layout that does not
fit, too little memory. Only then are processes started, except the first. Imports no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from weft.base.errors import ConfigError, RequestError
from weft.base.log import configure, is_debug, to_children
from weft.base.machine import fd_limits
from weft.base.options import made
from weft.base.settings import EngineConfig
from weft.base.step.defaults import recommended
from weft.cli.args.checkpoints import opened
from weft.cli.args.dialects import add_dialect_arguments, take_foreign
from weft.cli.args.flags import add_flags, values_of
from weft.cli.args.hosts import add_hosts_arguments, is_agent, met_hosts, run_agent, take_placement
from weft.cli.args.model import add_model_arguments, engine_config_from, layout_from
from weft.cli.args.parser import CommandParser
from weft.cli.args.ranks import add_comm_argument, say_native
from weft.cli.args.vllm_words import said_of
from weft.cli.view.layout import layout_of
from weft.cli.view.phases import PlainView, phase_view
from weft.cli.view.say import say
from weft.cli.view.summary import details, summary
from weft.engine.text import Tokenizer
from weft.engine.text.chat_template import ChatTemplates
from weft.frontend.chat.config import ChatConfig, chat_forms, chat_settings
from weft.frontend.server.http.config import HttpConfig, http_settings
from weft.frontend.server.http.listen import bind, bind_unix
from weft.frontend.server.http.signals import EndSignals, Stopped
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.server.run import run_server
from weft.frontend.serving.engine_start import starts_of
from weft.frontend.serving.readiness import Resolved
from weft.frontend.serving.recovery.restarts import Recovery
from weft.frontend.serving.replicas import Replicas
from weft.frontend.text_worker.jobs import Begin
from weft.frontend.text_worker.lanes import TextWorkers
from weft.frontend.text_worker.templates import take_tried, try_templates
from weft.model.checkpoint.hub.paths import shown_name
from weft.parallel.layout.serialize import to_dict
from weft.runtime.ipc.phases import PhaseChange
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.runtime.launch_plan.timeouts import ProcessLimits, process_settings
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.processes import Spawner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, layout and engine options, and where to listen."""
    add_model_arguments(parser)
    add_dialect_arguments(parser)
    if isinstance(parser, CommandParser):
        parser.said_of = said_of
    group = parser.add_argument_group("server")
    group.add_argument(
        "--chat-template", metavar="FILE", type=Path, help="Jinja template of conversations instead of the model's own"
    )
    add_flags(group, chat_settings(), "chat_given")
    add_flags(group, http_settings(), "http_given")
    add_comm_argument(group)
    add_flags(parser.add_argument_group("processes"), process_settings(), "limits_given")
    add_hosts_arguments(parser, join_limit=False)


def limits_from(args: argparse.Namespace) -> ProcessLimits:
    """ProcessLimits of the command line; raises ConfigError for impossible values."""
    return made(ProcessLimits, values_of(args.limits_given))


def http_from(args: argparse.Namespace) -> HttpConfig:
    """HttpConfig of the command line; raises ConfigError for impossible values."""
    values = values_of(args.http_given)
    if "uds" in values and (other := next((name for name in ("host", "port") if name in values), None)):
        raise ConfigError(f"--uds and --{other} both say where to listen; leave one out", field="uds")
    return made(HttpConfig, values)


def chat_from(args: argparse.Namespace) -> ChatConfig:
    """ChatConfig of the command line; raises ConfigError for unknown names."""
    return made(ChatConfig, values_of(args.chat_given))


def template_from(args: argparse.Namespace) -> str | None:
    """The text of --chat-template. ConfigError: it cannot be read, or is no template."""
    if args.chat_template is None:
        return None
    try:
        text = str(args.chat_template.read_text(encoding="utf-8"))
        ChatTemplates({"default": text}, {}).check()
    except UnicodeDecodeError:
        raise ConfigError(f"--chat-template {args.chat_template}: not UTF-8 text", field="chat_template") from None
    except (OSError, RequestError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--chat-template {args.chat_template}: {reason}", field="chat_template") from error
    return text


def names_of(word: str | None, path: Path) -> tuple[str, ...]:
    """What clients may call a model without a given name; a GGUF file of a hub also by its own name."""
    name = shown_name(word, path)
    return (name, path.stem) if path.suffix == ".gguf" and path.stem != name else (name,)


def remove_socket(path: str, number: int) -> None:
    """A Unix socket that is still the one with this inode."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == number:
            os.unlink(path)


def listen(http: HttpConfig) -> socket.socket:
    """The socket, bound before anything else is done. ConfigError: it cannot be had."""
    http.check_certificate()
    keyed = http.keys().user is not None
    return bind(http.host, http.port, keyed=keyed) if http.uds is None else bind_unix(http.uds)


def run(args: argparse.Namespace) -> int:
    """0 after Ctrl-C, SIGTERM or SIGHUP; errors are raised."""
    try:
        with EndSignals() as signals:
            _run(args, signals)
    except Stopped:
        _say("stopped")
    return 0


def _run(args: argparse.Namespace, signals: EndSignals) -> None:
    open_files = fd_limits.raise_limit()
    fd_limits.check(open_files, fd_limits.Needs())
    take_foreign(args)
    take_placement(args)
    http = http_from(args)
    to_children(http.log_level, http.log_format)
    configure()
    limits, engine, chat = limits_from(args), engine_config_from(args), chat_from(args)
    if is_agent(args):
        _run_agent(args, engine)
        return
    template = template_from(args)
    with contextlib.ExitStack() as closing:
        sock = closing.enter_context(contextlib.closing(listen(http)))
        if http.uds is not None:
            closing.callback(remove_socket, http.uds, os.stat(http.uds).st_ino)
        say_native(_say)
        checkpoint = opened(args, args.model, _say)
        config = checkpoint.model_config()
        layout = layout_from(args, config)
        hosts, resources = met_hosts(args, layout, engine, checkpoint, _say)
        if hosts is not None:
            closing.callback(hosts.close)
        plan = plan_launch(checkpoint, layout, engine, args.comm, limits=limits, hosts=resources)
        most = fd_limits.most_connections(http.max_connections, open_files, needs_of(plan))
        args.spawner.start_ahead(sum(host == 0 for host in plan.host_of))
        texts = TextWorkers(Begin.of(checkpoint, config.vocab_size, plan.eos_token_ids, template))
        closing.callback(texts.close)
        origin = checkpoint.path if template is None else f"--chat-template {args.chat_template}"
        tried = try_templates(texts, origin, given=template is not None)
        tokenizer = Tokenizer.from_checkpoint(checkpoint)
        if template is not None:
            tokenizer.chat_templates.sources["default"] = template
        take_tried(tokenizer, tried, _say)
        vocabulary = tokenizer.vocabulary(plan.config.vocab_size, plan.eos_token_ids)
        plan = plan.with_vocabulary(tokenizer.eos_token_ids, vocabulary)
        if plan.server_cpus:
            # Threads and processes that start after this inherit it; ranks have their own cores.
            os.sched_setaffinity(0, plan.server_cpus)
        names = engine.served_names or names_of(args.model, Path(checkpoint.path))
        described = details if is_debug() else summary
        shown = fd_limits.shown(most, http.max_connections, open_files)
        forms = chat_forms(tried.knows, chat)
        for line in (*described(", ".join(names), plan), *shown, *forms.lines()):
            _say(line)
        root = args.model or shown_name(None, checkpoint.path)
        defaults = recommended(checkpoint.generation_config, checkpoint.generation_path)
        model = ServedModel(
            names[0], tokenizer, config.vocab_size, int(time.time()), defaults,
            aliases=names[1:], root=root, forms=forms, text_worker=texts,
        )  # fmt: skip
        _serve(replace(http, max_connections=most), plan, model, sock, args.spawner, signals, hosts)


def _run_agent(args: argparse.Namespace, engine: EngineConfig) -> None:
    """This host's agent, for the server on host 0."""
    say_native(_say)
    checkpoint = opened(args, args.model, _say)
    run_agent(args, layout_from(args, checkpoint.model_config()), engine, checkpoint, _say)


def needs_of(plan: LaunchPlan) -> fd_limits.Needs:
    """What the server and its ranks need of the limit of open files. Over gloo a rank has a socket to each of a group's
    others, and some more until they have met."""
    groups = plan.comm.groups if plan.comm.name == "gloo" else ()
    return fd_limits.Needs(
        ranks=plan.layout.world,
        replicas=plan.layout.replicas,
        files=len({tensor.file for tensor in plan.checkpoint.tensors.values()}),
        peers=sum(2 * len(group) for group in groups),
    )


def _serve(
    http: HttpConfig,
    plan: LaunchPlan,
    model: ServedModel,
    sock: socket.socket,
    spawner: Spawner,
    signals: EndSignals,
    hosts: AgentPool | None,
) -> None:
    with phase_view(plan.where, every=is_debug()) as view:
        shown = _Shown(view, lambda: _say_ready(model.name, sock, http, chat=model.tokenizer.has_chat_template))
        engines = partial(
            Replicas,
            starts_of(plan, shown.phase, spawner, hosts),
            max_queued=http.max_queued,
            on_ready=shown.ready,
            recovery=Recovery if plan.limits.restart else None,
            resolved=Resolved(to_dict(plan.layout), plan.settings()),
        )
        run_server(sock, model, engines, plan.limits.drain_timeout, http, signals, layout_of(model.name, plan))
    _say("stopped")


class _Shown:
    """Start-up as a person sees it: the first in the view that suits the terminal, each restart in plain lines, if at
    all. Clients wait for a restart, whether or not these lines are still read."""

    def __init__(self, view: PlainView, say_ready: Callable[[], None]) -> None:
        self._view, self._say_ready = view, say_ready
        self._starts = 0

    def phase(self, start: int, change: PhaseChange) -> None:
        """A rank of the `start`-th set entered a phase."""
        if start == 0 or not is_debug():
            self._view.show(change)
        else:
            say(str(change), sys.stdout, ignore_closed=True)

    def ready(self) -> None:
        """All ranks are."""
        if self._starts == 0:
            self._view.close()
            self._say_ready()
        else:
            say("ready again", sys.stdout, ignore_closed=True)
        self._starts += 1


def _say_ready(name: str, sock: socket.socket, http: HttpConfig, *, chat: bool) -> None:
    if chat:
        body: dict[str, object] = {"model": name, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
        path = "/v1/chat/completions"
    else:
        body, path = {"model": name, "prompt": "The sky is", "max_tokens": 64}, "/v1/completions"
    request = json.dumps(body | {"temperature": 0, "stream": True})
    where, url, words = _where(sock, http)
    key = " -H 'authorization: Bearer KEY'" if http.keys().user is not None else ""
    _say(f"ready on {where}; try:")
    _say(f"  curl -N {words}{url}{path}{key} -H 'content-type: application/json' -d {shlex.quote(request)}")


def _where(sock: socket.socket, http: HttpConfig) -> tuple[str, str, str]:
    """Where the server listens, the URL of a request, and what curl needs besides."""
    scheme = "http" if http.ssl_certfile is None else "https"
    if http.uds is not None:
        return http.uds, f"{scheme}://localhost", f"--unix-socket {shlex.quote(http.uds)} "
    host, port = sock.getsockname()[:2]
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return url, url, "--cacert CERTIFICATE " if scheme == "https" else ""


def _say(line: str) -> None:
    say(line, sys.stdout)
