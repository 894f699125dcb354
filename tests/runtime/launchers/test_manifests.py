"""Manifests: valid by the published schemas, of the layout and the words that were given, and running as written."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.runtime.launchers import containers
from tests.runtime.launchers.containers import Document, Running
from tests.runtime.launchers.packages import packages
from tests.support.namespaces import ROOT, Host, hosts, need_namespaces
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import children, until
from weft.base.errors import ConfigError
from weft.base.machine.cores import CoreShare
from weft.base.settings import EngineConfig
from weft.cli.main import main
from weft.compute.native import kernels
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.serialize import load_given
from weft.runtime.launch_plan.hosts import HostResources
from weft.runtime.launch_plan.memory import MIB
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.launchers.manifests.deployment import SERVER_BYTES

KINDS = ("lws", "statefulset", "compose")
Write = Callable[..., list[Document]]
CHECK = """
import json, sys
import kubernetes_validate
from compose_spec import PyCompose
for document in json.load(sys.stdin):
    try:
        if "services" in document:
            PyCompose.from_json(json.dumps(document))
        else:
            kubernetes_validate.validate(document, "1.34", strict=True)
        print("valid")
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
"""
KEYS = {"WEFT_DIST_SECRET": "correct horse battery", "WEFT_API_KEY": "staple"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_chat(tmp_path / "tiny")


@pytest.fixture
def write(model: Path, capsys: pytest.CaptureFixture[str]) -> Write:
    """The documents that `weft manifest MODEL ...` prints."""

    def documents(*words: str, named: bool = True) -> list[Document]:
        here = ["--model-host-path"] if {"--model-claim", "compose"}.isdisjoint(words) else []
        assert main(["manifest", *([str(model)] if named else []), *here, *words]) == 0, capsys.readouterr().err
        return [*yaml.safe_load_all(capsys.readouterr().out)]

    return documents


def two(kind: str) -> list[str]:
    layout = ["--layout", str(ROOT / "layouts" / "two-ranks.yaml"), "--nnodes", "2"]
    return ["--kind", kind, *layout, "--kv-cache-memory", "4MiB", "--served-model-name", "small"]


def checked(documents: list[Document]) -> list[str]:
    """'valid', or what is wrong, of each document."""
    folder = packages("kubernetes-validate==1.37.0", "compose-spec==0.2.1")
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    words = [sys.executable, "-c", CHECK]
    done = subprocess.run(words, input=json.dumps(documents), capture_output=True, text=True, env=environ, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def pods_of(document: Document) -> list[Document]:
    """The pods of a LeaderWorkerSet, as documents of their own."""
    template = document["spec"]["leaderWorkerTemplate"]
    templates = [template["leaderTemplate"], template["workerTemplate"]]
    return [{"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(each)} for each in templates]


def test_documents_are_valid(write: Write) -> None:
    """By Kubernetes' schemas, the LeaderWorkerSet's fields, and a parser of compose's specification; which do refuse
    documents with a wrong field."""
    schema = json.loads((ROOT / "tests" / "runtime" / "launchers" / "leaderworkerset.json").read_text())
    found: list[Document] = []
    for kind in KINDS:
        for document in write(*two(kind)):
            if document.get("kind") == "LeaderWorkerSet":
                jsonschema.validate(document, schema)
                found += pods_of(document)
                wrong = copy.deepcopy(document)
                wrong["spec"]["leaderWorkerTemplate"]["restartPolicy"] = "Never"
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validate(wrong, schema)
            else:
                found.append(document)
    assert [document.get("kind", "compose") for document in found] == [
        *("ConfigMap", "Secret", "Service", "Pod", "Pod"),
        *("ConfigMap", "Secret", "Service", "Service", "StatefulSet", "StatefulSet"),
        "compose",
    ]
    broken = [copy.deepcopy(found[4]), copy.deepcopy(found[-2]), copy.deepcopy(found[-1])]
    broken[0]["spec"]["containers"][0]["readinessProb"] = {}
    broken[1]["spec"]["ordinals"]["start"] = "one"
    broken[2]["services"]["host0"]["comand"] = []
    results = checked([*found, *broken])
    assert results[: len(found)] == ["valid"] * len(found)
    assert "valid" not in results[len(found) :] and len(results) == len(found) + 3


ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""By Pod Security "restricted": https://kubernetes.io/docs/concepts/security/pod-security-standards/"""


