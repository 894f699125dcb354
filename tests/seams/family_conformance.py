"""What every model family must satisfy, those of weft and those of tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from weft.base.errors import ConfigError
from weft.parallel.arch import Shards, param_specs, parse_config
from weft.parallel.arch.family import ModelFamily
from weft.parallel.layout.resolve import resolve
from weft.tools.explain import explain

Raw = Mapping[str, Any]


def check_family(family: ModelFamily, raw: Raw) -> None:
    """`raw`: a small config.json of the family, for at least two ranks."""
    _read(family, raw)
    _refused(raw)
    _named(family, raw)
    _cut(raw)


def _read(family: ModelFamily, raw: Raw) -> None:
    config = parse_config(raw)
    assert config.family == family.name
    assert all(parse_config({**raw, "architectures": [name]}) == config for name in family.architectures)
    nameless = {key: value for key, value in raw.items() if key != "architectures"}
    assert parse_config({**nameless, "model_type": family.name}) == config


def _refused(raw: Raw) -> None:
    with pytest.raises(ConfigError, match=r"hidden_act gelu: only silu is supported"):
        parse_config({**raw, "hidden_act": "gelu"})
    with pytest.raises(ConfigError, match=r"the model's config lacks .*"):
        parse_config({key: raw[key] for key in ("architectures", "model_type")})


def _named(family: ModelFamily, raw: Raw) -> None:
    config = parse_config(raw)
    specs = param_specs(config)
    times = Counter(spec.name for spec in specs)
    tied = {f"{family.names.embedding}.weight"} if config.tie_embeddings else set()
    assert {name for name, count in times.items() if count > 1} == tied
    assert len({(spec.target, spec.part, spec.expert) for spec in specs}) == len(specs)
    if family.gguf is not None:
        names = family.names
        layer = names.layer.format(0)
        places = {**names.of_gguf_layer, **family.gguf.tensors}
        stored = [part for name in places.values() for part in names.fused.get(name, (name,))]
        read = {f"{layer}.{name}{kind}" for name in stored for kind in ("", ".weight", ".bias")}
        modules = {module for parts in names.of_gguf_experts.values() for module in parts}
        read |= {f"{layer}.{names.experts}.experts.0.{module}.weight" for module in modules}
        own = {spec.name for spec in specs if spec.target.startswith("layers.0.") and spec.expert in (None, 0)}
        assert own <= read
        assert family.gguf.permuted <= places.keys()


def _cut(raw: Raw) -> None:
    """Two ranks hold each weight once or each whole, and `weft explain` has a report of them."""
    config = parse_config(raw)
    layout = resolve({"attention.tp": 2, "dense.tp": 2, "lm_head.tp": 2}, 2, num_experts=config.num_experts)
    shards = Shards(config, layout)
    for spec in shards.specs:
        if spec.expert is None and spec.dim is not None and spec.module != "attention":
            held = [shards.local_shape(spec, rank)[spec.dim] for rank in range(2)]
            assert sum(held) == spec.shape[spec.dim] or held == [spec.shape[spec.dim]] * 2
    assert explain("model", config, layout, dtype="float32", batch=4)
