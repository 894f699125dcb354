"""Files as pasted: YAML and JSON with positions, out of heredocs, fences, prompts and numbered lines, variants apart.

Duplicate keys are kept, broken text is a problem with line and column, everything mended is a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import yaml

from weft.tools.dialects.base import Diagnostic, Where
from weft.tools.dialects.sources.documents.aliases import checked
from weft.tools.dialects.sources.documents.listings import unnumbered
from weft.tools.dialects.sources.documents.loose_json import read_json
from weft.tools.dialects.sources.documents.tree import Node, Tree, TreeEntry, scalar

_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HEREDOC = re.compile(r"^[^\n#]*<<-?[ \t]*(['\"]?)([\w.-]+)\1[^\n]*$")
_SHOWN_FILE = re.compile(r"^[ \t]*(?:[$#%][ \t]+)?(?:sudo[ \t]+)?(?:cat|tee)[ \t][^\n:{}]*$")
_END = re.compile(r"^[ \t]*(?:EOF|EOL|EOT|YAML)[ \t]*$")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)")
_SCRIPT_FENCE = re.compile(r"[`~]{3,}[ \t]*\{?\.?(?:bash|sh|shell|zsh|console|powershell|python|py)\b", re.IGNORECASE)
_ELIDED = re.compile(r"^[ \t]*(?:-[ \t]*)?(?:\.{2,}|\u2026)[ \t]*(?:#[^\n]*)?$")
_UNSPACED = re.compile(r"^([ \t]*(?:-[ \t]+)?[A-Za-z_][\w.]*):(?=[^\s:/])")
_TEMPLATE = re.compile(r"\{\{-?\s*\.?([\w.]+)\s*-?\}\}")
_NESTED = re.compile(r"(?:[\[{]\s*|[-?:][ \t]+){100}")
_TOP_KEY = re.compile(r"^([A-Za-z_][\w.-]*|\"[^\"]+\")[ \t]*:")
_TOKEN = re.compile(r"(?:\"[^\"]*\"|[^\s\",#:{}\[\]]+)(?:[ \t]*:[ \t]*(?:\"[^\"]*\"|[^\s\",#{}\[\]]+))?|.")
_DEPTH = 100
_JSON_LINE = re.compile(r"^[ \t]*(?:\"[^\"]+\"[ \t]*:|\{[ \t]*(?:$|[\"'/#.]))")
_JSON_END = re.compile(r"[}\]][ \t]*[,;]?[ \t]*(?://[^\n]*|#[^\n]*)?$")


@dataclass(slots=True)
class _Lines:
    """Numbered lines of a text, each with the columns cut off its front."""

    rows: list[tuple[int, int, str]]
    name: str = ""

    @property
    def text(self) -> str:
        return "\n".join(text for _, _, text in self.rows)

    def place(self, line: int, column: int) -> Where:
        if not self.rows:
            return Where(1, 1)
        number, cut, text = self.rows[min(line, len(self.rows)) - 1]
        token = _TOKEN.match(text, column - 1)
        return Where(number, column + cut, token[0].strip()[:60] if token else "")


def trees(text: str, line: int = 1) -> list[Tree]:
    """The documents of a pasted file in order: variants set apart by comments or `---` are trees of their own.

    `line` is the number of the text's first line. A tree without root and without problem is an empty document.
    """
    rows = [(number, 0, row) for number, row in enumerate(text.replace("\r\n", "\n").split("\n"), line)]
    found = [tree for lines in _bodies(unnumbered(rows)) for tree in _read(lines)]
    return [tree for tree in found if tree.root is not None or tree.problem is not None] or found[:1]


def _bodies(rows: list[tuple[int, int, str]]) -> list[_Lines]:
    """What the shell, Markdown or prose around it holds."""
    heredocs = _inside(rows, _heredoc)
    if heredocs:
        return heredocs
    fenced = _inside(_opened(rows), _fence)
    fenced = [each for each in fenced if not _SCRIPT_FENCE.match(each.name)] or fenced
    if fenced:
        return [lines for each in fenced for lines in _bodies(each.rows)]
    kept = [row for row in rows if not _SHOWN_FILE.match(row[2]) and not _END.match(row[2])]
    return [_Lines(_json_only(kept))]


def _opened(rows: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """With the opening fence of a text that was cut out of a page after that fence."""
    fences = [at for at, row in enumerate(rows) if _FENCE.match(row[2])]
    if len(fences) % 2 == 0 or not any(_JSON_LINE.match(text) for _, _, text in rows[: fences[0]]):
        return rows
    return [(rows[0][0], 0, "```"), *rows]


def _heredoc(text: str) -> re.Pattern[str] | None:
    match = _HEREDOC.match(text)
    return re.compile(rf"^[ \t]*{re.escape(match[2])}[ \t]*\)?$") if match else None


def _fence(text: str) -> re.Pattern[str] | None:
    return _FENCE if _FENCE.match(text) else None


def _inside(rows: list[tuple[int, int, str]], opens: Callable[[str], re.Pattern[str] | None]) -> list[_Lines]:
    found: list[_Lines] = []
    end: re.Pattern[str] | None = None
    for row in rows:
        if end is None:
            end = opens(row[2])
            if end is not None:
                found.append(_Lines([], row[2].strip() if end is _FENCE else ""))
        elif end.match(row[2]):
            end = None
        else:
            found[-1].rows.append(row)
    return [lines for lines in found if lines.text.strip()]


def _json_only(rows: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Without the prose and commands around JSON; all rows when it is no JSON."""
    starts = [at for at, row in enumerate(rows) if row[2].strip()]
    first = next((at for at in starts if _JSON_LINE.match(rows[at][2])), None)
    if first is None or any(
        _TOP_KEY.match(rows[at][2]) for at in starts if at < first and not rows[at][2].endswith("\\")
    ):
        return rows
    ends = (at for at in starts if at >= first and (_JSON_END.search(rows[at][2]) or _JSON_LINE.match(rows[at][2])))
    last = max(ends, default=starts[-1])
    return rows[first : last + 1] if last - first >= 1 or first == last == starts[-1] else rows[first:]


