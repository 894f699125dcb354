"""Hints for options of vLLM that weft does not have."""

from __future__ import annotations

INSTEAD = {
    "--model": "the model is named without a flag: weft serve MODEL",
    "--gpu-memory-utilization": "use --mem-fraction-static, or --kv-cache-memory",
    "--kv-cache-memory-bytes": "use --kv-cache-memory",
    "--num-gpu-blocks-override": "use --kv-cache-memory",
    "--swap-space": "requests that lose their KV blocks are computed again",
    "--enable-chunked-prefill": "prompts are always cut to --max-num-batched-tokens and --prefill-stretch",
    "--scheduling-policy": "the priority of a request always counts, then its arrival",
    "--enable-expert-parallel": "use --moe-ep-size",
    "--all2all-backend": "use --moe-dispatch",
    "--eplb-config": "use --eplb, --expert-slots and --expert-balance-interval",
    "--distributed-executor-backend": "use --comm",
    "--numa-bind-cpus": "use --cpus",
    "--disable-custom-all-reduce": "use --comm gloo",
    "--trust-remote-code": "weft never runs a model's own code",
    "--download-dir": "set HF_HOME",
    "--hf-token": "set HF_TOKEN",
    "--load-format": "the files say it",
    "--config": "use --layout for sizes",
    "--enable-log-requests": "prompts are never logged; --access-log logs a line for each request",
    "--disable-log-requests": "prompts are never logged",
    "--disable-log-stats": "no statistics are logged",
    "--uvicorn-log-level": "use --log-level",
    "--disable-uvicorn-access-log": "there is none without --access-log",
    "--shutdown-timeout": "use --drain-timeout",
    "--enable-prompt-tokens-details": "usage always has cached_tokens",
    "--enable-server-load-tracking": "/load always reports it",
    "--enable-request-id-headers": "every answer has X-Request-Id",
    "--disable-fastapi-docs": "there are no such pages",
    "--max-logprobs": "up to 20 are given",
}


def said_of(flag: str) -> str | None:
    """What weft has instead of vLLM's `flag`, also without its dashes in the name; None: vLLM has no such flag."""
    # Imported here: a large table, needed only for unknown options.
    from weft.dialects.vllm.flags import TABLE

    name = flag if not flag.startswith("--") else "--" + flag[2:].replace("_", "-")
    found = TABLE.names.get(name.partition(".")[0])
    if found is None:
        return None
    words = next((INSTEAD[each] for each in found.names if each in INSTEAD), None)
    whole = "weft has no such setting; --from vllm -- vllm serve ... reads a whole command and says what it leaves out"
    return f"that is vLLM's: {words or whole}"
