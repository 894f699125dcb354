"""Which agents host 0 takes."""

from __future__ import annotations

from collections.abc import Mapping

from weft.runtime.ipc.fingerprint import differences
from weft.runtime.supervisor.hosts.host_messages import AgentRefusal, HostReport


def refusal_of(
    report: HostReport, node: int, peer: str, count: int, settings: Mapping[str, str], taken_by: str
) -> AgentRefusal | None:
    """Why the agent that proved itself as `node`, from the address `peer`, is not taken; None: it is. `count`: hosts
    in all; `settings`: of host 0; `taken_by`: the agent that has this number, if any."""
    if report.node_rank != node or not 0 < node < count:
        return AgentRefusal(f"node_rank {report.node_rank}: there are {count} hosts; legal: 1 to {count - 1}")
    if report.own_address.partition("%")[0] != peer.partition("%")[0]:
        return AgentRefusal(
            f"its own address is {report.own_address}, but host 0 sees it at {peer}: addresses are translated between"
            " them (NAT), and ranks could not reach each other"
        )
    different = differences(("host 0", f"host {node}"), (settings, report.settings), "hosts")
    if different is not None:
        return AgentRefusal(str(different))
    if taken_by:
        return AgentRefusal(f"node_rank {node}: {taken_by} has it already", again=True)
    return None
