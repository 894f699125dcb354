"""A verify report as lines of text and as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.base.plural import counted
from weft.base.settings import EngineConfig
from weft.parallel.layout.serialize import to_dict
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.tools.verify.compare import Agreement, Divergence
from weft.tools.verify.verify import VerifyReport

_GROUPS = "int4 has a scale for each 32 of what each has of a row, and matrices are cut inside such groups"
_VERDICTS = {
    "agrees": "the layout agrees with one rank",
    "differs": "the layout DIFFERS from one rank",
    "undecided": "NOT PROVEN: nothing differs, but too few tokens were decided",
}


def lines(plan: LaunchPlan, report: VerifyReport) -> list[str]:
    """The verdict first, then what was compared."""
    found = [
        f"{counted(plan.layout.world, 'rank')}, {_numbers(plan.engine)}: {_VERDICTS[report.verdict]}",
        *_agreement("in lockstep", report.lockstep, with_logits=True),
    ]
    for replica, served in enumerate(report.served):
        which = f" of replica {replica}" if len(report.served) > 1 else ""
        found += _agreement(f"as processes{which}, collectives {plan.comm}", served, with_logits=False)
    if report.module is not None:
        m = report.module
        where = f" in dp group {m.group}" if plan.layout.attention.dp > 1 else ""
        found.append(
            f"first module that differs: {m.module}, in {m.step}{where}: "
            f"{m.difference:.2g} of its largest value (tolerance {report.lockstep.tolerance:g})"
        )
    elif not report.lockstep.agrees:
        found.append("no single module differs by more than the tolerance on the longest prompt")
    elif report.verdict == "differs":
        found.append("in lockstep the layout agrees: suspect the processes' collectives or kernels, not the layout")
    elif report.verdict == "undecided":
        found.append(f"where the two best tokens of one rank are nearly equal, either one passes: {_advice(plan)}")
    if report.verdict == "differs" and plan.shards.cuts_groups:
        found.append(f"ranks hold other quantized values than one: {_GROUPS}; verify the layout without --quantization")
    return found


def _numbers(engine: EngineConfig) -> str:
    coded = engine.quantization != "none"
    return f"{engine.dtype}, matrices in {engine.quantization}" if coded else engine.dtype


def _advice(plan: LaunchPlan) -> str:
    """How to get more decided tokens."""
    engine = plan.engine
    if engine.dtype in ("float32", "float64"):
        return "give other texts (--prompt), or more tokens of each (--tokens)"
    coded = " without --quantization" if engine.quantization == "gguf" or plan.shards.cuts_groups else ""
    return f"take --dtype float32{coded}, whose tolerance is narrower"


def _agreement(title: str, agreement: Agreement, *, with_logits: bool) -> list[str]:
    logits = (
        f", logits within {agreement.largest_difference:.1e} of their range (tolerance {agreement.tolerance:g})"
        if with_logits
        else ""
    )
    proven = f"{agreement.decided} of {agreement.asked} tokens decided and equal"
    others = f"{agreement.tokens} compared"
    return [f"  {title}: {proven}, {others}{logits}", *(f"    {_divergence(d)}" for d in agreement.divergences)]


def _divergence(d: Divergence) -> str:
    verdict = "undecided there, no failure" if d.excused else "a failure"
    return (
        f"prompt {d.request} parts at token {d.step}: one rank {d.reference}, layout {d.other}; "
        f"one rank's own gap {d.gap:.2g}, tolerance {d.tolerance:.2g}: {verdict}"
    )


def document(plan: LaunchPlan, report: VerifyReport) -> dict[str, Any]:
    """The stable JSON form."""
    module = report.module
    return {
        "schema": "weft.verify/1",
        "agrees": report.verdict == "agrees",
        "verdict": report.verdict,
        "world": plan.layout.world,
        "layout": to_dict(plan.layout),
        "dtype": plan.engine.dtype,
        "lockstep": _json(report.lockstep),
        "served": _served(plan, report.served),
        "first_difference": None
        if module is None
        else {"module": module.module, "step": module.step, "group": module.group, "difference": module.difference},
    }


def _served(plan: LaunchPlan, found: Sequence[Agreement]) -> dict[str, Any] | None:
    """All replicas together, and each where there are several."""
    if not found:
        return None
    each = [_json(agreement) for agreement in found]
    if len(each) == 1:
        return {"comm": plan.comm.name, **each[0]}
    together = {
        "agrees": all(agreement.agrees for agreement in found),
        **{name: sum(one[name] for one in each) for name in ("asked", "tokens", "decided")},
        "divergences": [divergence for one in each for divergence in one["divergences"]],
    }
    return {"comm": plan.comm.name, **each[0], **together, "replicas": each}


def _json(agreement: Agreement) -> dict[str, Any]:
    return {
        "agrees": agreement.agrees,
        "asked": agreement.asked,
        "tokens": agreement.tokens,
        "decided": agreement.decided,
        "largest_difference": agreement.largest_difference,
        "tolerance": agreement.tolerance,
        "divergences": [
            {
                "prompt": d.request,
                "token": d.step,
                "reference": d.reference,
                "layout": d.other,
                "gap": d.gap,
                "tolerance": d.tolerance,
                "excused": d.excused,
            }
            for d in agreement.divergences
        ],
    }
