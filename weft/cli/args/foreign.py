"""Reads another engine's command line: the words after `--`, --set, and the options that serve takes from them."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from weft.base.errors import ConfigError, UsageError
from weft.base.options import nearest
from weft.base.settings import MOE_BACKENDS, EngineConfig
from weft.cli.args.flags import GivenValue
from weft.cli.args.foreign_words import experts_in, notes_of, said_of_words, taken_as, unheeded
from weft.parallel.layout.layout import Given
from weft.tools.dialects.addresses import addresses_for
from weft.tools.dialects.base import OPEN_NODE, Context, Diagnostic, Reading
from weft.tools.dialects.registry import read_words, unread
from weft.tools.dialects.report import named, on_nodes, strict
from weft.tools.dialects.sizes import whole_number

_SETTING = re.compile(r"(\$\(.+\)|[^=]+)=(.*)", re.DOTALL)
_DTYPES = {"half": "float16", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_MODELS = ("model", "model_path")
_MOST_FILE = 10 << 20
_VLLM_SHARE = "gpu_memory_utilization"
_PLACE = ("host", "port", "uds")
"""Where to listen is always weft's own: the address of another engine is not taken over."""
_MEETING = (
    "nnodes", "node_rank", "nprocs_per_node", "dist_init_addr", "master_addr", "master_port", "headless",
    "data_parallel_address", "data_parallel_start_rank", "data_parallel_size_local", "data_parallel_rpc_port",
)  # fmt: skip
"""Options of several hosts: taken over as --nnodes, --node-rank and --dist-init-addr."""
_NODE = ("--node-rank", "--headless", "--data-parallel-start-rank", "--data-parallel-size-local", "-dpl", "-dpr")
"""Words that say which host this is; without them it is the first, unless a launcher or --node-rank says another."""
_SERVER = ("api_key", "ssl_certfile", "ssl_keyfile", "allowed_origins", "root_path")
"""Options of encryption and access: taken over, so that a server is not more open with weft than before."""


def context_of(args: argparse.Namespace, experts: int | None = None) -> Context:
    """What the user says beside the words."""
    settings: dict[str, str] = {}
    for word in args.settings:
        match = _SETTING.fullmatch(word)
        if match is None:
            raise UsageError(f"--set {word}: NAME=VALUE is wanted")
        settings[match[1].strip()] = match[2].strip()
    if whole_number(settings.get("experts", "0")) is None:
        raise UsageError(f"--set experts={settings['experts']}: a whole number, 0 for a dense model")
    return Context(settings=ForeignSettings(settings), experts=experts, read_file=file_text)


