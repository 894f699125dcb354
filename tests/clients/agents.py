"""Coding agents that others wrote: where each comes from, and how it is pointed at a server and asked one thing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.clients.catalogue import Client
from benchmarks.clients.run import install
from weft.model.checkpoint.hub.embedded import cache_dir

NPM = Path(__file__).parent / "npm"
ASKED = "Run a command."


@dataclass(frozen=True, slots=True)
class Place:
    """`program`: of the installed agent. `folder`: an empty one, home and project. `url`: the server's."""

    program: str
    folder: Path
    url: str


@dataclass(frozen=True, slots=True)
class Agent:
    """`packages`: pinned, of npm, or of pip. `program`: below the folder that they are installed in, or node."""

    name: str
    packages: Sequence[str]
    program: str
    command: Callable[[Place], list[str]]
    pip: bool = False
    env: dict[str, str] = field(default_factory=dict)
    """URL and FOLDER are replaced."""
    made: str | None = None
    """A file that it writes."""

    def installed(self) -> str | None:
        """The program; None: it cannot be had here."""
        kept = cache_dir() / "clients" / self.name
        kept.mkdir(parents=True, exist_ok=True)
        if self.pip:
            python = install(Client(self.name, tuple(self.packages), lambda place: []), kept)
            return None if python is None else str(kept / self.program)
        return self._from_npm(kept)

    def _from_npm(self, kept: Path) -> str | None:
        npm, node, program = shutil.which("npm"), shutil.which("node"), kept / self.program
        if npm is None or node is None:
            return None
        stamp = kept / "complete"
        if not stamp.is_file() or stamp.read_text() != json.dumps(self.packages):
            scripts = {package.rpartition("@")[0]: True for package in self.packages}
            (kept / "package.json").write_text(json.dumps({"private": True, "allowScripts": scripts}))
            command = [npm, "install", "--no-audit", "--no-fund", *self.packages]
            if subprocess.run(command, cwd=kept, capture_output=True).returncode:
                return None
            stamp.write_text(json.dumps(self.packages))
        return node if self.program == "node" else str(program)

    def environment(self, place: Place) -> dict[str, str]:
        """A home of its own, and no word to any other host than the server."""
        values = {"URL": place.url, "FOLDER": str(place.folder)}
        own = {
            name: re.sub("URL|FOLDER", lambda found: values[found[0]], word, count=1) for name, word in self.env.items()
        }
        home = {"HOME": str(place.folder), "PWD": str(place.folder)}
        quiet = {"DO_NOT_TRACK": "1", "NO_COLOR": "1", "CI": "1", "NO_PROXY": "127.0.0.1"}
        return {**os.environ, **home, **quiet, **own}


def _codex(place: Place) -> list[str]:
    provider = {"name": '"weft"', "base_url": f'"{place.url}/v1"', "wire_api": '"responses"'}
    words = [f"model_providers.weft.{name}={value}" for name, value in provider.items()]
    options = [word for each in (*words, 'model_provider="weft"', 'model="tiny"') for word in ("-c", each)]
    bypass = "--dangerously-bypass-approvals-and-sandbox"
    return [place.program, "exec", "--skip-git-repo-check", bypass, *options, ASKED]


def _claude(place: Place) -> list[str]:
    return [place.program, "-p", ASKED, "--allowedTools", "Bash"]


def _opencode(place: Place) -> list[str]:
    provider = {
        "npm": "@ai-sdk/openai-compatible", "name": "weft", "models": {"tiny": {"name": "tiny"}},
        "options": {"baseURL": f"{place.url}/v1", "apiKey": "none"},
    }  # fmt: skip
    config = {
        "model": "weft/tiny", "small_model": "weft/tiny", "autoupdate": False, "share": "disabled",
        "permission": {"bash": "allow"}, "provider": {"weft": provider},
    }  # fmt: skip
    (place.folder / "opencode.json").write_text(json.dumps(config))
    return [place.program, "run", ASKED]


def _qwen(place: Place) -> list[str]:
    return [place.program, "--auth-type", "openai", "-y", "-p", ASKED]


def _cn(place: Place) -> list[str]:
    model = {
        "name": "tiny", "provider": "openai", "model": "tiny", "apiBase": f"{place.url}/v1", "apiKey": "none",
        "roles": ["chat"], "capabilities": ["tool_use"],
    }  # fmt: skip
    config = {"name": "weft", "version": "0.0.1", "schema": "v1", "models": [model]}
    path = place.folder / "config.yaml"
    path.write_text(json.dumps(config))
    return [place.program, "-p", ASKED, "--config", str(path), "--allow", "Bash"]


def _aider(place: Place) -> list[str]:
    quiet = ["--no-git", "--no-show-model-warnings", "--no-check-update", "--analytics-disable", "--no-pretty"]
    words = ["--model", "openai/tiny", "--edit-format", "diff", "--yes-always", *quiet, "--message", "Write hello.txt."]
    return [place.program, *words]


def _script(name: str) -> Callable[[Place], list[str]]:
    """One of `npm/`, beside the packages that it imports."""

    def command(place: Place) -> list[str]:
        packages = cache_dir() / "clients" / name
        shutil.copy(NPM / f"{name}.mjs", packages)
        return [place.program, str(packages / f"{name}.mjs"), place.url, "tiny"]

    return command


OPENAI = {"OPENAI_BASE_URL": "URL/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": "tiny"}
ANTHROPIC = {
    "ANTHROPIC_BASE_URL": "URL", "ANTHROPIC_API_KEY": "none", "ANTHROPIC_MODEL": "tiny",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "tiny",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}  # fmt: skip
BIN = "node_modules/.bin"
AI_SDK = ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "@ai-sdk/anthropic@4.0.105", "@ai-sdk/openai-compatible@3.0.92")
AGENTS = (
    Agent("codex", ["@openai/codex@0.171.0"], f"{BIN}/codex", _codex, env={"CODEX_HOME": "FOLDER"}),
    Agent("claude", ["@anthropic-ai/claude-code@2.1.332"], f"{BIN}/claude", _claude, env=ANTHROPIC),
    Agent("opencode", ["opencode-ai@1.18.33"], f"{BIN}/opencode", _opencode),
    Agent("qwen", ["@qwen-code/qwen-code@0.24.4"], f"{BIN}/qwen", _qwen, env=OPENAI),
    Agent("cn", ["@continuedev/cli@1.5.47"], f"{BIN}/cn", _cn, env={"CONTINUE_TELEMETRY_ENABLED": "0"}),
    Agent("aider", ["aider-chat==0.86.2"], "bin/aider", _aider, pip=True,
          env={"OPENAI_API_BASE": "URL/v1", "OPENAI_API_KEY": "none"}, made="hello.txt"),
    Agent("ai_sdk", [*AI_SDK, "zod@4.6.7"], "node", _script("ai_sdk")),
    Agent("vendor_sdks", ["openai@7.59.0", "@anthropic-ai/sdk@1.15.0", "zod@4.6.7"], "node", _script("vendor_sdks")),
)  # fmt: skip