def _read(lines: _Lines) -> list[Tree]:
    first = next(
        (text.strip() for _, _, text in lines.rows if text.strip() and not text.lstrip().startswith(("#", "//"))), ""
    )
    if first.startswith(("{", '"')) and not first.startswith("{{") or first.startswith("[") and "]" not in first:
        tree = read_json(lines.text, lines.place)
        mended = tree.problem is not None or any(note.code == "missing-comma" for note in tree.notes)
        if not mended or '"' in lines.text:
            return [tree]
        flow = _read_yaml(lines)  # YAML between braces may have words without quotes
        return [flow if flow.problem is None and flow.root is not None and flow.root.entries is not None else tree]
    return [_read_yaml(variant) for variant in _variants(lines)]


def _variants(lines: _Lines) -> list[_Lines]:
    """Parts that a comment of their own or `---` sets apart and that give a key once more."""
    found = [_Lines([])]
    keys: set[str] = set()
    comment: list[tuple[int, int, str]] = []
    for row in lines.rows:
        text = row[2]
        if text.startswith("---"):
            found.append(_Lines([]))
            keys, comment = set(), []
            continue
        if text.lstrip().startswith("#") or comment and not text.strip():
            comment.append(row)
            continue
        key = _TOP_KEY.match(text)
        if key and comment and key[1] in keys:
            found.append(_Lines([]))
            keys = set()
        if comment and not keys and key:
            found[-1].name = next((note[2].strip(" \t#") for note in reversed(comment) if note[2].strip()), "")
        found[-1].rows += [*comment, row]
        keys |= {key[1]} if key else set()
        comment = []
    found[-1].rows += comment
    many = len(found) > 1
    return [_Lines(each.rows, each.name if many else "") for each in found if each.text.strip() or not many]


