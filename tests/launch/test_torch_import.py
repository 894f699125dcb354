"""Importing torch in a rank: what is put off, and that it comes when it is asked for. Each case is an interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from weft.launch.torch_import import KNOWN

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
""")


@needs_known
def test_the_rest_makes_torch_whole() -> None:
    run(f"""
import_torch()
import torch
import_rest()
assert {READ!r} in sys.modules and callable(torch._meta_registrations.register_meta)
before = sys.modules[PUT_OFF]
import_rest()
assert sys.modules[PUT_OFF] is before
torch.Generator().manual_seed(0)
x = torch.empty(1, 2, 4, 8, device="meta")
assert torch.nn.functional.scaled_dot_product_attention(x, x, x).shape == x.shape
assert torch.equal(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)), torch.full((2,), 2.0))
""")


@pytest.mark.parametrize("known", [pytest.param((), marks=pytest.mark.long), ("1.",)])
def test_another_version_is_imported_whole(known: tuple[str, ...]) -> None:
    run(f"""
torch_import.KNOWN = {known!r}
import_torch()
before = sys.modules[PUT_OFF]
assert {READ!r} in sys.modules
import_rest()
assert sys.modules[PUT_OFF] is before
""")


@pytest.mark.parametrize("first", ["import torch", "import_rest(); import torch"])
def test_what_is_there_is_left_as_it_is(first: str) -> None:
    run(f"{first}; before = sys.modules[PUT_OFF]; import_torch(); import_rest(); assert sys.modules[PUT_OFF] is before")


@needs_known
def test_a_rank_puts_it_off_and_looks_at_no_module_again() -> None:
    run(f"""
import weft.launch.worker as worker
from weft.launch.channel import channel_pair
ours, theirs = channel_pair()
ours.close()
worker.tie_to_parent = lambda *_, **__: None
assert worker.main([str(theirs.detach()), "0", "0", "0"]) == worker.PeerError.exit_code
assert "weft.launch.rank" in sys.modules and {READ!r} not in sys.modules
assert gc.isenabled() and gc.get_freeze_count() > 100_000
""")
