"""What a plan is for: streams, lengths and limits, and how numbers are kept. Checked here; says nothing of layouts."""

from __future__ import annotations

from dataclasses import dataclass

from weft.base.errors import ConfigError
from weft.parallel.arch.config import ModelConfig
from weft.tools.explain.proposals import StepLoad


@dataclass(frozen=True, slots=True)
class Goal:
    """`streams` requests at once, each of `prompt` tokens and an answer of `answer`; `tpot`: seconds a token may take.
    `load`: what a step may carry, and how weights are kept; `block`: tokens of a KV block."""

    streams: int
    prompt: int
    answer: int
    load: StepLoad
    block: int
    tpot: float | None = None

    @property
    def context(self) -> int:
        """Tokens of a request at its end."""
        return self.prompt + self.answer

    @property
    def chunk(self) -> int:
        """Rows of a prompt in a step."""
        return min(self.prompt, self.load.rows)

    @property
    def chunks(self) -> int:
        """Steps of a prompt."""
        return -(-self.prompt // self.load.rows)

    @property
    def held(self) -> int:
        """Tokens of whole blocks that a request takes of the cache."""
        return -(-self.context // self.block) * self.block

    def check(self, config: ModelConfig) -> None:
        """ConfigError: a number that cannot be, or a request beyond the model's context."""
        for name, value in (("streams", self.streams), ("in", self.prompt), ("out", self.answer)):
            if value < 1:
                raise ConfigError(f"{name} {value}: a whole number of at least 1 is wanted", field=name, value=value)
        if self.tpot is not None and not self.tpot > 0:
            raise ConfigError(f"tpot {self.tpot}: a time above 0 is wanted, as 50ms", field="tpot", value=self.tpot)
        if self.context > config.longest_position:
            raise ConfigError(
                f"in {self.prompt} and out {self.answer} are {self.context} tokens: the model's context is"
                f" {config.longest_position}",
                field="in",
                value=self.prompt,
            )
