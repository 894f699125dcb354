"""Hints for options of vLLM that weft does not have."""

from __future__ import annotations

INSTEAD = {
    "--gpu-memory-utilization": "use --mem-fraction-static, or --kv-cache-memory",
    "--kv-cache-memory-bytes": "use --kv-cache-memory",
    "--num-gpu-blocks-override": "use --kv-cache-memory",
    "--swap-space": "there is none: preempted requests are computed again",
    "--enable-chunked-prefill": "it is always on; see --max-num-batched-tokens",
    "--scheduling-policy": "requests run by priority, then by arrival",
    "--all2all-backend": "use --moe-dispatch",
    "--eplb-config": "use --eplb, --expert-slots and --expert-balance-interval",
    "--distributed-executor-backend": "use --comm",
    "--master-addr": "use --dist-init-addr HOST:PORT",
    "--master-port": "use --dist-init-addr HOST:PORT",
    "--data-parallel-address": "use --dist-init-addr HOST:PORT",
    "--headless": "use --node-rank, which is above 0 on every host but the server's",
    "--data-parallel-size-local": "use --nnodes: ranks are spread over hosts evenly",
    "--data-parallel-start-rank": "use --node-rank",
    "--numa-bind-cpus": "use --cpus",
    "--disable-custom-all-reduce": "use --comm gloo",
    "--trust-remote-code": "weft never runs a model's own code",
    "--download-dir": "set HF_HOME",
    "--hf-token": "set HF_TOKEN",
    "--load-format": "the format is read from the files",
    "--enable-log-requests": "prompts are never logged; --access-log logs a line for each request",
    "--disable-log-requests": "prompts are never logged",
    "--disable-log-stats": "no statistics are logged",
    "--uvicorn-log-level": "use --log-level",
    "--disable-uvicorn-access-log": "there is no access log unless --access-log is given",
    "--shutdown-timeout": "use --drain-timeout",
    "--enable-prompt-tokens-details": "usage always has cached_tokens",
    "--enable-server-load-tracking": "/load always reports it",
    "--enable-request-id-headers": "every answer has X-Request-Id",
    "--disable-fastapi-docs": "there are no such pages",
    "--max-logprobs": "the limit is 20",
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
    whole = "weft has no such option; --from vllm -- vllm serve ... reads a whole command of vLLM"
    return f"vLLM's option: {words or whole}"
