"""Why a layout is not the first: one sentence, with the number that decides."""

from __future__ import annotations

from collections.abc import Iterator

from weft.base.plural import counted
from weft.tools.explain.units import binary
from weft.tools.plan.dominance import amounts
from weft.tools.plan.parts import Explained, Part, Size, ranks_of
from weft.tools.plan.plan import Ranked
from weft.tools.plan.search import Candidate, Space, parts_of, phases_of, times_of
from weft.tools.plan.times import bounded_by

SHOWN = 12
"""Reasons that are printed."""


def reasons(space: Space, best: Ranked) -> Iterator[str]:
    """Other sizes of each module of the best layout, then other attention shapes, stages and replicas."""
    explained = space.explained
    yield from _other_sizes(explained, best)
    seen = {(best.candidate.shape, best.candidate.stages, best.candidate.replicas)}
    rest = sorted(
        ((times_of(explained, each).request, str(each), each) for each in space.left), key=lambda one: one[:2]
    )
    for _, _, candidate in rest:
        key = candidate.shape, candidate.stages, candidate.replicas
        if key not in seen:
            seen.add(key)
            yield f"{axes(candidate)}: {_against(explained, candidate, best)}"


def size_words(size: Size) -> str:
    """'8', or 'tp 2 ep 4'."""
    return f"tp {size[0]} ep {size[1]}" if isinstance(size, tuple) else str(size)


def axes(candidate: Candidate) -> str:
    """Attention's sizes, stages and replicas; 'one rank'."""
    shape = candidate.shape
    parts = {"tp": shape.tp, "dp": shape.dp, "cp": shape.cp, "kv_split": shape.kv_split}
    words = [f"{name} {size}" for name, size in parts.items() if size > 1]
    text = f"attention {' '.join(words)}" if words else "attention tp 1"
    more = [counted(candidate.stages, "stage")] if candidate.stages > 1 else []
    more += [counted(candidate.replicas, "replica")] if candidate.replicas > 1 else []
    return ", ".join((text, *more))


def name_of(candidate: Candidate) -> str:
    """Its axes, and the modules whose size is not attention's."""
    others = [f"{module} {size_words(size)}" for module, size in candidate.sizes if size != candidate.shape.tp]
    return ", ".join((axes(candidate), *others))


def _other_sizes(explained: Explained, best: Ranked) -> Iterator[str]:
    candidate = best.candidate
    chosen = dict(candidate.sizes)
    for module, size in candidate.sizes:
        for key, part in sorted(explained.parts.items(), key=lambda item: ranks_of(item[0][3])):
            if key[:3] == (candidate.shape, candidate.whole, module) and part.size != size:
                mine = explained.parts[candidate.shape, candidate.whole, module, chosen[module]]
                yield f"{module} {size_words(part.size)}: {_of_part(explained, candidate, part, mine)}"


def _of_part(explained: Explained, candidate: Candidate, other: Part, mine: Part) -> str:
    """What another size saves, and what it costs, in a decode step."""
    phase, prompt = phases_of(explained.goal, candidate.shape, candidate.stages, candidate.replicas)
    count = sum(explained.passes(candidate.stages, other.module))
    held = max(mine.held) - max(other.held)
    found = [f"saves {binary(held)} a rank that nothing needs"] if held > 0 else []
    sums = []
    for part in (other, mine):
        own = amounts(part.terms[phase])
        read = sum(nbytes for key, (nbytes, _, _) in own.items() if isinstance(key[0], str))
        links = [value for key, value in own.items() if not isinstance(key[0], str)]
        sums.append((read, sum(one[0] for one in links), sum(one[2] for one in links)))
    read, received, calls = (count * (theirs - ours) for theirs, ours in zip(*sums, strict=True))
    words = ((read, f"reads {binary(int(abs(read)))} {{}} a step"),
             (received, f"receives {binary(int(abs(received)))} {{}} a step"),
             (calls, f"{int(abs(calls))} {{}} calls a step"))  # fmt: skip
    more = [text.format("more") for value, text in words if value > 0]
    less = [text.format("fewer" if "calls" in text else "less") for value, text in words if value < 0]
    if held < 0:
        more.append(f"holds {binary(-held)} more a rank")
    scale = explained.cluster.scale(candidate.world)
    slower = count * (explained.seconds_of(other, phase, scale) - explained.seconds_of(mine, phase, scale))
    found += [", ".join(less)] if less and more else []
    found += [", ".join(more)] if more else ["the same counts" if not less else ", ".join(less)]
    time = f"{slower * 1e3:+.2f} ms a step"
    if slower < 0:
        chunk = count * (explained.seconds_of(other, prompt, scale) - explained.seconds_of(mine, prompt, scale))
        time += f", but {chunk * 1e3:+.2f} ms a prompt's step"
    return "; ".join((*found, time))


def _against(explained: Explained, candidate: Candidate, best: Ranked) -> str:
    times, ours = times_of(explained, candidate), best.times
    ratio = times.request / ours.request
    differs = {name: seconds - ours.modules.get(name, 0.0) for name, seconds in times.modules.items()}
    module = max(differs, key=lambda name: differs[name])
    if differs[module] <= 0:
        prompt = f"{times.prompt * 1e3:.1f} ms a prompt against {ours.prompt * 1e3:.1f}"
        return f"{ratio:.2f} times the time of a request; {prompt}, whose requests wait for each other in fewer groups"
    phase, _ = phases_of(explained.goal, candidate.shape, candidate.stages, candidate.replicas)
    part = next((one for one in parts_of(explained, candidate) if one.module == module), None)
    rates = explained.cluster.rates
    why = "waits for other stages"
    if part is not None:
        why = f"bounded by {bounded_by(max(part.terms[phase], key=lambda term: term.nbytes), rates)}"
    times_text = f"{times.modules[module] * 1e3:.2f} ms a step against {ours.modules.get(module, 0.0) * 1e3:.2f}"
    return f"{ratio:.2f} times the time of a request; {module} takes {times_text}, {why}"
