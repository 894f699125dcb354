"""What a model is made of: its config, its weights, and which part of each a rank holds. No torch."""

from weft.arch.config import ModelConfig, RopeConfig
from weft.arch.families import parse_config
from weft.arch.params import param_specs
from weft.arch.shards import Shards
from weft.arch.spec import Cut, ParamSpec

__all__ = ["Cut", "ModelConfig", "ParamSpec", "RopeConfig", "Shards", "param_specs", "parse_config"]
