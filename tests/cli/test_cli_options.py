"""Options declared in fields: parsing, ranges, contradictions, schemas."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Literal

import pytest

from weft.base.errors import ConfigError, UsageError
from weft.base.options import made, nearest, option, parse_bytes, settings_of
from weft.base.settings import DTYPE_BYTES, EngineConfig, engine_settings, resolve_dtype
from weft.cli.args.flags import GivenValue, add_flags
from weft.cli.args.model import add_model_arguments, engine_config_from
from weft.cli.args.parser import CommandParser
from weft.cli.args.ranks import add_comm_argument
from weft.cli.commands import serve
from weft.parallel.layout.layout import layout_settings


def parser() -> CommandParser:
    made = CommandParser(prog="weft test")
    add_model_arguments(made)
    return made


def with_comm() -> CommandParser:
    made = parser()
    add_comm_argument(made)
    return made


def engine(*words: str) -> EngineConfig:
    return engine_config_from(parser().parse_command(words))


def test_every_field_has_a_flag_and_no_two_share_one() -> None:
    settings = (*layout_settings(), *engine_settings())
    assert all(setting.option.flags and setting.option.help for setting in settings)
    flags = parser().flags()
    assert len(flags) == len(set(flags))


def test_what_is_not_given_keeps_its_default() -> None:
    assert engine() == EngineConfig()
    assert parser().parse_command([]).layout_given == {}


def test_every_engine_flag_reaches_its_field() -> None:
    config = engine(
        *("--dtype float32 --max-model-len 512 --max-num-seqs 3 --max-num-batched-tokens 64 --block-size 8".split()),
        *("--kv-cache-memory 512MiB --no-enable-prefix-caching --seed 7 --served-model-name m --device cuda".split()),
    )
    assert config == EngineConfig(
        dtype="float32",
        max_model_len=512,
        max_num_seqs=3,
        max_num_batched_tokens=64,
        block_size=8,
        kv_cache_memory=512 << 20,
        enable_prefix_caching=False,
        seed=7,
        served_model_name="m",
        device="cuda",
    )
    assert engine("--mem-fraction-static", "0.5").mem_fraction_static == 0.5
    assert engine("--enable-prefix-caching").enable_prefix_caching is True


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("1073741824", 1 << 30),
        ("2GiB", 2 << 30),
        ("512MiB", 512 << 20),
        ("1.5GB", 1_500_000_000),
        ("64 kib", 65536),
        ("0.5KiB", 512),
        ("3B", 3),
        ("1TiB", 1 << 40),
    ],
)
def test_bytes(word: str, size: int) -> None:
    assert parse_bytes(word) == size


@pytest.mark.parametrize("word", ["", "GiB", "-1", "1.5", "0.3B", "2 gigs", "1e9", "1,5GB"])
def test_what_is_no_number_of_bytes(word: str) -> None:
    with pytest.raises(ValueError):
        parse_bytes(word)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--max-num-seqs many", "--max-num-seqs: 'many' is not a whole number, at least 1"),
        (
            "--kv-cache-memory lots",
            "--kv-cache-memory: 'lots' is not a number of bytes, or a size such as 512MiB or 2GiB, at least 1",
        ),
        ("--dtype half", "--dtype: 'half' is not one of auto, float32, bfloat16, float16, float64"),
        ("--max-num-seqs", "--max-num-seqs: a value is missing"),
        ("--enforce-eager=1", "--enforce-eager/--no-enforce-eager: takes no value, but has '1'"),
        ("--tp two", "--tp/--tensor-parallel-size: 'two' is not a whole number"),
        ("--verify-checkpoint never", "--verify-checkpoint: 'never' is not one of auto, strict, none"),
        ("--comm foo", "--comm: 'foo' is not one of auto, shared_memory, tcp, gloo"),
        ("--seed 1 --seed 2", "--seed 1 and --seed 2 contradict each other"),
        (
            "--enable-prefix-caching --no-enable-prefix-caching",
            "--enable-prefix-caching True and --no-enable-prefix-caching False contradict each other",
        ),
        ("--max-num-seq 3", "unknown option --max-num-seq; did you mean --max-num-seqs?"),
        ("--tensor-paralel-size=3", "unknown option --tensor-paralel-size; did you mean --tensor-parallel-size?"),
        ("--xyzzy", "unknown option --xyzzy"),
        ("model more", "unexpected argument 'more'"),
    ],
)
def test_words_that_are_not_understood(words: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_comm().parse_command(words.split())
    assert str(caught.value) == text
    assert caught.value.exit_code == 2


def test_what_is_missing_is_named() -> None:
    made = CommandParser(prog="weft test")
    made.add_argument("--out", required=True)
    made.add_argument("--files", nargs="+")
    made.add_argument("--share", type=float)
    for words, text in (
        ([], "missing: --out"),
        (["--files"], "--files: a value is missing"),
        (["--share", "half"], "--share: 'half' is not a number"),
    ):
        with pytest.raises(UsageError, match=f"^{text}$"):
            made.parse_command(words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--max-num-seqs 0", "--max-num-seqs: 0 is out of range; legal: at least 1"),
        ("--kv-cache-memory 0", "--kv-cache-memory: 0 is out of range; legal: at least 1"),
        ("--prefill-stretch nan", "--prefill-stretch: nan is not a number, at least 0"),
    ],
)
def test_a_value_out_of_its_range_is_named_by_its_flag(words: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        engine(*words.split())
    assert str(caught.value).startswith(text)
    assert caught.value.field == words.split()[0].removeprefix("--").replace("-", "_")


def test_so_is_a_size_of_a_layout() -> None:
    with pytest.raises(ConfigError, match="^--dense-tp-size: 0 is out of range; legal: at least 1$") as caught:
        parser().parse_command(["--dense-tp-size", "0"])
    assert caught.value.field == "dense.tp"


def test_so_are_the_servers_options() -> None:
    made = CommandParser(prog="weft serve")
    serve.add_arguments(made)
    with pytest.raises(ConfigError, match="^--port: 99999 is out of range; legal: 0 to 65535$"):
        made.parse_command(["--port", "99999"])
    with pytest.raises(ConfigError, match="^--join-limit: 0.0 is out of range; legal: above 0 and at most 86400"):
        made.parse_command(["--join-limit", "0"])


def test_help_calls_a_value_what_it_is() -> None:
    made = CommandParser(prog="weft serve")
    serve.add_arguments(made)
    found = {action.option_strings[0]: action.metavar for action in made._actions if action.option_strings}
    assert [flag for flag, metavar in found.items() if metavar == "NAME"] == ["--revision", "--dist-interface"]
    assert (found["--cpus"], found["--server-cpus"], found["--api-key-file"]) == ("LIST|LIST|...", "LIST", "FILE")
    seconds = [flag for flag in found if flag.endswith(("-limit", "-timeout"))]
    assert len(seconds) == 6 and {found[flag] for flag in seconds} == {"SECONDS"}


def test_the_same_value_twice_is_no_contradiction() -> None:
    assert engine("--seed", "2", "--seed", "2").seed == 2
    given = parser().parse_command(["--lm-head-tp-size", "2", "--lm-head-local-tp", "2"]).layout_given
    assert {name: entry.value for name, entry in given.items()} == {"lm_head.tp": 2, "lm_head.within": "node"}


def test_options_and_positionals_may_come_in_any_order() -> None:
    args = parser().parse_command(["--seed", "2", "dir", "--tp", "2"])
    assert (args.model, args.tp, args.engine_given) == ("dir", 2, {"seed": GivenValue(2, "--seed")})


def test_what_is_not_a_number_contradicts_nothing() -> None:
    with pytest.raises(ConfigError, match="^--prefill-stretch: nan is not a number, at least 0"):
        parser().parse_command(["dir", "--prefill-stretch", "nan", "--prefill-stretch", "nan"])


def test_two_parses_share_nothing() -> None:
    made = parser()
    assert made.parse_command(["--seed", "2"]).engine_given and not made.parse_command([]).engine_given


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("max_num_seqs", 0, "max_num_seqs: 0 is out of range; legal: at least 1"),
        ("block_size", 2048, "block_size: 2048 is out of range; legal: 1 to 1024"),
        ("mem_fraction_static", 1.5, "mem_fraction_static: 1.5 is out of range; legal: above 0 and at most 1"),
        ("mem_fraction_static", 0.0, "mem_fraction_static: 0.0 is out of range; legal: above 0 and at most 1"),
        ("prefill_stretch", float("nan"), "prefill_stretch: nan is not a number, at least 0"),
        ("prefill_stretch", float("inf"), "prefill_stretch: inf is not a number, at least 0"),
        (
            "prefill_stretch",
            0.5,
            "prefill_stretch 0.5: a prompt makes no step shorter; legal: 0 (no limit), or 1 and more",
        ),
        ("dtype", "int8", "dtype: int8 is not one of auto, float32, bfloat16, float16, float64"),
        ("device", "tpu", "device: tpu is not one of cpu, cuda"),
        ("served_model_name", "", "served_model_name: '' is not a word"),
        ("served_model_name", "a,,b", "served_model_name a,,b: legal: different names with commas between"),
        ("served_model_name", "a, a", "served_model_name a, a: legal: different names with commas between"),
        ("seed", -1, "seed: -1 is out of range; legal: 0 to 9223372036854775807"),
        ("enable_prefix_caching", 1, "enable_prefix_caching: 1 is not true or false"),
        ("max_num_seqs", None, "max_num_seqs: None is not a whole number"),
    ],
)
def test_impossible_limits(field: str, value: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)
    assert (caught.value.field, caught.value.value) == (field, value)


def test_two_sizes_of_one_cache_are_refused() -> None:
    with pytest.raises(ConfigError, match="kv_cache_memory 5 and mem_fraction_static 0.5 both size the KV cache"):
        EngineConfig(kv_cache_memory=5, mem_fraction_static=0.5)


def test_dtype_auto_is_the_checkpoints() -> None:
    assert resolve_dtype("auto", "bfloat16") == "bfloat16"
    assert resolve_dtype("float32", "bfloat16") == "float32"
    with pytest.raises(ConfigError, match="the checkpoint's dtype float8 is not supported; --dtype: float32"):
        resolve_dtype("auto", "float8")
    assert set(DTYPE_BYTES) == set(next(s for s in engine_settings() if s.name == "dtype").option.choices) - {"auto"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    mode: Literal["a", "b"] = option("a", "which", "--mode", choices=("a", "b"))
    hidden: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    parts: tuple[int, ...] | None = option(None, "sizes", "--parts", minimum=1)
    flag: bool = option(False, "switch", "--flag")
    inner: Inner | None = None
    quiet: int = option(1, "has no flag")


def test_settings_come_from_fields() -> None:
    found = {setting.name: setting for setting in settings_of(Outer)}
    assert list(found) == ["parts", "flag", "inner.mode", "quiet"]
    assert [(s.kind, s.optional, s.default) for s in found.values()] == [
        (tuple, True, None),
        (bool, False, False),
        (str, False, "a"),
        (int, False, 1),
    ]
    assert found["parts"].problem((1, 0)) == "0 is out of range; legal: at least 1"
    assert found["parts"].problem(None) is None and found["parts"].normal([2.0]) == (2,)


def test_flags_collect_only_what_was_given() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, settings_of(Outer), "given")
    assert parser.parse_args([]).given == {}
    given = parser.parse_args(["--parts", "2,3", "--no-flag", "--mode", "b"]).given
    assert given == {
        "parts": GivenValue((2, 3), "--parts"),
        "flag": GivenValue(False, "--no-flag"),
        "inner.mode": GivenValue("b", "--mode"),
    }


@dataclasses.dataclass(frozen=True)
class Made:
    size: int
    name: str = "a"
    twice: int = dataclasses.field(init=False, default=0)


def test_a_record_is_made_of_values_by_name() -> None:
    assert made(Made, {"size": 3}) == Made(3) and made(Made, {"name": "b", "size": 1}) == Made(1, "b")
    with pytest.raises(ConfigError, match="Made has no field nam; did you mean name") as caught:
        made(Made, {"size": 3, "nam": 1})
    assert (caught.value.field, caught.value.value, caught.value.legal) == ("nam", 1, ("size", "name"))
    with pytest.raises(ConfigError, match="Made has no field twice"):
        made(Made, {"size": 3, "twice": 1})
    with pytest.raises(ConfigError, match="Made needs size"):
        made(Made, {"name": "b"})


def test_nearest_names() -> None:
    assert nearest("--tpp", ["--tp", "--seed"]) == "; did you mean --tp?"
    assert nearest("zzz", ["--tp"]) == nearest("--hip", ["--help"]) == ""
