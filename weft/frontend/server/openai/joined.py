"""Pieces of choices as whole choices, and which of them come back."""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.core.choice import ChoiceDelta


def likeliest(choices: Sequence[ChoiceDelta], made: int, kept: int) -> list[ChoiceDelta]:
    """Of each `made` choices of one prompt the `kept` of the highest mean log-probability of a token, best first; all
    of them as they came where all are kept."""
    if made == kept:
        return list(choices)

    def mean(piece: ChoiceDelta) -> float:
        return sum(entry.logprob for entry in piece.logprobs) / max(1, len(piece.logprobs))

    groups = [choices[start : start + made] for start in range(0, len(choices), made)]
    return [piece for group in groups for piece in sorted(group, key=mean, reverse=True)[:kept]]


def joined(pieces: Sequence[ChoiceDelta]) -> ChoiceDelta:
    """One choice of all that came of it."""
    return ChoiceDelta(
        text="".join(piece.text for piece in pieces),
        token_ids=[token for piece in pieces for token in piece.token_ids],
        logprobs=[entry for piece in pieces for entry in piece.logprobs],
        prompt_logprobs=[entry for piece in pieces for entry in piece.prompt_logprobs],
        finish_reason=pieces[-1].finish_reason,
        stop_reason=pieces[-1].stop_reason,
    )
