"""A dialect is one folder that exports DIALECT: a toy engine's, made here, is found by its name and read by weft."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import weft.tools.dialects
from tests.tools.dialects.dialect_conformance import check_dialect
from weft.cli.main import main
from weft.tools.dialects.names import names

TOY = '''
"""The dialect of a toy engine: `toyserve MODEL --ranks N --stages P`."""

from weft.tools.dialects.base import MENTIONED, Draft
from weft.tools.dialects.flags import Table, parse_table
from weft.tools.dialects.reading import arguments_of, finish, known_share, read_command, take_model, take_options
from weft.tools.dialects.sizes import Sizes
from weft.tools.dialects.writing import MODEL, checked, command, context_for, engine_parts

TABLE = Table(parse_table("""
* --ranks  int
* --stages  int
--model  str
--slots as max_num_seqs  int
"""))


class Toy:
    name = "toy"
    title = "Toy"
    programs = (("toyserve",),)

    def recognizes(self, text):
        return MENTIONED if "toyserve" in text else known_share(text, TABLE, ("--ranks",))

    def read(self, document, context):
        draft = Draft(self.name, document, context)
        arguments = arguments_of(document, draft, TABLE, self.title)
        take_options(arguments, draft, {"ranks": "1"})
        take_model(arguments, draft)
        tp = arguments.number("ranks")
        sizes = Sizes(tp=tp, stages=arguments.number("stages"), o_proj=tp, dense=tp, embedding=tp, lm_head=tp)
        return [finish(draft, sizes)]

    def write(self, layout, options, source=""):
        parts, notes = engine_parts(options, {"max_num_seqs": "--slots"})
        sizes = [("--ranks", layout.attention.tp), ("--stages", layout.pipeline.stages)]
        text = command(f"toyserve {options.get('model', MODEL)}", sizes + parts)
        return checked(layout, text, read_command(text, DIALECT, context_for(layout, options)), notes)


DIALECT = Toy()
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a dialect whose folder stands beside those of weft."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text(TOY)
    monkeypatch.setattr(weft.tools.dialects, "__path__", [*weft.tools.dialects.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "weft.tools.dialects.toy", raising=False)
    return "toy"


def test_a_folder_is_a_dialect(toy: str) -> None:
    assert toy in names()
    check_dialect(toy)


def test_weft_translate_reads_and_writes_it(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "--json", "--", "toyserve", "m/Llama-3.1-8B", "--ranks", "4", "--slots", "8"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["dialect"], document["layout"]["attention"]["tp"]) == (toy, 4)
    assert document["options"]["max_num_seqs"] == 8
    assert main(["translate", "--to", toy, "--", "vllm", "serve", "m/Llama-3.1-8B", "-tp", "2", "-pp", "2"]) == 0
    assert "toyserve m/Llama-3.1-8B \\\n  --ranks 2 \\\n  --stages 2\n" in capsys.readouterr().out


def test_it_is_gone_with_its_folder() -> None:
    assert "toy" not in names()
