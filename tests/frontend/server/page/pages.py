"""A real browser, servers with many ranks, and the rules of accessibility. What is missing here skips a test."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

import weft.parallel.arch
from weft.frontend.server.page.layout_view import LayoutView
from weft.model.checkpoint.hub.embedded import cache_dir
from weft.parallel.arch.families import parse_config
from weft.parallel.layout import coords, resolve
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import node_of
from weft.runtime.ipc.report import RankReport
from weft.tools.explain import explain

AXE = "axe-core@4.14.1"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MODEL = "Llama-3.1-405B"


def chromium() -> str:
    """The path of a browser."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    return found


@cache
def axe() -> str:
    """The source of axe-core, fetched once by npm."""
    folder = cache_dir() / "page"
    archive = folder / f"{AXE.replace('@', '-')}.tgz"
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, check=True, timeout=120, capture_output=True)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"npm cannot have {AXE}: {error}")
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def layout_of(world: int) -> Layout:
    """Groups of up to eight ranks on hosts of up to 64."""
    tp = min(8, world)
    return resolve({"attention.tp": tp, "attention.dp": world // tp, "nodes": max(1, world // 64)}, world)


def view_of(world: int) -> LayoutView:
    """What explain says of it, for a well-known model."""
    file = Path(weft.parallel.arch.__file__).parent / "known" / f"{MODEL}.json"
    config = parse_config(json.loads(file.read_text()))
    return LayoutView(partial(explain, MODEL, config, layout_of(world), dtype="bfloat16", batch=8))


def reports_of(world: int) -> list[RankReport]:
    """Every rank of it, ready and in part busy; one of many loads."""
    layout = layout_of(world)
    return [
        RankReport(
            rank=rank,
            coordinates=asdict(coords(layout, rank)),
            host=f"host-{node_of(layout, rank)}",
            pid=1000 + rank,
            device="cpu",
            cpus=[],
            numa_node=None,
            phase="load" if world > 100 and rank == 77 else "ready",
            detail="",
            since_s=1.0,
            weight_bytes=1 << 30,
            kv_cache_bytes=1 << 28,
        )
        for rank in range(world)
    ]


def violations(page: Any) -> list[str]:
    """Rules of axe-core that the page breaks, and where."""
    found = page.evaluate("() => axe.run()")
    assert len(found["passes"]) > 10
    return [f"{one['id']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]
