"""Outcome: what one request was seen to do. Times are seconds of a monotonic clock since the run began."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """`problem` is None only for an answer that came whole: text or not, its finish_reason, the stream's end."""

    asked: int
    """Tokens of the answer that were asked for."""
    due: float = 0.0
    """When it should have been sent."""
    sent: float = 0.0
    first: float | None = None
    """The first text; where an answer has none, its end."""
    last: float | None = None
    """The last text, or the finish_reason."""
    ended: float = 0.0
    gaps: list[float] = field(default_factory=list)
    """Seconds between pieces of text that follow each other."""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    pieces: int = 0
    counted: bool = False
    """Whether the server reported the numbers of tokens; otherwise each piece of text counts as one."""
    finish_reason: str | None = None
    done: bool = False
    """The stream said that it was complete."""
    problem: str | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it counts as completed."""
        return self.problem is None

    @property
    def ttft(self) -> float | None:
        """Time to first token, seconds."""
        return None if self.first is None else self.first - self.sent

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, seconds; None for answers of one token."""
        if self.first is None or self.last is None or self.output_tokens < 2:
            return None
        return (self.last - self.first) / (self.output_tokens - 1)

    @property
    def latency(self) -> float:
        """From sending to the end of the stream, seconds."""
        return self.ended - self.sent

    def text_at(self, now: float) -> None:
        """A piece of text came."""
        if self.last is not None:
            self.gaps.append(now - self.last)
        else:
            self.first = now
        self.last = now
        self.pieces += 1

    def finished_at(self, now: float, reason: str) -> None:
        """The answer is complete; its last token may have had no text."""
        self.finish_reason = reason
        self.first = now if self.first is None else self.first
        self.last = now
