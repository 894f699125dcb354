"""A few seconds of the mixed soak, as the long one runs: everything accepted ends, and nothing is left over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_nothing_is_lost_and_nothing_is_left() -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "server" / "soak.py"), "--minutes", "0.1", "--rate", "20"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["checks"] == dict.fromkeys(result["checks"], True), done.stderr + done.stdout
    ledger = result["ledger"]
    assert ledger["accepted"] == ledger["completed"] + ledger["failed"] + ledger["cancelled"] > 0
    assert result["seen"]["plain: 200"] == result["sent"]["plain"] > 20
