"""Tokenizer: text to token ids and back, by a model's own rules. Holds no request's state."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from weft.base.errors import CheckpointError, RequestError, WeftError
from weft.base.fields import Fields
from weft.base.printable import printable
from weft.base.step.vocabulary import Vocabulary
from weft.engine.text.added_tokens import add_missing, ids_without_added, named_for_the_model, token_text
from weft.engine.text.characters import Characters
from weft.engine.text.chat_template import ChatTemplates
from weft.engine.text.gguf_vocabulary import adds_bos, gguf_tokenizer
from weft.engine.text.growth import check_growth, check_merges
from weft.engine.text.pieces import Pieces
from weft.model.checkpoint.checkpoint import Checkpoint, TokenizerSource
from weft.model.checkpoint.files import TOKENIZER_LIMIT, FileFault, read_text

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SAMPLE = "A loom is a machine of 1785.\n"
MOST_TRIED = 1000
"""Tokens that are tried as texts where the sample has none."""
SHORT = 1024
"""Characters of a text that is tokenized faster than another thread could take over."""
GGUF_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class Tokenizer:
    """A model's vocabulary, its rules for special tokens, and its chat templates. Safe to use from several threads."""

    def __init__(
        self,
        backend: Backend,
        *,
        named: Mapping[str, str],
        templates: Mapping[str, str],
        eos_token_ids: Sequence[int] = (),
        add_bos: bool | None = None,
        add_eos: bool | None = None,
        model_named: Mapping[str, str] | None = None,
    ) -> None:
        """named: bos_token, eos_token ... -> token; model_named: others (image_token). Templates see both. add_bos,
        add_eos: None leaves it to the backend's own rule."""
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._named_ids = {name: id for name, token in named.items() if (id := backend.token_to_id(token)) is not None}
        self.pieces = Pieces(backend)
        self.bos_token_id = self._named_ids.get("bos_token")
        self._eos = self._named_ids.get("eos_token")
        self.eos_token_ids = tuple(sorted({*eos_token_ids, *(() if self._eos is None else (self._eos,))}))
        added = backend.get_added_tokens_decoder()
        self.added_tokens = {token.content: id for id, token in added.items()}
        special = {id for id, token in added.items() if token.special}
        self.special_ids = frozenset(special | set(self._named_ids.values()))
        self.chat_templates = ChatTemplates(templates, {**(model_named or {}), **named})
        self.notes: tuple[str, ...] = ()
        """Lines for a person, of what does not fit the model."""
        self._before, self._after = self._surroundings(add_bos, add_eos)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Tokenizer:
        """The tokenizer of a model; CheckpointError when it has none or one that is not supported."""
        source = checkpoint.tokenizer
        if source is None:
            raise CheckpointError(f"checkpoint {checkpoint.path}: no tokenizer.json")
        build = cls._from_json if source.gguf is None else cls._from_gguf
        try:
            ends = checkpoint.eos_token_ids()
            made = build(source, ends)
            rows = checkpoint.config.get("vocab_size")
            if isinstance(rows, int):
                made._compare_rows(rows, ends)
            return made
        except CheckpointError as error:
            head = str(error).partition("\n")[0]
            raise CheckpointError(f"checkpoint {checkpoint.path}: {head}", error.problems) from error

    @classmethod
    def _from_json(cls, source: TokenizerSource, eos_token_ids: Sequence[int]) -> Tokenizer:
        path = Path(str(source.json_path))
        try:
            source_text = read_text(path, TOKENIZER_LIMIT)
        except (FileFault, FileNotFoundError) as fault:
            raise CheckpointError(f"{path}: {fault}") from None
        fields = Fields(source.config, str(path.parent / "tokenizer_config.json"))
        named = {name: text for name in NAMED if (text := token_text(fields, name))}
        with the_librarys_faults(path):
            check_merges(source_text)
            backend = Backend.from_str(source_text)
            check_growth(backend)
            add_missing(backend, fields, named, source.added_tokens)
            backend.encode_special_tokens = fields.flag("split_special_tokens", False)
            _refuse_clean_up(backend, fields)
            made = cls(
                backend,
                named=named,
                templates=source.chat_templates,
                eos_token_ids=eos_token_ids,
                add_bos=source.add_bos,
                add_eos=source.add_eos,
                model_named=named_for_the_model(fields),
            )
            made.decode(made.encode(SAMPLE))  # what the library cannot do fails here, and not at a request
        return made

    @classmethod
    def _from_gguf(cls, source: TokenizerSource, eos_token_ids: Sequence[int]) -> Tokenizer:
        metadata = source.gguf or {}
        fields = Fields(metadata, "metadata key")
        with the_librarys_faults("tokenizer.ggml.tokens"):
            backend = gguf_tokenizer(metadata)
            tokens = metadata["tokenizer.ggml.tokens"]
            ids = {name: metadata.get(f"tokenizer.ggml.{word}_token_id") for name, word in GGUF_NAMED.items()}
            made = cls(
                backend,
                named={name: tokens[id] for name, id in ids.items() if isinstance(id, int) and 0 <= id < len(tokens)},
                templates=source.chat_templates,
                eos_token_ids=eos_token_ids,
                add_bos=adds_bos(metadata),
                add_eos=fields.flag("tokenizer.ggml.add_eos_token", False),
            )
            made.decode(made.encode(SAMPLE))
        return made

    def _surroundings(self, add_bos: bool | None, add_eos: bool | None) -> tuple[list[int], list[int]]:
        """Ids put before and after every text: as the flags say, else as the backend does. CheckpointError: it adds
        what is no token, or not around the text."""
        bos, eos = self.bos_token_id, self._eos
        others = () if self._plain(SAMPLE) else islice(self._backend.get_vocab(), MOST_TRIED)
        text = next((text for text in (SAMPLE, *others) if self._plain(text)), "")
        own, whole = self._plain(text), self._backend.encode(text).ids
        at = next((at for at in range(len(whole) - len(own) + 1) if whole[at : at + len(own)] == own), None)
        if at is None:
            raise CheckpointError("its post_processor does not leave the tokens of a text together; legal: some around")
        before, after = whole[:at], whole[at + len(own) :]
        unknown = next((id for id in (*before, *after) if self._backend.id_to_token(id) is None), None)
        if unknown is not None:
            raise CheckpointError(f"its post_processor adds token id {unknown} to every text, which is no token")
        if add_bos is not None:
            before = [bos] if add_bos and bos is not None else []
        if add_eos is not None:
            after = [eos] if add_eos and eos is not None else []
        return before, after

    def _plain(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _compare_rows(self, rows: int, ends: Sequence[int]) -> None:
        """Against the `rows` of the embedding; `ends`: ids that end answers, beside its own. CheckpointError: every
        text would have a token without a row."""
        beyond = next((id for id in (*self._before, *self._after) if id >= rows), None)
        if beyond is not None:
            raise CheckpointError(
                f"the tokenizer adds token id {beyond} to every text; the embedding has {rows} rows (vocab_size)"
            )
        size = max(self.vocab_size, max(self._backend.get_added_tokens_decoder(), default=-1) + 1)
        notes = []
        if size > rows:
            notes.append(
                f"the tokenizer has {size} tokens, the embedding {rows} rows (vocab_size): texts with one beyond them"
                " are refused"
            )
        if ends := sorted({id for id in (*ends, *self.eos_token_ids) if id >= rows}):
            notes.append(f"no answer ends with token {ends[0]} (eos): the embedding has {rows} rows (vocab_size)")
        self.notes = tuple(notes)

    @cached_property
    def longest_token(self) -> int | None:
        """Characters of a text that one token may stand for, at most; None where there is no such bound."""
        spelling = self.pieces.spelling
        if not (spelling.byte_level or spelling.byte_fallback):
            return None  # a whole run of unknown characters may become one token
        longest = max(len(token.encode()) for token in self._backend.get_vocab(with_added_tokens=True))
        # Normalizing may shorten a text: canonical composition makes one character of up to four.
        return longest if self._backend.normalizer is None else 4 * longest

    def as_files(self) -> dict[str, str]:
        """The same tokenizer as tokenizer.json and tokenizer_config.json: file name -> text."""
        words = {
            **self.chat_templates.variables,
            "add_bos_token": bool(self._before),
            "add_eos_token": bool(self._after),
            "split_special_tokens": self._backend.encode_special_tokens,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        if self.has_chat_template:
            words["chat_template"] = self.chat_templates.sources["default"]
        backend = Backend.from_str(self._backend.to_str())
        around = [*self._before, *self._after]
        if around:
            single = [*map(self.token, self._before), "$A", *map(self.token, self._after)]
            specials = [(self.token(id), id) for id in dict.fromkeys(around)]
            backend.post_processor = TemplateProcessing(single=single, special_tokens=specials)
        return {"tokenizer.json": backend.to_str(), "tokenizer_config.json": json.dumps(words, indent=1)}

    @property
    def vocab_size(self) -> int:
        """Added tokens are counted."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def surroundings(self) -> tuple[Sequence[int], Sequence[int]]:
        """Ids that stand before and after every text."""
        return self._before, self._after

    def encode(self, text: str, *, add_special_tokens: bool = True, plain: bool = False) -> list[int]:
        """Token ids of `text`; added tokens written out in it become their ids, but not if `plain`. A prompt from a
        chat template has its own BOS: encode it without add_special_tokens."""
        try:
            if plain:
                ids = ids_without_added(self._backend, text)
            elif len(text) <= SHORT:
                ids = self._backend.encode(text, add_special_tokens=False).ids
            else:
                # Of the library's calls, only that for several texts lets other threads of the interpreter run.
                ids = self._backend.encode_batch([text], add_special_tokens=False)[0].ids
        except BaseException as error:  # a panic of the library is no Exception
            if not is_panic(error):
                raise
            raise RequestError("the model's tokenizer fails on this text", status=500) from None
        return [*self._before, *ids, *self._after] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary nothing."""
        characters = Characters(self.pieces, self.skipped(skip_special_tokens), at_start=True)
        return characters.push(ids, ended=True)

    def skipped(self, skip_special_tokens: bool) -> frozenset[int]:
        """Ids that decoding leaves out."""
        return self.special_ids if skip_special_tokens else frozenset()

    def token(self, id: int) -> str:
        """The vocabulary's own spelling of `id`; empty for an id it does not have."""
        return self._backend.id_to_token(id) or ""

    def token_id(self, token: str) -> int | None:
        """Id of a token in the vocabulary's own spelling."""
        return self._backend.token_to_id(token)

    def token_bytes(self, id: int) -> bytes:
        """Bytes that `id` adds to a text; may be part of a character."""
        return self.pieces[id]

    def vocabulary(self, size: int, eos_token_ids: Sequence[int] = ()) -> Vocabulary | None:
        """For grammars over logits of `size` columns; ids that end an answer are the tokenizer's and `eos_token_ids`.
        None where there is no such id: no grammar could end."""
        tokens = self.pieces.first(size)
        eos = {id for id in (*self.eos_token_ids, *eos_token_ids) if id < size}
        added = {id for id in {*self.pieces.added_ids, *self.special_ids, *eos} if id < size and tokens[id]}
        return Vocabulary.of(tokens, sorted(added), sorted(eos)) if eos else None

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` can work."""
        return "default" in self.chat_templates.sources

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt of a conversation, see ChatTemplates.render. RequestError carries the template's own message."""
        self.chat_templates.decide()
        return self.chat_templates.render(messages, **options)


def _refuse_clean_up(backend: Backend, fields: Fields) -> None:
    """FieldError: transformers would take spaces out of what is decoded, which a stream cannot. For byte pairs it
    does so only with a second flag."""
    second = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    if fields.flag("clean_up_tokenization_spaces", False):
        if not isinstance(backend.model, BPE) or fields.flag(second, False):
            kind = type(backend.model).__name__
            raise fields.wrong("clean_up_tokenization_spaces", "false", f"spaces stay in the answers of a {kind} model")


def is_panic(error: BaseException) -> bool:
    """Whether the library of tokenizers, which is not Python's, gave up; what it raises then is no Exception."""
    return type(error).__name__ == "PanicException"


@contextmanager
def the_librarys_faults(where: object) -> Iterator[None]:
    """CheckpointError for whatever the library of tokenizers raises over a file (plain Exceptions, and panics)."""
    try:
        yield
    except WeftError:
        raise
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, Exception) or is_panic(error):
            raise CheckpointError(f"{where}: {printable(str(error))}") from None
        raise
