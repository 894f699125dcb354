"""Hints for options of vLLM that weft does not have."""

from __future__ import annotations

from weft.base.data_files import read_toml

INSTEAD = read_toml("weft.cli.args", "vllm_words.toml", dict[str, str])


def said_of(flag: str) -> str | None:
    """What weft has instead of vLLM's `flag`, also without its dashes in the name; None: vLLM has no such flag."""
    # Imported here: a large table, needed only for unknown options.
    from weft.tools.dialects.vllm.flags import TABLE

    name = flag if not flag.startswith("--") else "--" + flag[2:].replace("_", "-")
    found = TABLE.names.get(name.partition(".")[0])
    if found is None:
        return None
    words = next((INSTEAD[each] for each in found.names if each in INSTEAD), None)
    whole = "weft has no such option; --from vllm -- vllm serve ... reads a whole command of vLLM"
    return f"vLLM's option: {words or whole}"
