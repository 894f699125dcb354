"""Where the text model stands among a directory's tensors: under what its names begin with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from weft.parallel.arch.family import TensorNames

OTHERS = re.compile(r"(^|\.)(vision|visual|vit|image|audio|speech|mtp|connector|draft|encoder)")
"""Parts of names under which other models than the text model stand."""


@dataclass(frozen=True, slots=True)
class TextNames:
    """The text model's tensors are stored as `prefix` and the rest of their name, in place of `root` and the rest.
    `head`: the stored name of the lm_head."""

    names: TensorNames
    root: str
    prefix: str
    head: str

    @classmethod
    def of(cls, names: TensorNames, stored: Iterable[str]) -> TextNames:
        """Found from the names `stored`: the first layer's first norm is under the prefix, whatever that is."""
        root, _, layer = names.layer.format(0).rpartition(".0")[0].rpartition(".")
        root = f"{root}." if root else ""
        first = f"{layer}.0.{names.attention_norm}.weight"
        known = set(stored)
        found = sorted({name[: -len(first)] for name in known if name.endswith(first)})
        prefixes = [prefix for prefix in found if not prefix or prefix.endswith(".")]
        text = [prefix for prefix in prefixes if not OTHERS.search(prefix)]
        prefix = root if root in prefixes or len(text) != 1 else text[0]
        heads = (f"{prefix.removesuffix(root)}{names.lm_head}.weight", f"{names.lm_head}.weight")
        return cls(names, root, prefix, next((head for head in heads if head in known), heads[1]))

    def name_of(self, stored: str) -> str | None:
        """The name that the family has for a stored tensor; None: it is none of the text model."""
        if stored == self.head:
            return f"{self.names.lm_head}.weight"
        if not stored.startswith(self.prefix):
            return None
        rest = stored[len(self.prefix) :]
        own = {name.removeprefix(self.root).split(".")[0] for name in self._places}
        return f"{self.root}{rest}" if rest.split(".")[0] in own else None

    @property
    def _places(self) -> tuple[str, ...]:
        return self.names.embedding, self.names.layer, self.names.norm
