"""Importing torch in a rank: what is put off, and that it comes when it is asked for. Each case is an interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from weft.launch.torch_import import KNOWN, PUT_OFF

READ = "torch._decomp"
"""Imported by `PUT_OFF`, and by nothing else that comes with torch."""

needs_known = pytest.mark.skipif(
    not torch.__version__.startswith(KNOWN), reason=f"torch {torch.__version__} is imported whole"
)


def run(code: str) -> None:
    lines = ("import gc, sys", "from weft.launch import torch_import", "from weft.launch.torch_import import *", code)
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@needs_known
def test_torch_works_without_what_is_put_off() -> None:
    run(f"""
import_torch()
import torch
x = torch.arange(6.0).view(2, 3)
assert torch.allclose(torch.nn.functional.silu(x) @ x.T, (x * torch.sigmoid(x)) @ x.T)
assert torch.empty(4, 3, device="meta")[:2].shape == (2, 3)
assert PUT_OFF in sys.modules and {READ!r} not in sys.modules
assert not any(type(finder).__module__ == torch_import.__name__ for finder in sys.meta_path)
""")


@needs_known
def test_it_is_read_when_a_name_of_it_is_asked_for() -> None:
    run(f"""
import_torch()
import torch
assert not hasattr(torch._meta_registrations, "__no_such__") and {READ!r} not in sys.modules
assert callable(torch._meta_registrations.register_meta)
assert {READ!r} in sys.modules and type(torch._meta_registrations) is type(sys)
assert not hasattr(torch._meta_registrations, "no_such")
""")


@needs_known
def test_a_rank_puts_it_off_and_looks_at_no_module_again() -> None:
    run(f"""
from weft.launch.worker import _imported
assert callable(_imported().serve)
assert {READ!r} not in sys.modules
assert gc.isenabled() and gc.get_freeze_count() > 100_000
""")


@pytest.mark.parametrize("known", [(), ("1.",)])
def test_another_version_is_imported_whole(known: tuple[str, ...]) -> None:
    run(
        f"torch_import.KNOWN = {known!r}; import_torch(); assert {READ!r} in sys.modules and {PUT_OFF!r} in sys.modules"
    )


def test_what_is_there_is_left_as_it_is() -> None:
    run(f"import torch; before = sys.modules[{PUT_OFF!r}]; import_torch(); assert sys.modules[PUT_OFF] is before")
