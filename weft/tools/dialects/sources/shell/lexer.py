"""Text as a shell reads it: words with their places, quotes, continuations, comments, redirections, heredocs.

What a page broke (a backslash with a blank or a comment after it, a missing backslash) is read as its author meant
it, with a note. Variables are filled in by `expand`.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from weft.tools.dialects.base import Diagnostic, Where
from weft.tools.dialects.sources.shell.quotes import balanced, double_end
from weft.tools.dialects.sources.shell.words import RawCommand, RawWord, WordPart, WordPartKind, normalized

PLACEHOLDER = re.compile(r"<[A-Za-z](?:[^<>\n|;&]*[^<>\s|;&])?>")
PROMPT = re.compile(r"[ \t]*(?:\([\w.-]+\)[ \t]*)?(?:\[?[\w.-]+@[\w.-]+[^\n$#%]{0,80})?[$%][ \t]+(?=\S)")
_SECOND_PROMPT = re.compile(r"[ \t]*>[ \t]+")
_FENCE = re.compile(r"[ \t]*(?:```|~~~)[^\n`]*(?=\n|$)")
_BROKEN = re.compile(r"\\(?:[ \t]+|[ \t]*#[^\n]*)(?=\n|$)")
_HEREDOC = re.compile(r"<<(-?)[ \t]*(['\"]?)([\w.-]+)\2")
_REDIRECT = re.compile(r"\d*(?:>>|>&|>\||>|<<<|<|&>>|&>)")
_VARIABLE = re.compile(r"\$(?:(\w+|[@*#?!-])|\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\})")


def lex(text: str) -> list[RawCommand]:
    """All commands of a text, in order; words keep the places they have in it."""
    plain, notes = normalized(text)
    lexer = _Lexer(plain)
    lexer.run()
    if lexer.commands:
        lexer.commands[0].notes[:0] = notes
    return lexer.commands


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.commands: list[RawCommand] = []
        self.command = RawCommand()
        self.word: RawWord | None = None
        self.pending: list[tuple[RawCommand, str, bool, bool]] = []
        self.target = ""
        self.array: RawWord | None = None
        self.prompted = False

    def where(self, at: int, text: str = "") -> Where:
        line = bisect_right(self.starts, at)
        return Where(line, at - self.starts[line - 1] + 1, text)

    def run(self) -> None:
        self._line_start()
        while self.at < len(self.text):
            self._step(self.text[self.at])
        self._end_word()
        self._end_command("")

    def _step(self, char: str) -> None:
        if char == "\n":
            self._newline()
        elif char in " \t":
            self._end_word()
            self.at += 1
        elif char == "\\":
            self._backslash()
        elif char == "#" and self.word is None:
            self._comment()
        elif char in "'\"":
            self._quote(char)
        elif char in "$`":
            self._expansion(quoted=False)
        elif char in "<>&" and self._redirect():
            pass
        elif char in ";&|()":
            self._operator(char)
        else:
            self._literal(char)

    def _add(self, kind: WordPartKind, text: str, quoted: bool, at: int) -> None:
        if self.word is None:
            self.word = RawWord(self.where(at), quoted=quoted)
        pieces = self.word.pieces
        if kind == "text" and pieces and pieces[-1].kind == "text" and pieces[-1].quoted == quoted:
            pieces[-1] = WordPart("text", pieces[-1].text + text, quoted)
        else:
            pieces.append(WordPart(kind, text, quoted))

    def _literal(self, char: str) -> None:
        start = self.at
        match = re.compile(r"[^\s\\'\"$`<>&;|()]+").match(self.text, self.at)
        text = match[0] if match else char
        self.at += len(text)
        redirected = self.at < len(self.text) and self.text[self.at] in "<>"
        if text.isdigit() and redirected and self.word is None and not PLACEHOLDER.match(self.text, self.at):
            return  # a file descriptor: 2>&1
        self._add("text", text, False, start)

    def _end_word(self) -> None:
        if self.word is None:
            return
        word, self.word = self.word, None
        shown = "".join(piece.text for piece in word.pieces)
        word.where = Where(word.where.line, word.where.column, shown)
        if self.target:
            self.command.redirects.append((self.target, word))
            self.target = ""
        else:
            self.command.words.append(word)

    def _end_command(self, end: str) -> None:
        command = self.command
        if command.words or command.redirects:
            command.end = end
            self.commands.append(command)
            self.command, self.target = RawCommand(), ""

    def _newline(self) -> None:
        self._end_word()
        if self.array is not None:
            self.at += 1
            return
        self._end_command("\n")
        self.at += 1
        self._heredocs()
        self._line_start()

    def _line_start(self) -> None:
        """Blank lines, prompts and code fences at the start of a line."""
        fence = _FENCE.match(self.text, self.at)
        if fence:
            self.at = fence.end()
            return
        if re.compile(r"[ \t]*(?:\n|$)").match(self.text, self.at):
            self.command.blank_before, self.command.comment = True, ""
        prompt = PROMPT.match(self.text, self.at)
        if prompt:
            self.at, self.prompted = prompt.end(), True

    def _backslash(self) -> None:
        if self.text.startswith("\\\n", self.at):
            self._continue(self.at + 2)
            return
        broken = _BROKEN.match(self.text, self.at)
        if broken:
            why = "comment" if "#" in broken[0] else "blank"
            message = (
                f"a {why} stands behind the backslash, so a shell would end the command here; read as a continuation"
            )
            self.command.notes.append(Diagnostic("warning", f"continuation-{why}", message, self.where(self.at, "\\")))
            self._end_word()
            self._continue(min(len(self.text), broken.end() + 1))
            return
        following = self.text[self.at + 1 : self.at + 2]
        self._add("text", following, True, self.at)
        self.at += 2

    def _continue(self, at: int) -> None:
        self.at = at
        second = _SECOND_PROMPT.match(self.text, self.at)
        if second and self.prompted:
            self.at = second.end()

    def _comment(self) -> None:
        end = self.text.find("\n", self.at)
        end = len(self.text) if end < 0 else end
        if self.command.words:
            self.command.commented = True
        else:
            self.command.comment = self.text[self.at + 1 : end].strip()
        self.at = end

    def _quote(self, char: str) -> None:
        start = self.at
        inside = self.word is not None and all(
            piece.kind == "text" and piece.text.isalpha() for piece in self.word.pieces
        )
        after = self.text[self.at + 1 : self.at + 2]
        if char == "'" and inside and self.word is not None and not self.word.quoted and after.isalpha():
            self._add("text", char, False, start)  # an apostrophe inside a word of prose
            self.at += 1
            return
        end = self._closing(char)
        if end is None:
            message = f"the quote {char} is never closed; read as a plain character"
            self.command.notes.append(Diagnostic("warning", "open-quote", message, self.where(start, char)))
            self._add("text", char, False, start)
            self.at += 1
        elif char == "'":
            self._add("text", self.text[start + 1 : end], True, start)
            self.at = end + 1
        else:
            self._double(start, end)

    def _closing(self, char: str) -> int | None:
        if char == '"':
            return double_end(self.text, self.at + 1)
        end = self.text.find("'", self.at + 1)
        return end if end >= 0 else None

    def _double(self, start: int, end: int) -> None:
        self._add("text", "", True, start)
        self.at = start + 1
        while self.at < end:
            char, following = self.text[self.at], self.text[self.at + 1 : self.at + 2]
            if char == "\\" and following and following in '"\\$`\n':
                self._add("text", "" if following == "\n" else following, True, self.at)
                self.at += 2
            elif char in "$`":
                self._expansion(quoted=True)
            else:
                self._add("text", char, True, self.at)
                self.at += 1
        self.at = max(end + 1, self.at)

    def _expansion(self, quoted: bool) -> None:
        start = self.at
        for opening, closing, kind in (("$((", "))", "arithmetic"), ("$(", ")", "command"), ("`", "`", "command")):
            if self.text.startswith(opening, start):
                end = balanced(self.text, start + len(opening), closing)
                if end is not None:
                    self._add(
                        "command" if kind == "command" else "arithmetic",
                        self.text[start + len(opening) : end],
                        quoted,
                        start,
                    )
                    self.at = end + len(closing)
                    return
        match = _VARIABLE.match(self.text, start)
        if match:
            self._add("variable", match[1] if match[1] is not None else match[2], quoted, start)
            self.at = match.end()
            return
        self._add("text", self.text[start], quoted, start)
        self.at += 1

    def _redirect(self) -> bool:
        placeholder = PLACEHOLDER.match(self.text, self.at)
        if placeholder:
            self._add("text", placeholder[0], False, self.at)
            self.at = placeholder.end()
            return True
        if self.text.startswith("<(", self.at):
            end = balanced(self.text, self.at + 2, ")")
            if end is not None:  # a file that a command writes while it is read
                self._add("command", self.text[self.at + 2 : end], True, self.at)
                self.at = end + 1
                return True
        heredoc = _HEREDOC.match(self.text, self.at)
        if heredoc:
            self._end_word()
            self.pending.append((self.command, heredoc[3], bool(heredoc[1]), bool(heredoc[2])))
            self.at = heredoc.end()
            return True
        match = _REDIRECT.match(self.text, self.at)
        if match is None:
            return False
        self._end_word()
        self.target = match[0].lstrip("0123456789")
        self.at = match.end()
        if self.target == ">&" or self.text[self.at : self.at + 1] == "&":
            duplicate = re.compile(r"&?[\d-]+").match(self.text, self.at)
            self.at, self.target = (duplicate.end(), "") if duplicate else (self.at, ">")
        return True

    def _operator(self, char: str) -> None:
        name = self.word.literal if self.word is not None else ""
        if char == "(" and self.array is None and re.fullmatch(r"[A-Za-z_]\w*\+?=", name):
            self.array = self.word
            self._end_word()
        elif char == ")" and self.array is not None:
            self._end_word()
            self.array = None
            self._end_command(")")
        elif self.array is None:
            self._end_word()
            self._end_command(char)
        self.at += 1

    def _heredocs(self) -> None:
        """Bodies of the heredocs that the line above announced."""
        for command, delimiter, tabs, literal in self.pending:
            line = bisect_right(self.starts, self.at)
            pattern = re.compile(rf"^[ \t]*{re.escape(delimiter)}[ \t]*$", re.MULTILINE)
            end = pattern.search(self.text, self.at)
            body = self.text[self.at : end.start() if end else len(self.text)]
            command.heredoc = (re.sub(r"(?m)^\t+", "", body) if tabs else body, line, literal)
            self.at = min(len(self.text), end.end() + 1) if end else len(self.text)
        self.pending = []
