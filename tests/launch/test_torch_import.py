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
assert {READ!r} in sys.modules
assert not hasattr(torch._meta_registrations, "no_such")
""")


@needs_known
def test_the_rest_makes_torch_whole() -> None:
    run(f"""
import_torch()
import torch
import_rest()
assert {READ!r} in sys.modules
import_rest()
torch.Generator().manual_seed(0)
x = torch.empty(1, 2, 4, 8, device="meta")
assert torch.nn.functional.scaled_dot_product_attention(x, x, x).shape == x.shape
assert torch.equal(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)), torch.full((2,), 2.0))
""")


@needs_known
def test_threads_that_ask_at_once_all_get_it() -> None:
    run("""
from concurrent.futures import ThreadPoolExecutor
import_torch()
import torch
with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda _: torch._meta_registrations.register_meta, range(8)))
assert len(set(found)) == 1
""")


@needs_known
def test_a_failure_is_told_again() -> None:
    run("""
import_torch()
import torch
module = torch._meta_registrations
good = module.__spec__.loader._inner
class Bad:
    def exec_module(self, module): raise ImportError("no")
for _ in range(2):
    module.__spec__.loader._inner = Bad()
    try: module.register_meta
    except ImportError as error: assert str(error) == "no"
    else: raise AssertionError
module.__spec__.loader._inner = good
assert callable(module.register_meta)
""")


@needs_known
@pytest.mark.parametrize("first", ["", "import torch"])
def test_without_anything_put_off_there_is_no_rest(first: str) -> None:
    run(f"torch_import.KNOWN = ()\n{first}\nimport_rest()\nimport_torch()\nimport_rest()")


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