class ForeignSettings(Mapping[str, str]):
    """Values of --set; remembers which of them were asked for."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given, self._used = dict(given), set[str]()

    def __getitem__(self, name: str) -> str:
        value = self._given[name]
        self._used.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._given  # to look whether there is a value is not to use it

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    @property
    def unused(self) -> tuple[str, ...]:
        """Names that nothing asked for."""
        return tuple(name for name in self if name not in self._used)


def with_unused(readings: list[Reading], context: Context) -> list[Reading]:
    """The readings, the first with a warning for every --set that nothing depends on."""
    unused = context.settings.unused if isinstance(context.settings, ForeignSettings) else ()
    known = list(dict.fromkeys(variable for reading in readings for variable in reading.variables))
    notes = [
        Diagnostic("warning", "unused-setting", f"--set {name}: nothing depends on it{nearest(name, known)}")
        for name in unused
    ]
    return [readings[0].noted(*notes), *readings[1:]] if notes else readings


def file_text(path: str) -> str | None:
    """The text of a file that the words name; None where there is none that can be read."""
    try:
        file = Path(path)
        if not file.is_file() or file.stat().st_size > _MOST_FILE:
            return None
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        return None


class Foreign:
    """What serve and explain take from another engine's words."""

    def __init__(self, reading: Reading, words: Sequence[str] = ()) -> None:
        self.reading, self.said, self._words = reading, said_of_words(words), words
        self._renamed = taken_as(reading.options)
        self.whose = f"the {reading.dialect} arguments"

    def given(self) -> Given:
        """The layout's values under dotted names."""
        sizes = self.reading.sizes
        values = sizes.given() if sizes is not None else {}
        return {name: value for name, value in values.items() if value is not None}

    def engine(self, only: Collection[str] | None) -> dict[str, GivenValue]:
        """Options that are also weft's, or those of them named in `only`."""
        known = {field.name for field in fields(EngineConfig)} if only is None else only
        found = {name: value for name, value in self.reading.options.items() if name in known and value is not None}
        if isinstance(names := found.get("served_model_name"), list):
            found["served_model_name"] = ",".join(map(str, names))
        for setting, value in self._renamed.values():
            if only is None or setting in known:
                found.setdefault(setting, value)
        if found.get("moe_backend") not in ("auto", *MOE_BACKENDS):
            found.pop("moe_backend", None)  # kernels of that engine; it is said that they are left out
        if "dtype" in found:
            found["dtype"] = _DTYPES.get(str(found["dtype"]), found["dtype"])
        return {name: GivenValue(value, f"{self.whose} ({name})") for name, value in found.items()}

    def server(self) -> dict[str, GivenValue]:
        """Options of the HTTP server that are also weft's. ConfigError: several keys, of which weft takes one."""
        found = {name: self.reading.options.get(name) for name in _SERVER}
        if isinstance(keys := found["api_key"], list):
            if len(keys) > 1:
                raise ConfigError(f"{self.whose} give {len(keys)} API keys; weft takes one", field="api_key")
            found["api_key"] = keys[0]
        if isinstance(origins := found["allowed_origins"], list):
            found["allowed_origins"] = ",".join(map(str, origins))
        return {name: GivenValue(str(value), f"{self.whose} ({name})") for name, value in found.items() if value}

    def hosts(self) -> dict[str, GivenValue]:
        """Where several hosts meet, and which of them this is; nothing for one host."""
        if self.given().get("nodes", 1) == 1:
            return {}
        options, _ = addresses_for(self.reading.options, "tokenspeed", 2, 1)
        node = self.reading.node
        found = {
            "dist_init_addr": options.get("dist_init_addr"),
            "node_rank": node if isinstance(node, int) and node != OPEN_NODE and self._says_node() else None,
        }
        return {name: GivenValue(value, f"{self.whose} ({name})") for name, value in found.items() if value is not None}

    def _says_node(self) -> bool:
        return bool(self.reading.node) or any(word.partition("=")[0].replace("_", "-") in _NODE for word in self._words)

    @property
    def model(self) -> str | None:
        """The model that they name."""
        model = self.reading.options.get("model")
        return model if isinstance(model, str) else None

    def refuse_to_serve(self, model: str | None) -> None:
        """UsageError: a file that they name is not there, or no model is named. ConfigError: one role of two."""
        reading = self.reading
        missing = next((note.message for note in reading.notes if note.code == "config-file"), None)
        if missing is not None:
            raise UsageError(f"{self.whose}: {missing.replace('is not in the text', 'cannot be read')}")
        if reading.role:
            message = (
                f"{self.whose} are of one of two roles, {reading.role}; weft has one so far: leave out what says so"
            )
            raise ConfigError(message, field="disaggregation_mode", value=reading.role, legal=("null",))
        if model is None and self.model is None:
            raise UsageError(f"{self.whose} name no model; give one")

    def warn(self) -> None:
        """The reading's warnings, on stderr."""
        for note in self.reading.notes:
            if note.level != "info":
                place = f" ({note.where})" if note.where else ""
                _say(f"{note.level}: {note.message}{place}")

    def say(self, engine: Mapping[str, GivenValue], model: str | None) -> None:
        """Everything that is not taken over, on stderr."""
        if model is not None and self.model is not None and model != self.model:
            _say(f"note: {model} is the model, not {self.model} of {self.whose}")
        options = [name for name in self.reading.options if name not in engine and name not in _MODELS]
        unused = [name for name in options if name not in _PLACE]
        for note in self.said:
            _say(f"note: {note}")
        for name, (setting, _) in self._renamed.items():
            _say(
                f"note: {name} is {setting} here{', a share of the memory that is free' if name == _VLLM_SHARE else ''}"
            )
        notes, unused = notes_of([name for name in unused if name not in self._renamed])
        for note in notes:
            _say(f"note: {note}")
        if unused:
            _say(f"note: left out, weft has no such setting: {', '.join(unused)}")
        if len(unused) < len(options):
            _say("note: weft listens where its own --host and --port say")


