"""A process of one host of `two_hosts.py`: an engine that answers bursts, or a rank that times collectives.

    python -m benchmarks.common.host_process engine WORLD_OF_LLM
    python -m benchmarks.common.host_process rank NUMBER ADDRESS

Both talk in lines of JSON: the engine prints seconds for each burst {"streams", "tokens"} that it reads; a rank prints
where it listens, reads where all do, and rank 0 prints its cases.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks.comm_latency import measure
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.comm.backend import CommSpec, HostSite, RankEnd
from weft.compute.comm.registry import backend_named
from weft.frontend.llm import LLM
from weft.runtime.launch_plan.hosts import HostsConfig

HOST_OF = (0, 1)
TOKEN = b"benchmark"


def engine(given: dict[str, Any]) -> None:
    """Of the embedded model on two ranks; `meeting`: on two hosts."""
    hosts = HostsConfig(**given["meeting"]) if "meeting" in given else None
    config = EngineConfig(**given["config"])
    with LLM(tp=2, nnodes=2 if hosts else None, hosts=hosts, config=config) as llm:
        print("ready", flush=True)
        for line in sys.stdin:
            burst = json.loads(line)
            params = SamplingParams(temperature=0.0, max_tokens=burst["tokens"], ignore_eos=True)
            prompts = [f"Story {number}: once upon a time" for number in range(burst["streams"])]
            began = time.perf_counter()
            llm.generate(prompts, params)
            print(json.dumps(time.perf_counter() - began), flush=True)


def rank(number: int, address: str) -> None:
    """One of two, on hosts of their own."""
    group, backend = (0, 1), backend_named("tcp")
    meeting = backend.meet(CommSpec(2, (group,), site=HostSite(number, HOST_OF, address)))
    print(json.dumps(meeting.addresses()), flush=True)
    given = json.loads(sys.stdin.readline())
    peers = {int(each): (str(host), int(port)) for each, (host, port) in given["peers"].items()}
    end = RankEnd(number, 2, (group,), meeting.fds(number), host_of=HOST_OF, peers=peers, token=TOKEN, address=address)
    comm = backend.make(end)
    meeting.met()
    cases = measure({"tcp": comm}, group, given["bytes"], given["rounds"])
    comm.barrier(group)
    if number == 0:
        print(json.dumps(cases), flush=True)
    comm.close()
    meeting.close()


if __name__ == "__main__":
    if sys.argv[1] == "engine":
        engine(json.loads(sys.argv[2]))
    else:
        rank(int(sys.argv[2]), sys.argv[3])