@pytest.mark.parametrize("kind", ["lws", "statefulset"])
def test_pods_keep_the_rules_of_restricted_namespaces(write: Write, kind: str) -> None:
    documents = write(*two(kind), "--model-claim", "models")
    pods = pods_of(documents[-1]) if kind == "lws" else [each["spec"]["template"] for each in documents[-2:]]
    for spec in (pod["spec"] for pod in pods):
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(volume.keys() - {"name"} <= ALLOWED_VOLUMES for volume in spec["volumes"])
        assert all("hostPort" not in port for port in container.get("ports", []))
        (secret,) = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
        # The kubelet gives such a file to root and the group.
        assert (
            secret["defaultMode"] == 0o440
            and spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
        )


SRUN = """#!/bin/bash
# Runs the words once for each of two nodes of this machine.
export SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=127.0.0.1,127.0.0.2
trap 'kill $(jobs -p)' TERM
SLURM_NODEID=0 "$@" & SLURM_NODEID=1 "$@" &
wait; wait
"""


def test_a_job_script_runs_a_layout(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Slurm runs it, with an `srun` of two nodes; nothing is left of its folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free_port = free.getsockname()[1]
    given = ["--kv-cache-memory", "4MiB", "--served-model-name", "small", "--port", str(free_port)]
    assert main(["manifest", str(model), "--kind", "slurm", "--tp", "2", "--nnodes", "2", *given]) == 0
    script, programs = capsys.readouterr().out, tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(SRUN)
    (programs / "srun").chmod(0o755)
    assert re.findall(r"^#SBATCH --nodes=(\d+) --ntasks-per-node=1", script, re.M) == ["2"]
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7"}
    words = ["bash", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environ) as job:
        assert job.stdout is not None
        (key_file,) = re.findall(r"key in (\S+)", next(job.stdout))
        key = Path(key_file).read_text().strip()
        assert Path(key_file).stat().st_mode & 0o077 == 0
        assert any(line.startswith("ready on") for line in job.stdout)
        asked = ASK.replace("KEY", key).replace("8000", str(free_port))
        assert subprocess.check_output([sys.executable, "-c", asked], text=True).strip() == "200"
        (srun,) = children(job.pid)
        os.kill(srun, signal.SIGTERM)
        job.stdout.read()
    assert not [*tmp_path.glob("weft-7-*")]


def words(document: Document) -> list[str]:
    """Of the server."""
    if "services" in document:
        return list(document["services"]["host0"]["command"])
    template = document["spec"].get("leaderWorkerTemplate", {}).get("leaderTemplate") or document["spec"]["template"]
    return list(template["spec"]["containers"][0]["args"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theirs", [
    "--from sglang -- python -m sglang.launch_server --model-path M --tp 2 --nnodes 2 --node-rank 0"
    " --dist-init-addr h:29500",
    "M --world-size 2 --attn-tp-size 2 --nnodes 2 --node-rank 0 --nprocs-per-node 1 --dist-init-addr h:25000",
    "--from vllm -- vllm serve M --tensor-parallel-size 2 --nnodes 2 --node-rank 0 --master-addr h",
], ids=["sglang", "tokenspeed", "vllm"])  # fmt: skip
def test_words_of_other_engines(write: Write, model: Path, kind: str, theirs: str) -> None:
    """The same documents as weft's own words give."""
    more = ["--kind", kind, "--secret-name", "x"] if kind != "compose" else ["--kind", kind]
    found = write(*more, *theirs.replace(" M ", f" {model} ").replace("M ", f"{model} ", 1).split(), named=False)
    assert found == write(*more, "--tp", "2", "--nnodes", "2")


def test_what_the_words_say(write: Write, model: Path) -> None:
    """Engine, server and process options reach the command; sizes reach the layout's document alone."""
    given = ["--tp", "2", "--max-num-seqs", "8", "--port", "9000", "--no-enable-prefix-caching", "--step-limit", "7"]
    given += ["--comm", "gloo", "--served-model-name", "a$(HOME)b", "--api-key", "known"]
    for kind in KINDS:
        documents = write("--kind", kind, "--nnodes", "2", "--name", "big", "--image", "r/weft:1", *given)
        found = words(documents[-2 if kind == "statefulset" else -1])
        assert found[:2] == ["serve", str(model)]
        escaped = "a$$(HOME)b"
        for flag, value in (("--max-num-seqs", "8"), ("--step-limit", "7.0"), ("--comm", "gloo"), ("--port", "9000")):
            assert found[found.index(flag) + 1] == value, found
        assert "--no-enable-prefix-caching" in found and escaped in found and "--tp" not in found
        text = yaml.safe_dump_all(documents)
        assert "r/weft:1" in text and ("known" in text) == (kind != "compose")
        first = documents[0]
        data = first["configs"]["layout"]["content"] if kind == "compose" else first["data"]["layout.yaml"]
        assert resolve(load_given(data)) == resolve({"nodes": 2}, tp=2)


def test_memory_is_what_the_plan_needs(write: Write, model: Path) -> None:
    """A host with so much memory, less the server's, plans as many KV blocks as a host that has enough."""
    (compose,) = write(*two("compose")[:2], "--tp", "2", "--nnodes", "2")
    limits = [each["deploy"]["resources"]["limits"]["memory"] for each in compose["services"].values()]
    leader = int(limits[0].removesuffix("m")) * MIB - SERVER_BYTES
    checkpoint, layout = open_checkpoint(str(model)), resolve({"nodes": 2}, tp=2)

    def blocks(memory: int) -> int:
        hosts = [HostResources("h", "", "", memory, (CoreShare((), 1),), kernels())] * 2
        plan = plan_launch(checkpoint, layout, EngineConfig(), "gloo", hosts=hosts)
        assert plan.memory is not None
        return plan.memory.num_blocks

    assert blocks(leader) == blocks(1 << 60)
    with pytest.raises(ConfigError):
        blocks(leader * 9 // 10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--mem-fraction-static", "0.5"], "give --kv-cache-memory"),
        (["--device", "cuda"], "device cuda: the image computes on CPUs; legal: cpu"),
        (["--uds", "/x"], "--uds: not in a manifest; leave it out"),
        (["--chat-template", "f.jinja"], "--chat-template: not in a manifest"),
        (["--name", "Big_One"], "--name 'Big_One': legal: a letter, then at most 41 of a-z"),
        (["--image", "a b"], "--image 'a b': give the name of an image"),
        (["--port", "0"], "--port 0: a manifest names its port"),
        (["--node-rank", "1", "--nnodes", "2", "--tp", "2"], "--node-rank 1: a manifest is of all hosts"),
        (["--model-claim", "x"], "--model-claim x: Docker compose has none; leave it out"),
        (["--model-host-path"], "--model-host-path: Docker compose has none; leave it out"),
        (["--kind", "slurm", "--secret-name", "x"], "--secret-name x: Slurm has none; leave it out"),
        (["--kind", "lws"], "give --model-claim NAME"),
        (["--kind", "lws", "--model-claim", "x", "--model-host-path"], "--model-claim says where MODEL is"),
        (["--layout", str(ROOT / "layouts" / "two-ranks.yaml"), "--nnodes", "3"], "nodes 3"),
    ],
)
def test_what_is_refused(model: Path, given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", str(model), "--kind", "compose", *given]) != 0
    assert said in capsys.readouterr().err


def test_a_model_that_is_downloaded_and_one_of_a_claim(write: Write, model: Path) -> None:
    documents = write("--kind", "statefulset", "--model-claim", "models")
    (pod,) = [each["spec"]["template"]["spec"] for each in documents if each["kind"] == "StatefulSet"]
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in pod["volumes"]
    assert "--nnodes" not in pod["containers"][0]["args"] and len(documents[1]["stringData"]) == 1


def test_the_image_runs_the_same_command() -> None:
    """The Dockerfile's entry point is the script of the package, what it copies is there, and reaches the builder."""
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.M) == ['["weft"]']
    assert project["scripts"]["weft"] == "weft.cli.main:main"
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(kept) and all((ROOT / word).exists() for word in copied)
    assert {*project["license-files"], project["readme"]} <= {*copied}


