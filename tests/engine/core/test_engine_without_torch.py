"""The engine imports, and runs, where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import importlib, pkgutil, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoTorch())
sys.path.insert(0, sys.argv[1])
import weft.engine.core
names = [module.name for module in pkgutil.walk_packages(weft.engine.core.__path__, "weft.engine.core.")]
for name in names:
    importlib.import_module(name)

from tests.engine.core.simulation import Simulation, World
simulation = Simulation(World(num_blocks=12), 1)
simulation.run(300)
assert "torch" not in sys.modules
print(len(names), simulation.engine.stats().total.finished)
"""


def test_all_modules_import_and_run() -> None:
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(here)], cwd=here.parents[2], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    modules, finished = map(int, done.stdout.split())
    assert modules >= 12 and finished > 20
