"""What a model is made of: its config, its weights, and which part of each a rank holds. No torch."""

from weft.parallel.arch.config import ModelConfig, RopeConfig
from weft.parallel.arch.families import parse_config
from weft.parallel.arch.params import param_specs
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.spec import Cut, ParamSpec

__all__ = ["Cut", "ModelConfig", "ParamSpec", "RopeConfig", "Shards", "param_specs", "parse_config"]