def placed(kind: str, documents: list[Document], found: list[Host]) -> list[Running]:
    """Each container on a host of its own, with the variables and names that its controller gives."""
    addresses = [host.address for host in found]
    if kind == "compose":
        names = {f"host{number}": address for number, address in enumerate(addresses)}
        made = [containers.service(documents[0], name, KEYS) for name in names]
    elif kind == "lws":
        names = {"weft-0.weft.default": addresses[0]}
        template = documents[-1]["spec"]["leaderWorkerTemplate"]
        made = [
            containers.pod(
                template[f"{role}Template"],
                documents,
                {"LWS_LEADER_ADDRESS": "weft-0.weft.default", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(number)},
                {},
            )
            for number, role in enumerate(("leader", "worker"))
        ]
    else:
        names = {"weft-leader-0.weft": addresses[0]}
        sets = [each["spec"] for each in documents if each["kind"] == "StatefulSet"]
        index = "apps.kubernetes.io/pod-index"
        made = [
            containers.pod(each["template"], documents, {}, {index: str(each["ordinals"]["start"])}) for each in sets
        ]
    return [containers.run(host, each, names) for host, each in zip(found, made, strict=True)]


def key_of(kind: str, documents: list[Document]) -> str:
    return KEYS["WEFT_API_KEY"] if kind == "compose" else documents[1]["stringData"]["api-key"]