def take(args: argparse.Namespace, only: Collection[str] | None) -> None:
    """See `take_foreign`; there are words."""
    foreign = Foreign(_one(args, None), args.foreign)
    theirs = foreign.engine(only)
    if only is None:
        foreign.refuse_to_serve(args.model)
    foreign.warn()
    if only is None:
        given: Mapping[str, GivenValue] = getattr(args, "http_given", {})
        server = foreign.server()
        if {"api_key", "api_key_file"} & given.keys():
            server.pop("api_key", None)  # weft's own key is the one; a message about two would show them
        hosts, hosts_given = foreign.hosts(), getattr(args, "hosts_given", {})
        _agree(hosts, hosts_given, foreign)
        args.hosts_given = {**hosts, **hosts_given}
        args.hosts_implied = {"node_rank": 0} if hosts else {}
        taken = dict.fromkeys(_MEETING, next(iter(hosts.values()))) if hosts else {}
        foreign.say({**theirs, **server, **taken}, args.model)
        for words in unheeded(args.foreign, args.dialect, context_of(args)):
            _say(f"note: {words} changes nothing here: a default, or without effect beside the other words")
        _agree(server, given, foreign)
        args.http_given = {**server, **given}
    _agree(theirs, args.engine_given, foreign)
    args.model = foreign.model if args.model is None else args.model
    args.engine_given = {**theirs, **args.engine_given}
    args.dialect_given, args.dialect_whose = foreign.given(), foreign.whose
    args.dialect_options = dict(foreign.reading.options)


def _agree(theirs: Mapping[str, GivenValue], given: Mapping[str, GivenValue], foreign: Foreign) -> None:
    """ConfigError: an option of weft's own says something else."""
    for name, entry in theirs.items():
        ours = given.get(name)
        if ours is not None and ours.value != entry.value:
            raise ConfigError(
                f"{name} is {entry.value} in {foreign.whose}, but {ours.flag} gives {ours.value}; leave one out",
                field=name,
                value=ours.value,
            )


def _one(args: argparse.Namespace, experts: int | None) -> Reading:
    """The one engine that the words describe, without anything open."""
    context = context_of(args, experts)
    readings = with_unused(read_words(args.foreign, args.dialect, context), context)
    if len(readings) > 1:
        names = ", ".join(named(readings))
        raise ConfigError(f"the words describe {len(readings)} engines ({names}); weft serves one", field="--from")
    reading = readings[0]
    if experts is None and isinstance(reading.options.get("model"), str):
        found = experts_in(args.model or str(reading.options["model"]))
        if found is not None:
            return _one(args, found)
    if reading.refused is not None:
        legal = ", ".join(map(str, reading.refused.legal)) if "legal" not in reading.refused.message else ""
        raise ConfigError(
            f"{reading.dialect} would refuse this: {reading.refused.message}" + (f" (legal: {legal})" if legal else ""),
            field="--from",
            legal=reading.refused.legal,
        )
    if reading.variables:
        wanted = " ".join(f"--set {shlex.quote(f'{name}=...')}" for name in reading.variables)
        raise ConfigError(f"sizes depend on {', '.join(reading.variables)}; give {wanted}", field="--set")
    return reading


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def readings_of(args: argparse.Namespace, readings: list[Reading]) -> dict[str, Reading]:
    """Readings by name, after --nodes and --strict."""
    if args.nodes is not None:
        readings = [on_nodes(reading, args.nodes) for reading in readings]
    if args.strict:
        readings = strict(readings, unread(readings))
    return named(readings)
