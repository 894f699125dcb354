"""Random faults of two hosts under load: every request is answered, both hosts are left clean, and it goes on.

    python benchmarks/server/hosts_faults.py [--faults 100] [--minutes 60] [--seed 0] [--streams 4] [--model MODEL]
                                               [--save FILE]

Hosts are namespaces with one core each (tests/support/namespaces.py), so this needs root. A fault kills a rank of
either host or the agent, or cuts the link for some seconds; a server has four of them. Seconds from the fault until the
log names it, and from when process or link is back until the server is ready again, with the pauses of 1, 2, 4 and 8 s
between deaths that follow one another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, save_part, whole
from tests.support.namespaces import Command, Host, hosts, why_not

EACH = 4
"""Faults of one server: the fifth death within 60 s would be its end."""
PATIENCE_S = 240.0
FAULTS = ("rank of host 0 killed", "rank of host 1 killed", "agent killed", "link cut")


class Load:
    """Clients that ask one after the other; `found` counts how requests ended."""

    def __init__(self, sock: Path, streams: int) -> None:
        self._sock, self._over = sock, threading.Event()
        self.sent, self.found = 0, Counter[str]()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(streams)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        transport = httpx.HTTPTransport(uds=str(self._sock))
        with httpx.Client(transport=transport, base_url="http://hosts", timeout=PATIENCE_S) as client:
            count = 0
            while not self._over.is_set():
                count += 1
                with self._lock:
                    self.sent += 1
                body = {"model": "m", "prompt": f"Story {number} {count}:", "max_tokens": 64, "temperature": 0}
                try:
                    ended = str(client.post("/v1/completions", json=body).status_code)
                except httpx.HTTPError as error:
                    ended = type(error).__name__
                with self._lock:
                    self.found[ended] += 1
                if ended != "200":
                    time.sleep(0.1)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Pair:
    """Two hosts that serve one model."""

    def __init__(self, found: list[Host], model: str | None, folder: Path) -> None:
        self.hosts, self._model, self.sock = found, model, folder / "sock"
        self._secret = folder / "secret"
        self._secret.touch(mode=0o600)
        self.sock.unlink(missing_ok=True)
        self._secret.write_text(os.urandom(16).hex())
        self.server, self.agent = self._start(0), self._start(1)
        self.server.says("^ready on", PATIENCE_S)

    def _start(self, number: int) -> Command:
        words = [*([self._model] if self._model else []), "--tp", "2", "--nnodes", "2", "--node-rank", str(number)]
        words += ["--dist-init-addr", f"{self.hosts[0].address}:25000", "--dist-secret-file", str(self._secret)]
        words += ["--served-model-name", "m", *(["--uds", str(self.sock)] if number == 0 else [])]
        return self.hosts[number].weft("serve", *words)

    def suffer(self, fault: str, cut_s: float) -> tuple[float, float]:
        """Seconds until it was named, and until the server was ready again after it was over."""
        before, ready = self.server.text.count("starting the ranks again"), self.server.text.count("ready again")
        began = time.monotonic()
        if fault == "link cut":
            self.hosts[1].cut()
        elif fault == "agent killed":
            self.agent.send(signal.SIGKILL)
        else:
            command = self.server if fault == "rank of host 0 killed" else self.agent
            os.kill(command.ranks()[0], signal.SIGKILL)
        self._await(lambda: self.server.text.count("starting the ranks again") > before)
        named = time.monotonic() - began
        if fault == "link cut":
            time.sleep(max(0.0, cut_s - named))
            self.hosts[1].mend()
        elif fault == "agent killed":
            self.agent = self._start(1)
        over = time.monotonic()
        self._await(lambda: self.server.text.count("ready again") > ready)
        return named, time.monotonic() - over

    def _await(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.server.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server ended, or does not come back:\n{self.server.text[-4000:]}")
            time.sleep(0.01)


def run(args: argparse.Namespace, folder: Path, found: list[Host]) -> dict[str, Any]:
    """All faults, and what is left after each server's end."""
    draw = random.Random(args.seed)
    times: dict[str, list[tuple[float, float]]] = {fault: [] for fault in FAULTS}
    sent, ended, left = 0, Counter[str](), Counter[str]()
    until = time.monotonic() + args.minutes * 60
    for first in range(0, args.faults, EACH):
        if time.monotonic() > until:
            break
        pair = Pair(found, args.model, folder)
        load = Load(pair.sock, args.streams)
        for number in range(first, min(first + EACH, args.faults)):
            fault = draw.choice(FAULTS)
            named, ready = pair.suffer(fault, draw.uniform(3.0, 6.0))
            times[fault].append((named, ready))
            print(f"{number + 1}: {fault}: named after {named:.2f} s, ready {ready:.2f} s after", flush=True)
            time.sleep(draw.uniform(0.5, 3.0))
        load.end()
        pair.server.send(signal.SIGTERM)
        left.update(f"exit code {code}" for code in (pair.server.end(), pair.agent.end()))
        sent, ended = sent + load.sent, ended + load.found
        for host in found:
            left.update({"processes": len(host.processes()), "shared memory": len(host.run("ls", "/dev/shm").split())})
            left["sockets"] += _open_sockets(host)
    return {
        "faults": {
            fault: {
                "times": len(each),
                "named_longest_s": round(max((named for named, _ in each), default=0.0), 3),
                "ready_longest_s": round(max((ready for _, ready in each), default=0.0), 3),
            }
            for fault, each in times.items()
        },
        "requests": {"sent": sent, "ended": dict(ended)},
        "left": dict(left),
    }


def _open_sockets(host: Host) -> int:
    """TCP sockets of a host, but those whose connection has ended."""
    lines = host.run("cat", "/proc/net/tcp").splitlines()[1:]
    return sum(line.split()[3] not in ("06", "07") for line in lines)


def main() -> None:
    """Runs, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=whole, default=100)
    parser.add_argument("--minutes", type=whole, default=60, help="no server is started after so many (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=whole, default=4)
    parser.add_argument("--model", help="default: the embedded model")
    parser.add_argument("--save", type=result_file, metavar="FILE")
    args = parser.parse_args()
    if reason := why_not():
        sys.exit(f"hosts are namespaces, which this system refuses: {reason}")
    with tempfile.TemporaryDirectory() as name, hosts(Path(name)) as found:
        result = run(args, Path(name), found)
    print(json.dumps(result, indent=1))
    if args.save:
        save_part(args.save, "faults", {"about": about(), "seed": args.seed, **result})


if __name__ == "__main__":
    run_command(main)
