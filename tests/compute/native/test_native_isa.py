"""One source, one library for each instruction set; the best that the CPU runs is loaded, or the one asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.native_libraries import need
from weft.base.errors import ConfigError
from weft.compute.native import build, isa, libraries

SOURCE = """#pragma GCC visibility push(default)
#if defined(__AMX_BF16__)
extern "C" int which() { return 5; }
#elif defined(__AVX512BF16__)
extern "C" int which() { return 4; }
#elif defined(__AVX512VNNI__)
extern "C" int which() { return 3; }
#elif defined(__AVX512F__)
extern "C" int which() { return 2; }
#elif defined(__AVX2__)
extern "C" int which() { return 1; }
#else
extern "C" int which() { return 0; }
#endif
#include "inner/number.h"
"""
NUMBER = {"amx": 5, "avx512bf16": 4, "avx512vnni": 3, "avx512": 2, "avx2": 1, "generic": 0}

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sources = tmp_path / "native"
    (sources / "inner").mkdir(parents=True)
    (sources / "inner" / "number.h").write_text("")
    (sources / "step.cpp").write_text(SOURCE)
    monkeypatch.setattr(libraries, "SOURCES", sources)
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    for name in ("WEFT_NATIVE", "WEFT_NATIVE_ISA", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return sources


@needs_compiler
def test_every_variant_is_built_and_the_best_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = build.ensure_built(libraries.names())
    assert [status.name for status in statuses] == [f"step-{variant}" for variant in isa.buildable()]
    assert all(status.state == "built" for status in statuses)
    best = libraries.load("step")
    assert best is not None and best.which() == NUMBER[isa.runnable()[0]]
    for variant in isa.runnable():
        monkeypatch.setenv("WEFT_NATIVE_ISA", variant)
        library = libraries.load("step")
        assert library is not None and library.which() == NUMBER[variant]
        assert libraries.missing_reason("step") == ""


@needs_compiler
def test_a_changed_header_of_the_folder_is_never_served_by_an_old_file(folder: Path) -> None:
    build.ensure_built(libraries.names())
    (folder / "inner" / "number.h").write_text("// changed")
    assert libraries.load("step") is None
    assert libraries.missing_reason("step") == "not built; run: python -m weft.compute.native.build"
    assert {status.state for status in build.ensure_built(libraries.names())} == {"built"}
    assert len(list((folder / "_build").iterdir())) == len(isa.buildable())


def flags_of(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(isa, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(isa, "cpu_vendor", lambda: "")
    monkeypatch.setattr("weft.compute.native.isa.platform.machine", lambda: "x86_64")


def test_what_a_cpu_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_NATIVE_ISA", raising=False)
    old = ("fma", "f16c", "bmi2", "avx2")
    wide = (*old, "avx512f", "avx512bw", "avx512dq", "avx512vl")
    tiles = (*wide, "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
    monkeypatch.setattr(isa, "tiles_allowed", lambda: True)
    for flags, runs in (
        ((), ("generic",)),
        (("avx2",), ("generic",)),
        (old, ("avx2", "generic")),
        ((*old, "avx512f"), ("avx2", "generic")),
        (wide, ("avx512", "avx2", "generic")),
        ((*wide, "avx512_bf16"), ("avx512", "avx2", "generic")),
        ((*wide, "avx512_vnni"), ("avx512vnni", "avx512", "avx2", "generic")),
        ((*wide, "avx512_vnni", "avx512_bf16"), ("avx512bf16", "avx512vnni", "avx512", "avx2", "generic")),
        (tiles, ("amx", "avx512bf16", "avx512vnni", "avx512", "avx2", "generic")),
    ):
        flags_of(monkeypatch, *flags)
        assert isa.runnable() == runs
        assert isa.chosen() == runs[0]


def test_tile_registers_that_the_system_keeps_back_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    flags_of(monkeypatch, *isa._NEEDED["amx"])
    monkeypatch.setattr(isa, "tiles_allowed", lambda: False)
    assert isa.runnable() == ("avx512bf16", "avx512vnni", "avx512", "avx2", "generic")


@pytest.mark.parametrize(
    ("vendor", "more", "best"),
    [
        ("GenuineIntel", {"avx512_fp16"}, "avx512vnni"),
        ("GenuineIntel", set(), "avx512bf16"),
        ("AuthenticAMD", {"avx512_fp16"}, "avx512bf16"),
        ("GenuineIntel", {"avx512_fp16", "amx_tile", "amx_bf16"}, "amx"),
    ],
)
def test_slow_products_of_pairs_are_not_the_best(
    monkeypatch: pytest.MonkeyPatch, vendor: str, more: set[str], best: str
) -> None:
    flags_of(monkeypatch, *isa._NEEDED["avx512bf16"], *more)
    monkeypatch.setattr(isa, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(isa, "tiles_allowed", lambda: True)
    assert isa.runnable()[0] == best
    assert sorted(isa.runnable()) == sorted(name for name in isa.FLAGS if name != "amx" or "amx_tile" in more)


def test_another_kind_of_machine_has_the_generic_variant_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.compute.native.isa.platform.machine", lambda: "aarch64")
    assert isa.buildable() == ("generic",) == isa.runnable()


@pytest.mark.parametrize("asked", ["avx512bf16", "avx1024"])
def test_a_variant_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    flags_of(monkeypatch, "fma", "f16c", "bmi2", "avx2")
    monkeypatch.setenv("WEFT_NATIVE_ISA", asked)
    with pytest.raises(ConfigError, match=f"WEFT_NATIVE_ISA {asked}: legal on this CPU: avx2, generic"):
        libraries.load("step")


@pytest.mark.parametrize(
    ("variant", "bits"), [("amx", ()), ("avx512bf16", (8, 4)), ("avx512vnni", (8, 4)), ("avx512", ()), ("avx2", (4,))]
)
def test_which_codes_are_faster_with_rows_of_8_bits(variant: str, bits: tuple[int, ...]) -> None:
    assert tuple(each for each in (8, 4) if isa.suits_int8_activations(variant, each)) == bits


@needs_compiler
def test_what_a_variant_does_by_itself_is_what_its_library_says(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    monkeypatch.setenv("WEFT_NATIVE_ISA", variant)
    need("step")
    library = libraries.load("step")
    assert library is not None
    assert isa.suits_bf16_12bit(variant) == bool(library.weft_suits_bf16_12bit())
