"""The tokenizer's files of a model directory: what stands in one of them only, and what two of them say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.base.fields import Fields
from weft.model.checkpoint.checkpoint import Json, TokenizerSource
from weft.model.checkpoint.files import FileFault, read_object, read_text

TEXT = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
MORE_TEMPLATES = "additional_chat_templates"
"""A folder with further templates, each a file `<name>.jinja`."""
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
FLAGS = {"add_bos_token": True, "add_eos_token": False}
"""Flags of tokenizer_config.json, and what a file without them means to transformers 4."""
LLAMA_CLASSES = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer")
LLAMA_TYPES = ("llama", "mistral", "mixtral", "deepseek_v2", "deepseek_v3")
"""Models whose tokenizer is a LlamaTokenizer, where tokenizer_config.json names none."""
MOST_TEMPLATES = 64


def read_text_files(path: Path, model: Json, problems: list[str], notes: list[str]) -> TokenizerSource | None:
    """What the directory `path` says of its tokenizer; None where it has no tokenizer.json. `model`: config.json.
    FieldError: a field that cannot be."""
    file = path / "tokenizer.json"
    if not file.exists():
        return None
    config = read_json(path / "tokenizer_config.json", problems)
    config |= _special_tokens(path, config, problems, notes)
    templates = named_templates(config.pop("chat_template", None), path / "tokenizer_config.json", problems)
    templates |= _template_files(path, problems, notes, templates)
    old = "added_tokens_decoder" not in config
    added = read_json(path / "added_tokens.json", problems) if old else {}
    fields = Fields(config, str(path / "tokenizer_config.json"))
    bos, eos = edge_tokens(fields, Fields(model, str(path / "config.json")), notes)
    return TokenizerSource(
        json_path=str(file), config=config, chat_templates=templates, added_tokens=added, add_bos=bos, add_eos=eos
    )


def _special_tokens(path: Path, config: Json, problems: list[str], notes: list[str]) -> Json:
    """What special_tokens_map.json adds or changes. As in transformers it counts, unless tokenizer_config.json lists
    the added tokens, as newer ones do."""
    others = read_json(path / "special_tokens_map.json", problems)
    named = {name: others[name] for name in NAMED if name in others}
    named |= {name: others[name] for name in EXTRA if name in others and name not in config}
    named |= {name: value for name, value in others.items() if name.endswith("_token")}
    if "added_tokens_decoder" in config:
        return {}
    for name, value in named.items():
        if name in config and name in NAMED and token_text(config[name]) != token_text(value):
            notes.append(
                f"{path / 'special_tokens_map.json'}: {name} {token_text(value)!r} counts; tokenizer_config.json has"
                f" {token_text(config[name])!r}"
            )
    return named


def edge_tokens(fields: Fields, model: Fields, notes: list[str]) -> tuple[bool | None, bool | None]:
    """Whether every text is put between BOS and EOS; None leaves it to tokenizer.json's post-processor.

    transformers 5 leaves it always; transformers 4 lets its classes of Llama's kind make a post-processor of
    add_bos_token and add_eos_token. So the version that wrote config.json says which of the two was meant."""
    given = {key: fields.flag(key, default) for key, default in FLAGS.items()}
    version = model.text("transformers_version", "5", longest=100)
    kind = fields.text("tokenizer_class", "", longest=200).removesuffix("Fast")
    old = version.partition(".")[0] in ("0", "1", "2", "3", "4")
    if old and (kind in LLAMA_CLASSES or (not kind and model.values.get("model_type") in LLAMA_TYPES)):
        return given["add_bos_token"], given["add_eos_token"]
    if any(key in fields for key in FLAGS):
        said = " and ".join(f"{key} {str(given[key]).lower()}" for key in FLAGS if key in fields)
        notes.append(f"{fields.where}: tokenizer.json's post-processor counts, whatever {said} says")
    return None, None


def read_json(file: Path, problems: list[str], required: bool = False) -> Json:
    """The object in a file; {} where it is not there, unless it is required, or faulty."""
    try:
        return read_object(file)
    except FileNotFoundError:
        if required:
            problems.append(f"{file}: no such file")
    except FileFault as fault:
        problems.append(f"{file}: {fault}")
    return {}


def token_text(value: Any) -> str | None:
    """A token of tokenizer_config.json: a string, or {"content": string, ...}."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def named_templates(value: Any, file: Path, problems: list[str]) -> dict[str, str]:
    """The templates of a tokenizer config's `chat_template`: one string, a list of {name, template}, or an object of
    templates by name."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    entries = value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):  # of one name, the last counts
        entries = {item.get("name"): item.get("template") for item in value}
    if isinstance(entries, dict) and all(isinstance(item, str) for pair in entries.items() for item in pair):
        return entries
    fields = Fields({"chat_template": value}, str(file))
    problems.append(str(fields.wrong("chat_template", "a string, or a list of objects with name and template")))
    return {}


def _template_files(path: Path, problems: list[str], notes: list[str], inner: dict[str, str]) -> dict[str, str]:
    """Templates in files of their own, which count more than those of tokenizer_config.json (`inner`)."""
    found: dict[str, str] = {}
    old = read_json(path / "chat_template.json", problems).get("chat_template")
    found |= named_templates(old, path / "chat_template.json", problems) if "default" not in inner else {}
    files = {"default": path / "chat_template.jinja"}
    if (path / MORE_TEMPLATES).is_dir():
        more = sorted(file for file in (path / MORE_TEMPLATES).iterdir() if file.suffix == ".jinja")
        files |= {file.stem: file for file in more[:MOST_TEMPLATES]}
    for name, file in files.items():
        try:
            found[name] = read_text(file)
        except FileNotFoundError:
            continue
        except FileFault as fault:
            problems.append(f"{file}: {fault}")
            continue
        if inner.get(name, found[name]) != found[name]:
            notes.append(f"{file} counts; tokenizer_config.json has another template")
    return found
