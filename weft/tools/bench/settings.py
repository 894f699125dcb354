"""BenchSettings: what is asked of a server and how often, each field an option of the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weft.base.errors import ConfigError
from weft.base.options import Setting, check_fields, option, settings_of

WORKLOADS = ("random", "shared-prefix", "file")
ENDPOINTS = ("completions", "chat")
PROMPTS = ("auto", "ids", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """One benchmark. ConfigError for values that are impossible, alone or together."""

    workload: str = option(
        "random", "prompts: random; shared-prefix (a few long common prefixes); file", "--workload", choices=WORKLOADS
    )
    input_len: int = option(128, "tokens of a prompt, without a shared prefix", "--input-len", minimum=1)
    output_len: int = option(64, "tokens of an answer", "--output-len", minimum=1)
    range_ratio: float = option(
        0.0, "lengths vary around their value by this fraction", "--range-ratio", minimum=0.0, maximum=0.95, expert=True
    )
    prefix_len: int = option(512, "tokens of a shared prefix", "--prefix-len", minimum=1, expert=True)
    num_prefixes: int = option(4, "different shared prefixes", "--num-prefixes", minimum=1, expert=True)
    file: str | None = option(
        None, "JSON lines: prompt (text or ids) or messages; output_len where it differs", "--file", metavar="FILE"
    )
    concurrency: tuple[int, ...] | None = option(
        None, "requests in flight; one run for each (default: 1,8)", "--concurrency", minimum=1, maximum=4096
    )
    request_rate: tuple[float, ...] | None = None
    """Requests per second (Poisson arrivals), one run for each; inf sends all at once."""
    num_prompts: int | None = option(
        None, "requests of a run (default: 4 for each in flight, at least 16; a file: its lines)", "--num-prompts",
        minimum=1, maximum=1_000_000,
    )  # fmt: skip
    warmup: int = option(2, "requests before each run that are not measured", "--warmup", minimum=0, expert=True)
    repeat: int = option(1, "runs of the same load; medians are shown", "--repeat", minimum=1, maximum=1000)
    seed: int = option(0, "of prompts and arrivals", "--workload-seed", minimum=0, maximum=2**31, expert=True)
    temperature: float = option(0.0, "of the answers", "--temperature", minimum=0.0, maximum=2.0)
    ignore_eos: bool = option(True, "answers go on to --output-len", "--ignore-eos", expert=True)
    endpoint: str = option("completions", "endpoint of the requests", "--endpoint", choices=ENDPOINTS, expert=True)
    prompts_as: str = option(
        "auto", "token ids or text; auto: ids to completions where the vocabulary is known", "--prompts-as",
        choices=PROMPTS, expert=True)  # fmt: skip
    timeout: float = option(
        600.0, "seconds in which an answer must be complete", "--timeout", above=0.0, metavar="SECONDS", expert=True
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.workload == "file") != (self.file is not None):
            raise ConfigError(
                f"workload {self.workload}: "
                + ("a file is needed (--file FILE)" if self.file is None else "--file needs --workload file"),
                field="workload", value=self.workload, legal=WORKLOADS,
            )  # fmt: skip
        if self.endpoint == "chat" and self.prompts_as == "ids":
            raise ConfigError(
                "prompts_as ids: chat takes text; legal: text, or --endpoint completions",
                field="prompts_as", value="ids", legal=("text",),
            )  # fmt: skip

    @property
    def unused(self) -> tuple[str, ...]:
        """Fields that this workload does not depend on."""
        prefixes = ("prefix_len", "num_prefixes")
        return {"random": prefixes, "file": (*prefixes, "input_len", "range_ratio")}.get(self.workload, ())

    @property
    def loads(self) -> tuple[OfferedLoad, ...]:
        """The loads to measure, in order; without any given: 1 and 8 in flight."""
        asked = self.concurrency or (() if self.request_rate else (1, 8))
        return (
            *(OfferedLoad(concurrency=n) for n in asked),
            *(OfferedLoad(rate=rate) for rate in self.request_rate or ()),
        )

    def count(self, load: OfferedLoad, lines: int | None = None) -> int:
        """Requests of a run; `lines` of the workload's file."""
        if self.num_prompts is not None:
            return self.num_prompts
        return lines if lines is not None else max(16, 4 * (load.concurrency or 0))

    @property
    def path(self) -> Path | None:
        """Of the workload's file."""
        return None if self.file is None else Path(self.file)


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """Either so many requests in flight, or so many new ones per second."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.rate:g} requests/s" if self.rate is not None else f"{self.concurrency} in flight"

    def document(self) -> dict[str, object]:
        """For JSON, which has no infinity."""
        if self.rate is None:
            return {"concurrency": self.concurrency}
        return {"request_rate": "inf" if self.rate == float("inf") else self.rate}


def bench_options() -> tuple[Setting, ...]:
    """The fields that are options, in order."""
    return settings_of(BenchSettings)
