"""What the readers of command lines share: options, config files, defaults as notes, divisors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import yaml

from weft.parallel.layout.counts import divisors
from weft.tools.dialects.base import Context, Dialect, Document, Draft, Reading, Where, Word
from weft.tools.dialects.families import experts_of
from weft.tools.dialects.flags import Arguments, Table, parse
from weft.tools.dialects.sizes import Size, Sizes, whole_number
from weft.tools.dialects.sources.documents.aliases import checked
from weft.tools.dialects.sources.shell.commands import documents
from weft.tools.dialects.stated import named_file

_FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
_KEY = re.compile(r"(?m)^([a-z][\w-]*)[ \t]*:(?:[ \t]|$)")


def divisor_values(size: Size) -> tuple[int, ...]:
    """Legal values where a size must divide another; none while that is open."""
    return divisors(size) if size is not None and size <= 4096 else ()


def refuse_divisor(draft: Draft, arguments: Arguments, dest: str, value: Size, whole: Size, reason: str) -> None:
    """`FLAG VALUE: REASON`, with the divisors as legal values."""
    argument = arguments.given.get(dest)
    name = argument.name if argument else "--" + dest.replace("_", "-")
    legal = divisor_values(whole)
    shown = f"; legal: {', '.join(map(str, legal))}" if legal else ""
    draft.refuse(f"{name} {value}: {reason}{shown}", legal, arguments.where(dest))


def take_options(arguments: Arguments, draft: Draft, sizes: Mapping[str, str]) -> None:
    """Every flag that is no size becomes an option; a size flag that was not given becomes a note of its default."""
    for dest, argument in arguments.given.items():
        if not argument.flag.size:
            draft.options[dest] = argument.value
            if argument.variables:
                names = ", ".join(argument.variables)
                draft.note("info", "open-option", f"{argument.name} depends on {names}", argument.where)
        _check_choice(argument.flag.choices, argument.name, argument.value, draft, argument.where)
    for dest, default in sizes.items():
        if dest not in arguments:
            name = next(flag.names[0] for flag in arguments.table.flags if flag.dest == dest)
            draft.note("info", "default", f"{name} is not given; the engine's default is {default}")
    if "model" not in draft.options and draft.context.model:
        draft.options["model"] = draft.context.model


def take_model(arguments: Arguments, draft: Draft) -> None:
    """The model as the first word that is no flag; further ones are unknown words."""
    words = list(arguments.positional)
    if words and "model" not in draft.options:
        draft.options["model"] = words.pop(0).text
    for word in words:
        draft.note("warning", "unknown-word", f"{word.text!r} belongs to no flag: ignored", word.where)


def _check_choice(choices: Sequence[str], name: str, value: object, draft: Draft, where: Where) -> None:
    if choices and isinstance(value, str) and value not in choices and not value.startswith(("$", "<", "{")):
        message = f"{name} {value}: not among the known values {', '.join(choices)}"
        draft.note("warning", "unknown-value", message, where)


def mixture_of(draft: Draft, signs: Sequence[str]) -> tuple[bool, int | None]:
    """Whether the model is a mixture of experts, and its routed experts where they are known.

    `signs`: flags that only a mixture has; a note says that the engine ignores them for a dense model.
    """
    moe, experts = experts_of(model_of(draft), ", ".join(signs), draft)
    if signs and not moe:
        draft.note("warning", "ignored", f"{', '.join(signs)}: the model is dense, the engine ignores it")
    return moe, experts


def refuse_node_rank(draft: Draft, arguments: Arguments, nodes: Size, rank: int) -> None:
    """A rank that none of the nodes has."""
    if nodes is not None and rank >= nodes:
        legal = tuple(range(nodes))[:16]
        draft.refuse(f"--node-rank {rank}: there are {nodes} nodes", legal, arguments.where("node_rank"))


def model_of(draft: Draft) -> str:
    """The model's name, from the text or beside it."""
    found = draft.options.get("model")
    return found if isinstance(found, str) else ""


def arguments_of(document: Document, draft: Draft, table: Table, title: str) -> Arguments:
    """The arguments of a command, of a fragment, or of a config file alone; refuses what has none of the engine's."""
    arguments = parse(_configured(document, draft, table), table, draft)
    if (document.kind == "file" or document.fragment) and not arguments.given and draft.refused is None:
        draft.refuse(f"there is no command of {title} here, no flag of its commands and no key of its config file")
    return arguments


