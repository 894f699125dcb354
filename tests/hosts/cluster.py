"""Two hosts with the same model and secret, each in files of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.namespaces import Command, Host

PORT = 25000
PROMPTS = ("Hello", "What is it", "a b c")


@dataclass
class Cluster:
    """Hosts with the same files in folders of their own."""

    hosts: list[Host]
    models: list[Path]
    secrets: list[Path]

    def meeting(self, number: int, *layout: str) -> list[str]:
        """What every command is given on a host, all but the layout as it should be."""
        words = [str(self.models[number]), *layout, "--nnodes", str(len(self.hosts)), "--node-rank", str(number)]
        words += ["--dist-init-addr", f"{self.hosts[0].address}:{PORT}"]
        return [*words, "--dist-secret-file", str(self.secrets[number]), "--kv-cache-memory", "4MiB"]

    def words(self, number: int, *layout: str) -> list[str]:
        """What `weft serve` is given on a host."""
        where = ["--uds", str(self.hosts[number].folder / "sock")] if number == 0 else []
        return [*self.meeting(number, *layout), "--served-model-name", "small", *where]

    def serve(self, *layout: str, **environ: str) -> list[Command]:
        """The server and its agents, as soon as it is ready."""
        commands = [host.weft("serve", *self.words(host.number, *layout), **environ) for host in self.hosts]
        commands[0].says("^ready on", 240)
        return commands

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.hosts[0].folder / "sock"))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=60)


def answer(client: httpx.Client, prompt: str = "Hello", tokens: int = 16, **more: object) -> httpx.Response:
    body = {"model": "small", "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}
    return client.post("/v1/completions", json=body)
