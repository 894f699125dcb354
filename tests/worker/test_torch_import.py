"""Importing torch in a rank: what is put off, and that it comes when it is asked for. Each case is an interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from weft.worker.torch_import import _is_known

READ = "torch._decomp"
"""Imported by `torch._meta_registrations`, and by nothing else that comes with torch."""
META = "torch._meta_registrations"
IS_LATER = "type(sys.modules[name]).__name__ == '_DeferredModule'"

needs_known = pytest.mark.skipif(
    not _is_known(torch.__version__), reason=f"torch {torch.__version__} is imported whole"
)


def run(code: str) -> str:
    """What it prints."""
    lines = ["import gc, sys", "from weft.worker import torch_import", "from weft.worker.torch_import import *"]
    lines += [f"META = {META!r}", code]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_known
def test_torch_works_without_what_is_put_off() -> None:
    run(f"""
import_torch()
import torch
x = torch.arange(6.0).view(2, 3)
assert torch.allclose(torch.nn.functional.silu(x) @ x.T, (x * torch.sigmoid(x)) @ x.T)
assert torch.empty(4, 3, device="meta")[:2].shape == (2, 3)
with torch.inference_mode():
    y = torch.empty(3).copy_(x[0])
assert y.tolist() == [0, 1, 2]
import importlib.util
assert importlib.util.find_spec("torch_nothing") is None and importlib.util.find_spec("torch.nothing") is None
assert all({IS_LATER} for name in DEFERRED) and {READ!r} not in sys.modules
assert importlib.util.find_spec("torch.export") is not None and not hasattr(torch.export, "nothing")
""")


@needs_known
def test_the_rest_makes_torch_whole_and_asks_nothing_that_warns() -> None:
    run(f"""
import warnings
warnings.simplefilter("error")
import_torch()
import torch
import_rest()
warnings.simplefilter("default")
assert {READ!r} in sys.modules and callable(torch._meta_registrations.register_meta)
before = [sys.modules[name] for name in DEFERRED]
import_rest()
assert [sys.modules[name] for name in DEFERRED] == before
torch.Generator().manual_seed(0)
x = torch.empty(1, 2, 4, 8, device="meta")
assert torch.nn.functional.scaled_dot_product_attention(x, x, x).shape == x.shape
assert torch.equal(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)), torch.full((2,), 2.0))
""")


NAMES = """
modules = {name for name in sys.modules if name.split(".")[0] in ("torch", "torchgen")}
print(sorted(modules), sorted((name, type(found).__name__) for name, found in vars(torch).items()))
print([name for name in sorted(modules) for found in vars(sys.modules[name]).values()
    if type(found).__name__ in ("_DeferredModule", "_DeferredFunction")])
"""


@needs_known
def test_with_the_rest_it_is_what_a_whole_import_gives() -> None:
    whole = run(f"import torch; {NAMES}")
    assert run(f"import_torch(); import torch; import_rest(); {NAMES}") == whole and whole.endswith("[]\n")


@needs_known
@pytest.mark.parametrize(
    "use",
    [
        "assert torch.vmap(lambda x: x + 1)(torch.ones(2)).tolist() == [2, 2]",
        pytest.param("assert not torch.compiler.is_compiling()", marks=pytest.mark.long),
        pytest.param("from torch.utils.data import Dataset; assert isinstance(Dataset, type)", marks=pytest.mark.long),
        pytest.param("assert 'tensor' in repr(torch.ones(2))", marks=pytest.mark.long),
        pytest.param("assert torch.nn.quantized.dynamic and torch._higher_order_ops.cond", marks=pytest.mark.long),
        pytest.param("import torch._dynamo.comptime", marks=pytest.mark.long),
        pytest.param(
            "assert torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1).state_dict()",
            marks=pytest.mark.long,
        ),
    ],
)
def test_whoever_looks_for_a_name_has_it_all(use: str) -> None:
    run(f"""
import_torch()
import torch
{use}
assert {READ!r} in sys.modules and not any({IS_LATER} for name in DEFERRED)
""")


@needs_known
def test_a_module_that_came_with_the_rest_is_read_once() -> None:
    run("""
import_torch()
import torch.export.dynamic_shapes as found, torch
assert found.__spec__.origin.endswith("dynamic_shapes.py") and found.Dim is torch.export.Dim
""")


@pytest.mark.parametrize(
    ("found", "known"),
    [
        ("2.13.0", True),
        ("2.13.1+cpu", True),
        ("2.13.0+cu130", True),
        ("2.13.0a0+git1234", False),
        ("2.13.0.dev20260801", False),
        ("2.13.0rc1", False),
        ("2.14.0", False),
        ("", False),
    ],
)
def test_releases_alone_are_known(found: str, known: bool) -> None:
    assert _is_known(found) is known


@needs_known
def test_a_backend_of_others_is_imported_with_all_that_it_may_need() -> None:
    run(f"""
torch_import.entry_points = lambda group: [group]
import_torch()
assert {READ!r} in sys.modules and not any({IS_LATER} for name in DEFERRED)
""")


@pytest.mark.parametrize("known", [pytest.param((), marks=pytest.mark.long), ("1.",)])
def test_another_version_is_imported_whole(known: tuple[str, ...]) -> None:
    run(f"""
torch_import.KNOWN = {known!r}
import_torch()
before = sys.modules[META]
assert {READ!r} in sys.modules
import_rest()
assert sys.modules[META] is before
""")


@pytest.mark.parametrize("first", ["import torch", pytest.param("import_rest(); import torch", marks=pytest.mark.long)])
def test_what_is_there_is_left_as_it_is(first: str) -> None:
    run(f"{first}; before = sys.modules[META]; import_torch(); import_rest(); assert sys.modules[META] is before")


@needs_known
def test_a_rank_puts_it_off_and_looks_at_no_module_again() -> None:
    run(f"""
import weft.worker.main as worker
from weft.ipc.channel import channel_pair
ours, theirs = channel_pair()
ours.close()
worker.tie_to_parent = lambda *_, **__: None
assert worker.main([str(theirs.detach()), "0", "0", "0"]) == worker.PeerError.exit_code
assert "weft.worker.rank" in sys.modules and {READ!r} not in sys.modules
assert gc.isenabled() and gc.get_freeze_count() > 100_000
""")