def _configured(document: Document, draft: Draft, table: Table) -> list[Word]:
    """The words of a command; a config file named by --config and written in the same text comes first."""
    if document.kind == "file":
        return _config_words(document.text, document.line, (), table, draft)
    words = list(document.words)
    for at, word in enumerate(words):
        name, equals, inline = word.text.partition("=")
        if name != "--config":
            continue
        path = inline if equals else words[at + 1].text if at + 1 < len(words) else ""
        file = named_file(document, draft.context, path)
        if file is None:
            draft.note(
                "warning", "config-file", f"the file {path} is not in the text; its values are unknown", word.where
            )
            return words
        names = (other.text.partition("=")[0] for other in words)
        given = {table.names[name].dest for name in names if name in table.names}
        return [*_config_words(file.text, file.line, given, table, draft), *words]
    return words


def _config_words(text: str, line: int, given: Collection[str], table: Table, draft: Draft) -> list[Word]:
    """Keys of a YAML mapping as flags; a flag of the command line wins, with a note."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        root = checked(root) if isinstance(root, yaml.Node) else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = Where(line + mark.line, mark.column + 1) if mark else Where(line, 1)
        draft.refuse(f"the config file is no YAML: {getattr(error, 'problem', None) or error}", (), place)
        return []
    if root is not None and not isinstance(root, yaml.MappingNode):
        draft.refuse("the config file is no mapping of names to values", (), Where(line, 1))
        return []
    words: list[Word] = []
    seen: dict[str, Where] = {}
    for key, value in root.value if root is not None else ():
        where = Where(line + key.start_mark.line, key.start_mark.column + 1, str(key.value))
        flag = "--" + str(key.value).replace("_", "-")
        if flag in seen:
            draft.refuse(f"{key.value} is given twice, in {seen[flag]} and {where}", (), where)
        seen[flag] = where
        if flag in table.names and table.names[flag].dest in given:
            draft.note("warning", "conflict", f"{key.value} of the config file is overruled by {flag}", where)
            continue
        words += _config_value(flag, value, where)
    return words


def _config_value(flag: str, node: yaml.Node, where: Where) -> list[Word]:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:bool":
            on = node.value.lower() in ("true", "yes", "on")
            return [Word(flag, where)] if on else []
        return [Word(flag, where), Word(node.value, where, quoted=True)]
    if isinstance(node, yaml.SequenceNode):
        items = [Word(str(item.value), where, quoted=True) for item in node.value if isinstance(item, yaml.ScalarNode)]
        return [Word(flag, where), *items]
    found: list[Word] = []
    for key, value in node.value:
        found += _config_value(f"{flag}.{key.value}", value, where)
    return found


def layers_of(draft: Draft, variable: str) -> tuple[int, ...] | None:
    """Layers of each stage from an environment variable, 16,15,15."""
    word = draft.document.environment.get(variable)
    if word is None:
        return None
    layers = layer_list(word.text)
    if layers is None:
        draft.refuse(f"{variable}={word.text}: not a list of layers", (), word.where)
    return layers


def layer_list(text: str) -> tuple[int, ...] | None:
    """Layers of each stage, 16,15,15; None for what is none."""
    counts = [whole_number(part) for part in text.split(",")]
    layers = tuple(count for count in counts if count)
    return layers if len(layers) == len(counts) else None


def explain(draft: Draft, sizes: Sizes, reasons: Mapping[str, str]) -> None:
    """A note for every size that follows from others."""
    given = sizes.given()
    for name, reason in reasons.items():
        if name in given:
            value = given[name]
            draft.note("info", "derived", f"{name} {value if value is not None else 'open'}: {reason}")
    sizes.derived = frozenset(name for name in reasons if name in given)


def finish(draft: Draft, sizes: Sizes | None, role: str = "") -> Reading:
    """The reading, under its role in a disaggregated deployment."""
    known: Literal["", "prefill", "decode"] = "prefill" if role == "prefill" else "decode" if role == "decode" else ""
    return draft.finish(sizes, role=known)


def known_share(text: str, table: Table, own: Sequence[str]) -> float:
    """How much a text looks like a table's: the share of its flags, and a bonus for flags only it has.

    The keys of a config file count little: other engines' files have the same, unless one is the engine's own.
    """
    found = {match[0] for match in _FLAG.finditer(text)}
    if not found:
        keys = {"--" + match[1].replace("_", "-") for match in _KEY.finditer(text)}
        count = sum(key in table.names for key in keys)
        bonus = 0.1 if count > 1 and keys & set(own) else 0.0
        return 0.19 * count / len(keys) + bonus if keys else 0.0
    known = sum(name in table.names or name.replace("_", "-") in table.names for name in found)
    bonus = 0.3 if found & set(own) else 0.0
    return min(0.95, 0.6 * known / len(found) + bonus) if known else 0.0


def read_command(text: str, dialect: Dialect, context: Context) -> list[Reading]:
    """The readings of a command of one dialect."""
    found = documents(text, {dialect.name: dialect.programs}, context.settings)
    return [reading for document in found if document.dialect for reading in dialect.read(document, context)]
