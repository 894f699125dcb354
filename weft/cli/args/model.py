"""What serve, generate, explain and verify share: MODEL, the layout's options and the engine's options."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path

from weft.base.errors import LayoutError
from weft.base.options import made
from weft.base.settings import EngineConfig, engine_settings
from weft.cli.args.flags import GivenValue, Once, add_flags, values_of
from weft.cli.args.parser import Expert
from weft.model.checkpoint.integrity.check import VERIFY
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit, resolve_for
from weft.parallel.layout.layout import Given, Layout, layout_settings
from weft.parallel.layout.serialize import load_given
from weft.parallel.layout.support import refuse_unsupported

EPILOG = "A size that is not given follows from attention's; weft explain shows every size of a layout."


def add_model_arguments(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """MODEL (unless the command declares it itself), the layout's options and the engine's."""
    if positional:
        add_model(parser)
    add_verify_checkpoint(parser)
    add_layout_arguments(parser)
    add_engine_arguments(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """args.model: the MODEL word, None for the embedded default model."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a model directory, a .gguf file, or a hub id (org/name, org/name:file.gguf); left out: the embedded"
        " SmolLM2-135M-Instruct",
    )
    add_revision(parser)


def add_revision(parser: argparse.ArgumentParser) -> None:
    """args.revision: of a model on a hub."""
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a hub model (default: its main)")


def add_verify_checkpoint(parser: argparse.ArgumentParser) -> None:
    """args.verify_checkpoint: whether the model's files are compared with their known hashes."""
    parser.add_argument(
        "--verify-checkpoint",
        choices=VERIFY,
        default="auto",
        help=Expert(
            "compare the model's files with hashes in SHA256SUMS or on the hub. auto: each file once until it changes;"
            " strict: at every start, and weights without a known hash are refused (default: auto)"
        ),
    )


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """--layout, --tp, --world-size and one option per field of the layout."""
    group = parser.add_argument_group("layout", EPILOG)
    group.add_argument("--layout", action=Once, metavar="FILE", type=Path, help="layout document, YAML or JSON")
    group.add_argument(
        "--tp",
        "--tensor-parallel-size",
        action=Once,
        type=int,
        metavar="N",
        help="size of every module; explicit sizes of modules other than attention win",
    )
    group.add_argument(
        "--world-size", action=Once, type=int, metavar="N", help=Expert("all ranks; attention dp follows from it")
    )
    add_flags(group, layout_settings(), "layout_given")


def add_engine_arguments(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """One option per field of EngineConfig, or per field named in `only`."""
    group = parser.add_argument_group("engine")
    settings = [setting for setting in engine_settings() if only is None or setting.name in only]
    add_flags(group, settings, "engine_given")


def layout_from(args: argparse.Namespace, config: ModelConfig, *, runnable: bool = True) -> Layout:
    """The layout of the command line and the layout file, checked against the model.

    With `runnable`, a layout that the engine cannot run yet is refused too. Raises LayoutError.
    """
    layout = resolve_for(config, _given(args), args.world_size, args.tp)
    check_fit(layout, config)
    if runnable:
        refuse_unsupported(layout)
    return layout


def engine_config_from(args: argparse.Namespace) -> EngineConfig:
    """EngineConfig of the command line; raises ConfigError for impossible values."""
    return made(EngineConfig, values_of(args.engine_given))


def _given(args: argparse.Namespace) -> Given:
    """File, another engine's words and flags together; a value that two of them give must be the same."""
    flags: Mapping[str, GivenValue] = args.layout_given
    stated = load_given(args.layout) if args.layout is not None else {}
    foreign: Mapping[str, object] = getattr(args, "dialect_given", {})
    whose: str = getattr(args, "dialect_whose", "")
    if foreign and args.tp is not None:
        raise LayoutError(
            f"--tp {args.tp} and {whose} both size every module; leave one out", field="--tp", value=args.tp
        )
    for name, value in stated.items():
        if name in foreign and foreign[name] != value:
            raise _contradiction(name, foreign[name], whose, str(args.layout), value)
    for name, entry in flags.items():
        for source, place in ((stated, str(args.layout)), (foreign, whose)):
            if name in source and source[name] != entry.value:
                raise _contradiction(name, source[name], place, entry.flag, entry.value)
    return {**foreign, **stated, **values_of(flags)}


def _contradiction(name: str, first: object, place: str, other: str, second: object) -> LayoutError:
    return LayoutError(
        f"{name} is {first} in {place}, but {other} gives {second}; leave one out", field=name, value=second
    )