def _read_yaml(lines: _Lines) -> Tree:
    tree = Tree(None, name=lines.name)
    rows = [_mended(row, tree, lines) for row in enumerate(lines.rows, 1)]
    text = "\n".join(rows)
    if _NESTED.search(text) or _deep(text):
        tree.problem = Diagnostic("error", "syntax", f"nested more than {_DEPTH} deep", lines.place(1, 1))
        return tree
    root = _compose(text, tree, lines)
    if not isinstance(root, yaml.MappingNode):
        spaced = [_UNSPACED.sub(r"\1: ", row) for row in rows]
        if spaced != rows:
            again = Tree(None)
            found = _compose("\n".join(spaced), again, lines)
            if isinstance(found, yaml.MappingNode):
                changed = next(at for at, (old, new) in enumerate(zip(rows, spaced, strict=True), 1) if old != new)
                message = "a blank is missing behind a colon; read as meant"
                tree.notes.append(Diagnostic("warning", "missing-blank", message, lines.place(changed, 1)))
                root, tree.problem = found, None
    if root is not None and tree.problem is None:
        tree.root = _Converter(tree, lines).node(root)
    return tree


def _mended(numbered: tuple[int, tuple[int, int, str]], tree: Tree, lines: _Lines) -> str:
    """A line with '...' blanked, templates as variables, and tabs as blanks."""
    at, (_, _, text) = numbered
    if _ELIDED.match(text):
        tree.notes.append(Diagnostic("info", "elided", "'...' stands for something left out", lines.place(at, 1)))
        return ""
    if "\t" in text:
        if text.lstrip(" ").startswith("\t") and not any(note.code == "tab" for note in tree.notes):
            message = "YAML takes no tabs in front of a line; read as two blanks each"
            tree.notes.append(Diagnostic("warning", "tab", message, lines.place(at, 1)))
        text = text.replace("\t", "  ")
    return _TEMPLATE.sub(r"${\1}", text)


def _deep(text: str) -> bool:
    depth = 0
    for match in re.finditer(r"[\[\]{}]", text):
        depth += 1 if match[0] in "[{" else -1
        if depth > _DEPTH:
            return True
    return any(len(row) - len(row.lstrip(" ")) > 4 * _DEPTH for row in text.split("\n"))


def _compose(text: str, tree: Tree, lines: _Lines) -> yaml.Node | None:
    loader = _LOADER(text)
    try:
        root = loader.get_single_node()
        return checked(root) if isinstance(root, yaml.Node) else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = lines.place(mark.line + 1, mark.column + 1) if mark else lines.place(1, 1)
        tree.problem = Diagnostic("error", "syntax", f"not readable as YAML: {error.problem or error.context}", where)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        tree.problem = Diagnostic("error", "syntax", f"not readable as YAML: {reason}", lines.place(1, 1))
    finally:
        loader.dispose()
    return None


class _Converter:
    """YAML's nodes as ours; an alias is the node it names."""

    def __init__(self, tree: Tree, lines: _Lines) -> None:
        self.tree, self.lines = tree, lines
        self.done: dict[int, Node] = {}

    def node(self, node: yaml.Node) -> Node:
        if id(node) not in self.done:
            self.done[id(node)] = self._made(node)
        return self.done[id(node)]

    def where(self, node: yaml.Node) -> Where:
        return self.lines.place(node.start_mark.line + 1, node.start_mark.column + 1)

    def _made(self, node: yaml.Node) -> Node:
        where = self.where(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            shown = [item for item in node.value if not _is_elided(item)]
            elided = len(shown) < len(node.value)
            return Node(where, items=[self.node(item) for item in shown], elided=elided)
        value = scalar(node.value, quoted=getattr(node, "style", None) in ("'", '"', "|", ">"))
        return Node(where, scalar=value, elided=_is_elided(node))

    def _mapping(self, node: yaml.MappingNode, where: Where) -> Node:
        made = Node(where, entries={})
        merged: list[Node] = []
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merged += self.node(value).items or [self.node(value)]
            elif not isinstance(key, yaml.ScalarNode):
                self.tree.problem = Diagnostic(
                    "error", "syntax", "a key is a word, not a list or mapping", self.where(key)
                )
            else:
                made.add(TreeEntry(key.value, self.where(key), self.node(value)))
        assert made.entries is not None
        for base in merged:
            made.entries |= {name: entry for name, entry in (base.entries or {}).items() if name not in made.entries}
        return made


def _is_elided(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value in ("...", "\u2026")
