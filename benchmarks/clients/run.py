"""Points clients that others wrote at a served tiny model and says what works.

python -m benchmarks.clients.run [NAME...] [--venvs DIR] [--save FILE.json]

Each client gets a virtual environment of its own under DIR, kept for the next run. pip has the caller's settings.
Exit code 1 where a client failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.clients.catalogue import Client, Place, chosen
from benchmarks.common.command import result_file, run_command
from tests.support.tiny_chat import write_tiny_chat
from weft.cli.hosted import PROGRAM
from weft.tools.bench.machine import commit, machine, versions
from weft.tools.bench.served import Served

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300


def main() -> int:
    """0 where every client was served."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="clients to try (default: all)")
    parser.add_argument("--venvs", type=Path, default=Path(tempfile.gettempdir()) / "weft-clients", metavar="DIR")
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    clients = chosen(args.names)
    pythons = {client.name: install(client, args.venvs.absolute() / client.name) for client in clients}
    with tempfile.TemporaryDirectory(prefix="weft-clients-") as folder:
        model = write_tiny_chat(Path(folder) / "tiny", max_position_embeddings=2048)
        with Served(PROGRAM, ["serve", str(model), "--port", "0", "--tp", "2"]) as served:
            url = served.wait_ready()
            results = [_try(client, pythons[client.name], Path(folder), url, model) for client in clients]
            results = [result | {"server_alive": served.alive} for result in results]
    head = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(), "machine": machine()}
    if args.save:
        args.save.write_text(json.dumps({**head, "git": commit(ROOT), "clients": results}, indent=2) + "\n")
    for result in results:
        _show(result)
    return 0 if all(result["ok"] for result in results) else 1


def install(client: Client, folder: Path) -> str | None:
    """The interpreter of the client's environment, made if it is not there; None where it cannot be made."""
    python = folder / "bin" / "python"
    stamp = folder / "complete"
    wanted = json.dumps([client.requirements, client.wheel])
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python)
    print(f"installing {client.name}", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        site = next(folder.glob("lib/python*/site-packages"))
        if client.shared:  # torch, transformers: gigabytes that are here already
            (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *client.requirements], check=True)
        if client.wheel is not None:
            _unpack(python, client.wheel, folder, site)
    except subprocess.CalledProcessError as error:
        print(f"{client.name}: {error}", file=sys.stderr)
        return None
    stamp.write_text(wanted)
    return str(python)


def _unpack(python: Path, wheel: str, folder: Path, site: Path) -> None:
    """Everything of a wheel but its compiled libraries."""
    subprocess.run([str(python), "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), wheel], check=True)
    for path in folder.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(site, [name for name in archive.namelist() if not name.endswith(".so")])
        path.unlink()


def _try(client: Client, python: str | None, folder: Path, url: str, model: Path) -> dict[str, object]:
    result: dict[str, object] = {"client": client.name, "requirements": [*client.requirements, client.wheel or ""]}
    if python is None:
        return result | {"ok": False, "detail": "could not be installed"}
    place = folder / client.name
    place.mkdir()
    began = time.monotonic()
    try:
        done = subprocess.run(
            client.command(Place(python, place, url, model.name, model)),
            cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=LIMIT_S, env=environment(place),
        )  # fmt: skip
        text = done.stdout
        ok = done.returncode == 0 and re.search(client.said, text) is not None
    except subprocess.TimeoutExpired:
        ok, text = False, f"not done after {LIMIT_S} s"
    calls = [json.loads(line) for line in text.splitlines() if line.startswith('{"call"')]
    detail = [] if ok else [line for line in text.splitlines() if line.strip() and line not in calls][-6:]
    seconds = round(time.monotonic() - began, 1)
    return result | {"ok": ok, "seconds": seconds, "calls": calls, "detail": "" if calls else "\n".join(detail)[-1500:]}


def environment(place: Path) -> dict[str, str]:
    """Offline: a client talks to the server that it is pointed at, and to no other host."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf"), "OPENAI_API_KEY": "none", "DO_NOT_TRACK": "1"}
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **offline, **local, "VLLM_NO_USAGE_STATS": "1"}


def _show(result: dict[str, object]) -> None:
    calls = result.get("calls") or []
    assert isinstance(calls, list)
    count = f", {sum(bool(one['ok']) for one in calls)} of {len(calls)} calls" if calls else ""
    print(f"{result['client']:<18} {'works' if result['ok'] else 'FAILS'}{count}")
    for one in calls:
        if not one["ok"]:
            print(f"    {one['call']}: {one['detail']}")
    if result.get("detail"):
        print("    " + str(result["detail"]).replace("\n", "\n    "))


if __name__ == "__main__":
    run_command(main)
