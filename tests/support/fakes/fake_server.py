"""A whole server over ranks without torch: engine, restarts, HTTP. Run as a program it is `weft serve` with those.

python -m tests.support.fakes.fake_server MODEL BEHAVIOUR [LIMIT=VALUE ...]
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.fakes.fake_group import fake_plan, spawner
from weft.base.errors import WeftError
from weft.base.log import configure
from weft.engine.text import Tokenizer
from weft.frontend.server.http.listen import bind
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.server.run import run_server
from weft.frontend.serving.engine_start import starts_of
from weft.frontend.serving.recovery.restarts import Recovery
from weft.frontend.serving.replicas import Replicas
from weft.runtime.ipc.phases import PhaseChange
from weft.runtime.launch_plan.timeouts import ProcessLimits


class Impatient(Recovery):
    """Delays a tenth as long, and counts deaths over ten times as long: a machine may have much else to do."""

    def __init__(self) -> None:
        super().__init__(lambda: time.monotonic() / 10)

    def delay(self, error: BaseException, lived_s: float) -> float:
        return super().delay(error, lived_s) / 10


SIZES = {"ranks": 2, "replicas": 1, "seqs": 64, "restart": 1}


def main(words: list[str]) -> int:
    configure()
    values: dict[str, Any] = {name: float(value) for name, _, value in (word.partition("=") for word in words[2:])}
    ranks, replicas, seqs, restart = (int(values.pop(name, count)) for name, count in SIZES.items())
    limits = ProcessLimits(**values)
    plan = fake_plan(Path(words[0]), limits, ranks, replicas, seqs)
    tokenizer = Tokenizer.from_checkpoint(plan.checkpoint)
    sock = bind("127.0.0.1", 0)
    print(f"listening on {sock.getsockname()[1]}", flush=True)

    def phase(start: int, change: PhaseChange) -> None:
        print(f"start {start}: {change}", flush=True)

    engine = partial(
        Replicas,
        starts_of(plan, phase, spawner(words[1])),
        max_queued=8,
        on_ready=lambda: print("ready", flush=True),
        recovery=Impatient if restart else None,
    )
    try:
        model = ServedModel("tiny", tokenizer, plan.config.vocab_size, 0)
        run_server(sock, model, engine, limits.drain_timeout)
    except WeftError as error:
        print(f"ended: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
