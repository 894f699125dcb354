"""Commands as pasted: shell words and their places, wrappers, prompts, scripts, variables, YAML around them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dialects import case_text, summary
from weft.base.errors import UsageError
from weft.tools.dialects import registry
from weft.tools.dialects.base import Context, Document
from weft.tools.dialects.sources.shell.commands import documents
from weft.tools.dialects.sources.shell.lexer import lex
from weft.tools.dialects.sources.shell.quotes import balanced, double_end

RUN = "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B --tp"
TP4 = "world 4 | tp 4"
PROGRAMS = {"x": (("serve",),)}


def arguments(text: str, **settings: str) -> list[str]:
    """The words after the program `serve` of a text that has it once."""
    (document,) = serving(text, **settings)
    return [word.text for word in document.words]


def serving(text: str, **settings: str) -> list[Document]:
    """The commands of the program `serve`."""
    return [document for document in documents(text, PROGRAMS, settings) if document.dialect]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serve a b", ["a", "b"]),
        ("serve 'a b' \"c d\"", ["a b", "c d"]),
        ("serve 'a'\"b\"c", ["abc"]),
        ("serve a\\ b", ["a b"]),
        ("serve ''", [""]),
        ('serve "a\\"b" \'$HOME\'', ['a"b', "$HOME"]),
        ("serve a \\\n  b \\\n  c", ["a", "b", "c"]),
        ("serve a\\\nb", ["ab"]),
        ("serve a # b", ["a"]),
        ("serve a#b", ["a#b"]),
        ("serve a > out.log 2>&1", ["a"]),
        ("serve a &> out.log &", ["a"]),
        ("serve a 2>&1 | tee log", ["a"]),
        ("serve a; echo b", ["a"]),
        ("cd x && serve a || exit 1", ["a"]),
        ("serve <model> a", ["<model>", "a"]),
        ("serve <MASTER_NODE_IP>:29500", ["<MASTER_NODE_IP>:29500"]),
        ("serve a < input.txt", ["a"]),
        ("serve 8.0 2 3", ["8.0", "2", "3"]),
        ('serve \'{"a": "b c"}\'', ['{"a": "b c"}']),
        ("serve '{\n  \"a\": 1\n}'", ['{\n  "a": 1\n}']),
        ("(serve a)", ["a"]),
        ("if true; then serve a; fi", ["a"]),
        ("for i in 1 2; do serve a; done", ["a"]),
        ("serve a\r\n", ["a"]),
        ("serve a \\\r\n b\r\n", ["a", "b"]),
        ("serve\u00a0a", ["a"]),
        ("serve \u201ca b\u201d", ["a b"]),
        ("```bash\nserve a\n```", ["a"]),
        ("$ serve a", ["a"]),
        ("$ serve a \\\n> b", ["a", "b"]),
        ("user@host:~/dir$ serve a", ["a"]),
        ("(venv) user@host:~$ serve a", ["a"]),
        ("% serve a", ["a"]),
        ("# serve a", ["a"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert arguments(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1\nserve $A", ["1"]),
        ("A=1; serve ${A}x", ["1x"]),
        ("export A=1\nserve $A", ["1"]),
        ("export A=1 B=2\nserve $A$B", ["12"]),
        ("serve $A", ["$A"]),
        ("serve ${A:-5}", ["5"]),
        ("serve ${A:=5}", ["5"]),
        ("A=7\nserve ${A:-5}", ["7"]),
        ("A='--x 1 --y 2'\nserve $A", ["--x", "1", "--y", "2"]),
        ("A='--x 1'\nserve \"$A\"", ["--x 1"]),
        ("A=(--x 1 '2 3')\nserve \"${A[@]}\"", ["--x", "1", "2 3"]),
        ("A=(--x)\nA+=(1)\nserve ${A[@]}", ["--x", "1"]),
        ("A=(\n  --x 1  # one\n  --y 2\n)\nserve ${A[@]}", ["--x", "1", "--y", "2"]),
        ("N=2\nserve $((N*4)) $((8/N)) $(( $N + 1 ))", ["8", "4", "3"]),
        ("serve $((N*4))", ["$((N*4))"]),
        ("A=()\nserve $(( ${A:-2} * 4 ))", ["8"]),
        ("serve $(nproc) `nproc`", ["$(nproc)", "$(nproc)"]),
        ("serve $1 $@", ["$1", "$@"]),
        ("A=$B\nserve $A", ["$B"]),
    ],
)
def test_variables(text: str, words: list[str]) -> None:
    assert arguments(text) == words


@pytest.mark.parametrize("text", ["A=x\n" + 64 * 'A="$A$A"\n', "A=(x)\n" + 64 * "A+=(${A[@]})\n"])
def test_a_value_that_doubles_stays_open(text: str) -> None:
    (document,) = serving(f"{text}serve --x ${{A[@]}}")
    assert {variable for word in document.words for variable in word.variables} == {"A"}
    assert sum(len(word.text) for word in document.words) < 200_000


def test_the_user_s_values_win() -> None:
    assert arguments("A=1\nserve $A $B $((A*2))", A="3", B="4") == ["3", "4", "6"]


def test_open_words_name_their_variables() -> None:
    (document,) = serving("serve $A ${B}x $(nproc) $((C*2)) ${D:?}")
    assert [word.variables for word in document.words] == [("A",), ("B",), ("$(nproc)",), ("C",), ("D",)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("serve a \\ \n  --b 1", "continuation-blank"),
        ("serve a \\  # note\n  --b 1", "continuation-comment"),
        ("serve a \\\n  # --c 2 \\\n  --b 1", "continuation-comment"),
        ("serve a\n  --b 1", "continuation-missing"),
        ("serve a \\\n\n  --b 1", "continuation-missing"),
    ],
)
def test_broken_continuations_are_read_as_meant(text: str, code: str) -> None:
    (document,) = serving(text)
    assert [word.text for word in document.words] == ["a", "--b", "1"]
    assert [note.code for note in document.notes] == [code]


def test_an_open_quote_is_told() -> None:
    (document,) = serving("serve 'a b")
    assert [note.code for note in document.notes] == ["open-quote"]


def test_quotes_end_behind_those_inside_of_a_substitution() -> None:
    text = 'a $(b "c) $(d \'e"\' )" f) g" h'
    assert text[double_end(text, 0) or 0 :] == '" h'
    inner = "b \"c)\" 'd)' $(e)) rest"
    assert inner[balanced(inner, 0, ")") or 0 :] == ") rest"


@pytest.mark.parametrize("text", ['"$(' * 400, '$("' * 400, "$(" * 400 + '"', '"$(a "b' * 200])
def test_quotes_that_never_end_are_read_in_no_time(text: str) -> None:
    readings = registry.read(f"vllm serve Qwen/Qwen3-8B -tp 2\n{text}\n")
    assert readings[0].layout is not None and readings[0].layout.attention.tp == 2


def test_places_are_those_of_the_text() -> None:
    (document,) = serving('# a comment\nA=1 serve --x 1 \\\n   --y "two\nlines" --z')
    places = [(word.where.line, word.where.column) for word in document.words]
    assert places == [(2, 11), (2, 15), (3, 4), (3, 8), (4, 8)]


def test_places_inside_a_script_of_a_wrapper() -> None:
    (document,) = serving("srun bash -c 'cd x\n  serve --x 1'")
    assert [(word.where.line, word.where.column) for word in document.words] == [(2, 9), (2, 13)]
    (document,) = serving("srun bash -c 'serve --x'")
    assert [(word.where.line, word.where.column) for word in document.words] == [(1, 21)]


@pytest.mark.parametrize(
    "text",
    [
        f"nohup {RUN} 4 > log 2>&1 &",
        f"CUDA_VISIBLE_DEVICES=0,1,2,3 NCCL_DEBUG=INFO {RUN} 4",
        f"env A=1 B=2 {RUN} 4",
        f"sudo -E {RUN} 4",
        f"mpirun -n 1 --allow-run-as-root {RUN} 4",
        f"srun --nodes=1 --ntasks=1 {RUN} 4",
        f"srun -N 1 bash -c '{RUN} 4'",
        f'srun bash -lc "cd /app && {RUN} 4"',
        f"sbatch --wrap='{RUN} 4'",
        f"ssh node0 '{RUN} 4'",
        f"ssh node0 <<EOF\n{RUN} 4\nEOF",
        f"timeout 600 numactl --interleave=all {RUN} 4",
        f"docker run --gpus all -p 30000:30000 -v ~/.cache:/cache --ipc=host lmsysorg/sglang:latest {RUN} 4",
        f"docker exec -it sglang bash -c '{RUN} 4'",
        "docker run \\\n    --gpus all \\\n    lmsysorg/sglang \\\n python3 -m sglang.launch_server --model X --tp 4",
        f"torchrun --nproc_per_node 1 --no-python {RUN} 4",
        f"kubectl exec pod -- {RUN} 4",
        f"conda run -n sglang {RUN} 4",
        f"tmux new -d -s server '{RUN} 4'",
        f"#!/bin/bash\n#SBATCH --nodes=1\nset -euo pipefail\nmodule load cuda\n\n{RUN} 4\n",
        f"cat > run.sh <<'EOF'\n{RUN} 4\nEOF\nbash run.sh",
        f"TP=4\n{RUN} $TP",
        f"root@node:/sgl# ls\n$ {RUN} 4",
        'FROM lmsysorg/sglang\nCMD ["python3", "-m", "sglang.launch_server", "--model", "X", "--tp", "4"]',
        "subprocess.Popen(['vllm', 'serve', 'X', '--tensor-parallel-size', '4'], env=env)",
        f"[Service]\nExecStart=/usr/bin/{RUN} 4\nRestart=always",
        "python -m sglang.launch_server --model X ^\n  --tp 4",
        "python -m sglang.launch_server --tp 4 --model-path \\\n    meta-llama/Llama-3.1-8B",
        f"First install it.\n\n    pip install sglang\n\nStart the model's server:\n\n  {RUN} 4\n\nIt isn't slow.",
    ],
)
def test_wrappers(text: str) -> None:
    (reading,) = registry.read(text)
    assert summary(reading) == TP4


def test_a_container_gives_its_name() -> None:
    (reading,) = registry.read(case_text("sglang", "manifests", "kubernetes"))
    assert reading.name in ("server", "sglang-prefill")


def test_variants_are_several_readings_with_their_comments() -> None:
    readings = registry.read(f"# TP-4\n{RUN} 4\n\n# TP-8\n{RUN} 8\n")
    assert [(reading.name, summary(reading)) for reading in readings] == [("TP-4", TP4), ("TP-8", "world 8 | tp 8")]


def test_variants_of_arguments_alone() -> None:
    readings = registry.read("# small\n--model-path X --tp 4\n\n# large\n--model-path X --tp 8 --pp-size 2\n", "sglang")
    assert [(reading.name, summary(reading)) for reading in readings] == [
        ("small", TP4),
        ("large", "world 16 stages 2 | tp 8"),
    ]


def test_files_that_the_text_writes() -> None:
    text = "TP=4\ncat <<EOF > a.yaml\ntp: $TP\nEOF\necho 'b: 1' > b.yaml\necho 'c: 2' >> b.yaml\nserve --config a.yaml"
    (document,) = serving(text)
    assert {name: (file.text, file.line) for name, file in document.files.items()} == {
        "a.yaml": ("tp: 4\n", 3),
        "b.yaml": ("b: 1\nc: 2", 6),
    }


def test_a_quoted_heredoc_keeps_its_variables() -> None:
    (document,) = serving("cat > a <<'EOF'\n$TP\nEOF\nserve a")
    assert document.files["a"].text == "$TP\n"


def test_environment_reaches_the_command() -> None:
    (document,) = serving("export A=1\nB=2\nC=3 docker run -e D=4 --env E=5 image serve x")
    assert {name: word.text for name, word in document.environment.items()} == {"A": "1", "C": "3", "D": "4", "E": "5"}


@pytest.mark.parametrize(
    ("arguments", "dialect"),
    [
        ("--model-path X --tp 8 --enable-dp-attention --dp 4", "sglang"),
        ("--attn-tp-size 4 --dense-tp-size 2 --world-size 8", "tokenspeed"),
        ("--tensor-parallel-size 4 --gpu-memory-utilization 0.9 --max-model-len 8192", "vllm"),
    ],
)
def test_arguments_alone_are_recognized(arguments: str, dialect: str) -> None:
    (reading,) = registry.read(arguments)
    assert reading.dialect == dialect and reading.layout is not None


def test_words_of_a_shell_are_read_as_they_are() -> None:
    words = ["vllm", "serve", "X y", "--tensor-parallel-size", "2", "--served-model-name", "it's"]
    (reading,) = registry.read_words(words)
    assert reading.options["model"] == "X y" and reading.options["served_model_name"] == "it's"


@pytest.mark.parametrize("text", ["", "hello", "ls -la", "tp: 4"])
def test_what_is_no_engine_s_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no engine's command or file"):
        registry.read(text)


def test_an_unknown_dialect_names_the_known() -> None:
    with pytest.raises(UsageError, match="unknown dialect sglan; did you mean sglang"):
        registry.read(RUN + " 4", "sglan")


@pytest.mark.parametrize("text", ["", "ls -la --color", "a: [", "x: 1", "hello"])
@pytest.mark.parametrize("dialect", ["sglang", "tokenspeed", "vllm"])
def test_nothing_of_the_named_engine_is_a_refusal(text: str, dialect: str) -> None:
    (reading,) = registry.read(text, dialect)
    assert reading.refused is not None and reading.layout is None


def test_a_config_file_alone() -> None:
    (reading,) = registry.read("# vLLM\nmodel: Qwen/Qwen3-8B\ntensor-parallel-size: 4\n", "vllm")
    assert summary(reading) == TP4 and reading.options["model"] == "Qwen/Qwen3-8B"


def test_a_key_twice_in_a_config_file_shows_both_places() -> None:
    (reading,) = registry.read("tensor-parallel-size: 4\ntensor_parallel_size: 8\n", "vllm")
    assert reading.refused is not None
    assert "line 1, column 1 and line 2, column 1" in reading.refused.message


def test_broken_yaml_says_line_and_column() -> None:
    (reading,) = registry.read("tensor-parallel-size: 4\nmodel: [a\n", "vllm")
    assert reading.refused is not None and reading.refused.where is not None
    assert reading.refused.where.line == 3


def test_the_named_engine_s_commands_are_picked_out() -> None:
    (reading,) = registry.read(f"{RUN} 4\nvllm serve X -tp 2", "vllm")
    assert summary(reading) == "world 2 | tp 2"


def test_several_engines_in_one_text() -> None:
    readings = registry.read(f"{RUN} 4\nvllm serve X -tp 2\ntokenspeed serve X --tp 8")
    assert [reading.dialect for reading in readings] == ["sglang", "vllm", "tokenspeed"]


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("ab-= \t\n\\'\"$`#<>|&;(){}[]1é\u2014\u201c\x00"), max_size=60))
def test_any_text_has_words_with_places_inside_it(text: str) -> None:
    lines = text.replace("\r\n", "\n").split("\n")
    for command in lex(text):
        for word in command.words:
            assert 1 <= word.where.line <= len(lines)
            assert 1 <= word.where.column <= len(lines[word.where.line - 1]) + 1
    documents(text, PROGRAMS, Context().settings)


LWS = """containers:
- name: leader
  image: lmsysorg/sglang:latest
  command: [python3, -m, sglang.launch_server, --model-path, meta-llama/Llama-3.1-8B, --tp, "4",
            --nnodes, $(LWS_GROUP_SIZE), --dist-init-addr, "$(LEADER):1", --node-rank, "0"]
