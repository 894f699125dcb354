"""Makes the peers' files of a model, each when it is first needed, all from one directory of bf16 weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.install import NotInstalled, install, run, sources
from benchmarks.peers.places import HERE, Places

CONVERT = HERE / "convert"
PADDED_KV_HEADS = 4
"""Of the small model, so that two ranks divide them: 3 and 9 heads become 4 and 12."""
EMBEDDED = "smollm2"

_LLAMA = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "rope_theta": 500000.0,
}  # fmt: skip
_QWEN3 = {
    "model_type": "qwen3", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 5120, "rope_theta": 1000000.0,
}  # fmt: skip
_COMMON = {
    "vocab_size": 49152, "max_position_embeddings": 16384, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
RANDOM = {"llama-1b": {**_LLAMA, **_COMMON}, "qwen3-1b": {**_QWEN3, **_COMMON}}
"""Forms of about a billion parameters with random weights; the small model's vocabulary and tokenizer."""
FORMS = (EMBEDDED, *RANDOM)


class Models:
    """The files of the form that `places` names. `gguf`: the embedded model's file."""

    def __init__(self, places: Places, gguf: Path) -> None:
        self.places, self.gguf = places, gguf

    def make(self, name: str) -> Path:
        """The file or directory, made with whatever it is made from. NotInstalled: a conversion failed."""
        target = self.places.models / name
        if target.exists():
            return target
        makers: dict[str, Callable[[Path], None]] = {
            "directory": self._directory,
            "padded": self._padded,
            "bf16.gguf": self._bf16,
            "q8_0.gguf": lambda part: self._requantized(part, "Q8_0"),
            "q4_0.gguf": lambda part: self._requantized(part, "Q4_0"),
            "openvino-fp16": lambda part: self._openvino(part, "fp16"),
            "openvino-int8": lambda part: self._openvino(part, "int8"),
            "onnx-int4": self._onnx,
        }
        self.places.models.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"part-{name}")
        shutil.rmtree(part, ignore_errors=True)
        print(f"making {self.places.form}/{name}", flush=True)
        makers[name](part)
        part.rename(target)
        return target

    def _python(self, peer: str, *words: str | Path) -> None:
        install(peer, self.places)
        run([self.places.python(peer), *words], self.places.models, "convert.log")

    def _directory(self, part: Path) -> None:
        if self.places.form == EMBEDDED:
            self._python("transformers", CONVERT / "dequantize.py", self.gguf, part)
            return
        words = json.dumps(RANDOM[self.places.form])
        tokenizer = self.places.cache / "models" / EMBEDDED / "directory"
        if not tokenizer.exists():
            raise NotInstalled(f"the tokenizer is that of {EMBEDDED}: run that form once before")
        self._python("transformers", CONVERT / "random_weights.py", words, tokenizer, part)

    def _padded(self, part: Path) -> None:
        source = self.make("directory")
        if self.places.form != EMBEDDED:  # its heads divide by two as they are
            part.symlink_to(source.name)
            return
        self._python("transformers", CONVERT / "pad_heads.py", source, part, str(PADDED_KV_HEADS))

    def _bf16(self, part: Path) -> None:
        source = self.make("directory")
        install("llamacpp", self.places)
        script = sources(self.places) / "convert_hf_to_gguf.py"
        self._python("transformers", script, source, "--outtype", "bf16", "--outfile", part)

    def _requantized(self, part: Path, kind: str) -> None:
        source = self.make("bf16.gguf")
        run([self.places.programs / "llama-quantize", source, part, kind], self.places.models, "convert.log")

    def _openvino(self, part: Path, kind: str) -> None:
        source = self.make("directory")
        install("openvino", self.places)
        task = ["--task", "text-generation-with-past", "--weight-format", kind]
        cli = self.places.peer("openvino") / "venv" / "bin" / "optimum-cli"
        run([cli, "export", "openvino", "-m", source, *task, part], self.places.models, "convert.log")

    def _onnx(self, part: Path) -> None:
        source, scratch = self.make("directory"), self.places.models / "scratch"
        words: list[str | Path] = ["-m", "unused", "-i", source, "-o", part, "-p", "int4", "-e", "cpu", "-c", scratch]
        self._python("onnxruntime", "-m", "onnxruntime_genai.models.builder", *words)
        shutil.rmtree(scratch, ignore_errors=True)
