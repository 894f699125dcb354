"""EngineConfig: the limits of an engine, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass

from weft.base.errors import ConfigError
from weft.base.options import Setting, check_fields, option, settings_of
from weft.base.weight_formats import Chosen, chosen_by, kept_blocks

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
"""Bytes of an element, by the names that --dtype takes."""
MOE_BACKENDS = ("packed", "grouped", "plain")
TOKENS_PER_BLOCK, TOKENS_PER_STEP = 16, 2048
"""Of a KV block, and of a step in each dp group, where nothing else is decided."""
DEFAULT_LOGPROBS = 20
"""Alternatives of a token that a request may ask for, where nothing else is said."""
LOGPROB_BYTES, RESULT_BYTES = 15, 48 << 20
"""Of an alternative in a step's results, and what all of a step's may take: three quarters of the largest frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """User's settings as given; None means 'decided at start and printed'. Impossible values raise ConfigError."""

    dtype: str = option(
        "auto",
        "type of weights and activations; auto takes the checkpoint's; float16 is slow on CPUs",
        "--dtype",
        choices=("auto", *DTYPE_BYTES),
    )
    quantization: str = option(
        "none",
        "how weights are stored: int8 (a scale per row), int4 (a scale per 32 values), or gguf: the file's own"
        f" {', '.join(kept_blocks())}",
        "--quantization",
        choices=("none", *chosen_by(Chosen.OPTION), "gguf"),
    )
    activations: str = option(
        "auto",
        "activations of quantized matmuls: full, or int8 (dynamic, a scale per 32 values): faster, a little less exact;"
        " auto: int8 in bf16 on CPUs with AVX512-VNNI and without AMX, for int4 on AVX2 too, else full",
        "--activations",
        choices=("auto", "full", "int8"),
        expert=True,
    )
    compress_weights: bool | None = option(
        None,
        "store bf16 weights in 12 bits each without loss: few streams are faster, many a little slower (default: on"
        " CPUs with AVX512-BF16 or AMX, or with AVX2 alone)",
        "--compress-weights",
        expert=True,
    )
    max_model_len: int | None = option(
        None, "longest prompt plus output, in tokens (default: the model's context)", "--max-model-len", minimum=2
    )
    max_num_seqs: int = option(64, "requests that run at once in each dp group", "--max-num-seqs", minimum=1)
    max_num_batched_tokens: int | None = option(
        None,
        "tokens of a step in each dp group; longer prompts take several steps (default: 2048; 1024 / stages, at least"
        " 256, where there are pipeline stages)",
        "--max-num-batched-tokens",
        "--chunked-prefill-size",
        minimum=1,
    )
    block_size: int | None = option(
        None,
        "tokens of a KV block (default: 16; 32 in bf16 on CPUs with AMX)",
        "--block-size",
        minimum=1,
        maximum=1024,
        expert=True,
    )
    kv_cache_memory: int | None = option(
        None, "size of each rank's KV cache, as 2GiB, 512MiB or in bytes", "--kv-cache-memory", minimum=1, unit="bytes"
    )
    mem_fraction_static: float | None = option(
        None,
        "share of the free memory for weights and KV cache together (default: 0.8)",
        "--mem-fraction-static",
        above=0.0,
        maximum=1.0,
    )
    prefill_stretch: float = option(
        2.0,
        "how many times longer a step of running requests may take because of new prompts (at least 16 prompt tokens a"
        " step run); 0: no limit",
        "--prefill-stretch",
        minimum=0.0,
        expert=True,
    )
    enable_prefix_caching: bool = option(
        True, "reuse the KV cache of prompts that begin alike", "--enable-prefix-caching"
    )
    max_logprobs: int = option(
        DEFAULT_LOGPROBS,
        "log-probabilities of other tokens that a request may ask for, for each of its tokens; -1: the whole"
        " vocabulary, or what a step's results have room for",
        "--max-logprobs",
        minimum=-1,
        expert=True,
    )
    seed: int = option(0, "seed of requests without one", "--seed", minimum=0, maximum=2**63 - 1)
    served_model_name: str | None = option(
        None,
        "name of the model for clients, or several with commas between; answers have the first (default: that of its"
        " directory)",
        "--served-model-name",
        metavar="NAME,NAME,...",
    )
    enforce_eager: bool = option(
        False, "run a step operation by operation instead of as a recorded program", "--enforce-eager", expert=True
    )
    threads: int | None = option(
        None, "compute threads of each rank (default: its share of the cores)", "--threads", minimum=1
    )
    cpus: str | None = option(
        None,
        "CPUs of each rank of this machine, as '0-7|8-15' (one list a rank, no CPU on two), with a thread for each"
        " physical core listed (default: all cores, divided evenly)",
        "--cpus",
        metavar="LIST|LIST|...",
        expert=True,
    )
    server_cpus: str | None = option(
        None,
        "CPUs of the HTTP server and the scheduler, as 16-17; without --cpus the ranks get the others (default:"
        " CPUs that no rank is pinned to, if any)",
        "--server-cpus",
        metavar="LIST",
        expert=True,
    )
    device: str = option("cpu", "where the ranks compute", "--device", choices=("cpu", "cuda"))
    ranks_per_device: int = option(
        1, "consecutive ranks that share a CUDA device", "--ranks-per-device", minimum=1, expert=True
    )
    expert_placement: str | None = option(
        None,
        "file with the first placement: the expert of each slot (weft, TensorRT-LLM or SGLang format)",
        "--expert-placement",
        metavar="FILE",
        expert=True,
    )
    expert_stats: str | None = option(
        None,
        "file for the experts' loads, written after each window and at the end",
        "--expert-stats",
        metavar="FILE",
        expert=True,
    )
    eplb_window: int | None = option(
        None,
        "last steps whose expert loads a rebalancing uses (default: all since the last one)",
        "--eplb-window",
        minimum=1,
        expert=True,
    )
    eplb_max_moved: int | None = option(
        None,
        "slots of a layer that one rebalancing may change (default: a quarter, at least 2)",
        "--eplb-max-moved",
        minimum=1,
        expert=True,
    )
    eplb_bytes_per_step: int = option(
        4 << 20,
        "expert weights that a rank may receive, or send, before one step",
        "--eplb-bytes-per-step",
        minimum=4096,
        unit="bytes",
        expert=True,
    )
    eplb_threshold: float = option(
        0.98,
        "only layers with less balance (mean / maximum of the ranks' loads) are changed",
        "--eplb-threshold",
        above=0.0,
        maximum=1.0,
        expert=True,
    )

    moe_backend: str = option(
        "auto",
        "how routed experts run: packed weights (CPU), one grouped matmul, or plain: one matmul per slot",
        "--moe-backend",
        choices=("auto", *MOE_BACKENDS),
        expert=True,
    )

    def __post_init__(self) -> None:
        self.check()

    @property
    def tokens_per_block(self) -> int:
        """`block_size` as given or decided."""
        return self.block_size or TOKENS_PER_BLOCK

    @property
    def tokens_per_step(self) -> int:
        """`max_num_batched_tokens` as given or decided."""
        return self.max_num_batched_tokens or TOKENS_PER_STEP

    @property
    def most_logprobs(self) -> int:
        """Alternatives of each of a step's tokens that its results have room for."""
        return RESULT_BYTES // (LOGPROB_BYTES * self.tokens_per_step)

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names of `served_model_name`; none where it is not given."""
        return () if self.served_model_name is None else tuple(map(str.strip, self.served_model_name.split(",")))

    def check(self) -> None:
        """Raises ConfigError naming the first field whose value is impossible."""
        check_fields(self)
        if 0 < self.prefill_stretch < 1:
            raise ConfigError(
                f"prefill_stretch {self.prefill_stretch}: a prompt makes no step shorter; legal: 0 (no limit), or 1 and"
                " more",
                field="prefill_stretch",
                value=self.prefill_stretch,
            )
        if not all(self.served_names) or len({*self.served_names}) < len(self.served_names):
            raise ConfigError(
                f"served_model_name {self.served_model_name}: legal: different names with commas between",
                field="served_model_name",
                value=self.served_model_name,
            )
        if self.tokens_per_step < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens {self.tokens_per_step} is below max_num_seqs {self.max_num_seqs}: "
                f"a step carries one row of every running request; legal: {self.max_num_seqs} or more, "
                "or a smaller max_num_seqs",
                field="max_num_batched_tokens",
                value=self.tokens_per_step,
            )
        if self.max_logprobs > self.most_logprobs:
            raise ConfigError(
                f"max_logprobs {self.max_logprobs} with max_num_batched_tokens {self.tokens_per_step}: the"
                f" results of a step have room for {self.most_logprobs} of each token; legal: -1 to"
                f" {self.most_logprobs}, or a smaller max_num_batched_tokens",
                field="max_logprobs",
                value=self.max_logprobs,
            )
        if self.kv_cache_memory is not None and self.mem_fraction_static is not None:
            raise ConfigError(
                f"kv_cache_memory {self.kv_cache_memory} and mem_fraction_static {self.mem_fraction_static} "
                "both size the KV cache; give one of them",
                field="kv_cache_memory",
                value=self.kv_cache_memory,
            )


def engine_settings() -> tuple[Setting, ...]:
    """The fields as options, in order of declaration."""
    return settings_of(EngineConfig)


def resolve_dtype(asked: str, checkpoint: str) -> str:
    """The dtype to compute in: the one asked for, or the checkpoint's for 'auto'. ConfigError where weft lacks it."""
    name = checkpoint if asked == "auto" else asked
    if name not in DTYPE_BYTES:
        legal = ", ".join(DTYPE_BYTES)
        whose = "the checkpoint's dtype" if asked == "auto" else "dtype"
        raise ConfigError(
            f"{whose} {name} is not supported; --dtype: {legal}", field="dtype", value=name, legal=tuple(DTYPE_BYTES)
        )
    return name
