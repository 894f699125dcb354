"""Containers of a manifest as hosts of tests: with their files, their variables and their words as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.namespaces import ROOT, Command, Host

Document = dict[str, Any]


@dataclass
class Container:
    """`words`: after the image's entry point. `files`: content and mode by path. `probes`: commands by name."""

    words: list[str]
    variables: dict[str, str]
    files: dict[str, tuple[str, int]]
    probes: dict[str, list[str]]


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """As Kubernetes does: $(NAME) where it is set, $$( for $( itself."""

    def value(found: re.Match[str]) -> str:
        return found[0][1:] if found[0].startswith("$$") else variables.get(found[1], found[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_]*)\)", value, text)


def pod(
    template: Document, documents: list[Document], injected: Mapping[str, str], labels: Mapping[str, str]
) -> Container:
    """Of a pod template; `injected`: variables that its controller adds; `labels`: those that it adds."""
    spec = template["spec"]
    (container,) = spec["containers"]
    variables = dict(injected)
    for entry in container.get("env", []):
        variables[entry["name"]] = labels[re.findall(r"\['(.*)'\]", entry["valueFrom"]["fieldRef"]["fieldPath"])[0]]
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    files: dict[str, tuple[str, int]] = {}
    for mount in container["volumeMounts"]:
        volume = next(each for each in spec["volumes"] if each["name"] == mount["name"])
        if "configMap" in volume:
            data, mode = by_name["ConfigMap", volume["configMap"]["name"]]["data"], 0o644
        elif "secret" in volume:
            whole = by_name["Secret", volume["secret"]["secretName"]]["stringData"]
            data = {item["path"]: whole[item["key"]] for item in volume["secret"]["items"]}
            mode = volume["secret"]["defaultMode"]
        else:
            continue
        files |= {f"{mount['mountPath']}/{name}": (text, mode) for name, text in data.items()}
    words = [expanded(word, variables) for word in container["args"]]
    ports = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
    probes = {name: _probe(container[name], ports) for name in container if name.endswith("Probe")}
    return Container(words, variables, files, probes)


def _probe(probe: Document, ports: Mapping[str, int]) -> list[str]:
    if "exec" in probe:
        return list(probe["exec"]["command"])
    get = probe["httpGet"]
    return ["weft", "probe", f"http://127.0.0.1:{ports[get['port']]}{get['path']}"]


def service(document: Document, name: str, environ: Mapping[str, str]) -> Container:
    """Of a service of compose; `environ`: in the shell that starts compose."""
    found = document["services"][name]
    files = {each["target"]: (document["configs"][each["source"]]["content"], 0o444) for each in found["configs"]}
    for each in found["secrets"]:
        files[each["target"]] = (environ[document["secrets"][each["source"]]["environment"]], each["mode"])
    words = [word.replace("$$", "$") for word in found["command"]]
    return Container(words, {}, files, {"healthcheck": found["healthcheck"]["test"][1:]})


@dataclass
class Running:
    """A container that runs on a host."""

    host: Host
    container: Container
    command: Command

    def probe(self, name: str) -> bool:
        """Whether the probe succeeds, with its own command, in the container."""
        environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        words = [*self.host.entered(), *self.container.probes[name]]
        return subprocess.run(words, capture_output=True, timeout=60, env=environ).returncode == 0


def run(host: Host, container: Container, names: Mapping[str, str]) -> Running:
    """Starts it; `names`: addresses by the names that the cluster's own name server has."""
    host.run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for number, (path, (text, mode)) in enumerate(container.files.items()):
        source = host.folder / f"mounted{number}"
        source.write_text(text)
        host.run("install", "-D", "-m", f"{mode:o}", str(source), path)
    table = host.folder / "names"
    table.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in names.items()))
    host.run("mount", "--bind", str(table), "/etc/hosts")
    return Running(host, container, start(host, container))


def start(host: Host, container: Container) -> Command:
    """Its words, once more where it has ended."""
    return host.start("weft.cli.main", container.words, container.variables)