ASK = """
import json, urllib.request
body = {"model": "small", "prompt": "Hello", "max_tokens": 8}
headers = {"Authorization": "Bearer KEY", "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8000/v1/completions", json.dumps(body).encode(), headers)
print(urllib.request.urlopen(request, timeout=60).status)
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_two_containers_are_one_engine(write: Write, tmp_path: Path, kind: str) -> None:
    """The words run as written; probes fail before, succeed when the engine serves, and follow an agent's end."""
    need_namespaces()
    documents = write(*two(kind))
    ready = "healthcheck" if kind == "compose" else "readinessProbe"
    with hosts(tmp_path) as found:
        leader, worker = placed(kind, documents, found)
        assert not leader.probe(ready)
        leader.command.says("^ready on", 240)
        assert all(each.probe(name) for each in (leader, worker) for name in each.container.probes)
        assert found[0].python(ASK.replace("KEY", key_of(kind, documents))).strip() == "200"
        os.kill(worker.command.pid, 9)
        until(lambda: not leader.probe(ready), "host 0 does not see it")
        assert not worker.probe(ready)
        worker.command = containers.start(worker.host, worker.container)
        until(lambda: worker.probe(ready) and leader.probe(ready), "the host does not come back", 120)
        os.kill(leader.command.pid, 15)
        assert (leader.command.end(), worker.command.end()) == (0, 0)


def test_pods_that_ask_for_a_name_that_is_not_there_yet() -> None:
    """$(NAME) of a variable that is not set stays, as Kubernetes leaves it."""
    found: dict[str, Any] = {"A": "1"}
    assert containers.expanded("$(A) $(B) $$(A)", found) == "1 $(B) $(A)"