- name: worker
  image: lmsysorg/sglang:latest
  command: [python3, -m, sglang.launch_server, --model-path, meta-llama/Llama-3.1-8B, --tp, "4",
            --nnodes, $(LWS_GROUP_SIZE), --dist-init-addr, "$(LEADER):1", --node-rank, $(LWS_WORKER_INDEX)]
"""


def test_a_leader_and_its_workers_are_one_deployment() -> None:
    (reading,) = registry.read(LWS)
    assert reading.variables == ("LWS_GROUP_SIZE",), "a node's rank leaves no size open"
    (reading,) = registry.read(LWS, context=Context(settings={"LWS_GROUP_SIZE": "2"}))
    assert reading.layout is not None and (reading.layout.world, reading.layout.nodes) == (4, 2)


def test_a_worker_of_another_world_is_a_conflict_with_both_places() -> None:
    (reading,) = registry.read(LWS.replace('--tp, "4"', '--tp, "2"', 1))
    assert reading.refused is not None
    assert "node 0 in line 4, node worker in line 8" in reading.refused.message


def test_configs_inside_a_call_are_their_fields() -> None:
    text = (
        "from tensorrt_llm import LLM\nllm = LLM(model='deepseek-ai/DeepSeek-R1', tensor_parallel_size=8,\n"
        "    kv_cache_config=KvCacheConfig(free_gpu_memory_fraction=0.8), moe_config=MoeConfig(backend=BACKEND))\n"
    )
    (reading,) = registry.read(text)
    assert reading.options["free_gpu_memory_fraction"] == 0.8 and reading.options["moe_backend"] == "$BACKEND"


@pytest.mark.parametrize(
    "text",
    [
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B --tp 4 --nnodes 2 --node-rank 0"
        " --dist-init-addr 10.0.0.1:5000 --attention-backend fa3 --enable-mixed-chunk --cuda-graph-bs 1 2 4",
        "vllm serve meta-llama/Llama-3.1-8B -tp 4 --no-enable-prefix-caching --no-async-scheduling"
        " --gpu-memory-utilization 0.9 --compilation-config '{\"level\": 3}'",
        "tokenspeed serve meta-llama/Llama-3.1-8B --world-size 4 --attn-tp-size 2 --dist-init-addr 10.0.0.1:5000"
        " --attention-backend fa3",
    ],
)
def test_an_engine_s_own_options_are_written_back(text: str) -> None:
    (reading,) = registry.read(text)
    assert reading.layout is not None
    written = registry.write(reading.layout, reading.dialect, reading.options, reading.dialect)
    (back,) = registry.read(written.text)
    assert (back.options, written.notes) == (reading.options, ())


ARGUMENTS = '["--model", "meta-llama/Llama-3.1-8B", "--tensor-parallel-size", "4", "--gpu-memory-utilization", "0.9"]'
POD = f"spec:\n  containers:\n  - name: a\n    image: IMAGE\n    args: {ARGUMENTS}\n"


HEREDOC = f"cat <<EOF | kubectl apply -f -\n{POD}EOF\n"
FILE = f"cat > p.yaml <<EOF\n{POD}EOF\n"


@pytest.mark.parametrize(
    ("text", "image"),
    [
        *((text, image) for text in (POD, HEREDOC, FILE) for image in ("vllm/vllm-openai", "vllm/vllm-openai:latest")),
        (POD, "registry.example/inference:1"),
    ],
)
def test_arguments_of_containers_under_any_image(text: str, image: str) -> None:
    (reading,) = registry.read(text.replace("IMAGE", image))
    assert summary(reading) == TP4 and reading.options["model"] == "meta-llama/Llama-3.1-8B"
    assert not [note for note in reading.notes if note.level != "info"]


@pytest.mark.parametrize(
    "text",
    [
        'ARGS="--model meta-llama/Llama-3.1-8B"\nARGS+=" -tp 4"\npython -m vllm.entrypoints.openai.api_server $ARGS',
        'CMD="vllm serve meta-llama/Llama-3.1-8B"\nCMD+=" --tensor-parallel-size 4"\n$CMD',
        "[Service]\nEnvironment=A=1\nExecStart=/usr/bin/vllm serve meta-llama/Llama-3.1-8B -tp 4\nRestart=always\n",
        "uvx vllm@latest serve meta-llama/Llama-3.1-8B -tp 4",
        "cat <<'EOF' | docker run -i some/image bash\nvllm serve meta-llama/Llama-3.1-8B -tp 4\nEOF\n",
    ],
)
def test_appended_variables_units_and_piped_scripts(text: str) -> None:
    (reading,) = registry.read(text)
    assert summary(reading) == TP4 and reading.options["model"] == "meta-llama/Llama-3.1-8B"


def test_an_assignment_under_a_condition_is_told() -> None:
    text = 'CMD="vllm serve meta-llama/Llama-3.1-8B"\nif $BIG; then\n  CMD="$CMD -tp 4"\nfi\n$CMD --port 80\n'
    (reading,) = registry.read(text)
    (note,) = [note for note in reading.notes if note.code == "condition"]
    assert summary(reading) == TP4 and "in line 3, column" in note.message
    (reading,) = registry.read(text.replace("-tp 4", "-tp 8").replace("if $BIG", "echo 1").replace("fi\n", ""))
    assert not [note for note in reading.notes if note.code == "condition"]


@pytest.mark.parametrize(
    "text",
    [
        "if $BIG; then\n  TP=16\nelse\n  TP=4\nfi\n",
        "TP=4\nif $BIG; then TP=16; fi\n",
        "case $GPU in\n a) TP=4 ;;\n b) TP=8 ;;\n *) TP=16 ;;\nesac\n",
    ],
)
def test_a_size_that_a_condition_decides_stays_open(text: str) -> None:
    text += "vllm serve meta-llama/Llama-3.1-8B -tp $TP\n"
    (reading,) = registry.read(text)
    assert reading.variables == ("TP",) and reading.layout is None and reading.refused is None
    (note,) = [note for note in reading.notes if note.code == "condition"]
    assert note.message.count("line") == text.count("TP=")
    (reading,) = registry.read(text, context=Context(settings={"TP": "4"}))
    assert summary(reading) == TP4


def test_an_array_grows_under_a_condition() -> None:
    text = "A=(-tp 4)\nif $EAGER; then A+=(--enforce-eager); fi\nvllm serve meta-llama/Llama-3.1-8B ${A[@]}"
    (reading,) = registry.read(text)
    assert summary(reading) == TP4 and reading.options["enforce_eager"] is True
    assert "condition" in {note.code for note in reading.notes}


@pytest.mark.parametrize("nodes", ["-N2", "-N 2", "--nodes=2", "--nodes 2"])
def test_the_launcher_s_nodes(nodes: str) -> None:
    (reading,) = registry.read(f"srun {nodes} trtllm-serve meta-llama/Llama-3.1-8B --tp_size 4")
    assert reading.layout is not None and reading.layout.nodes == 2
