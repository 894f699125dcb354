"""A job script for Slurm: `sbatch FILE` starts weft once on each node."""

from __future__ import annotations

from shlex import join

from weft.runtime.launch_plan.memory import MIB
from weft.runtime.launchers.manifests.deployment import API_KEY, DIST_SECRET, ContainerDeployment

LAYOUT = "layout.yaml"
END = "END-OF-FILE"


def slurm(deployment: ContainerDeployment) -> str:
    """The script. Layout and secrets lie in a folder of the job, where it was submitted: nodes share that folder."""
    files = {LAYOUT: deployment.layout, **(deployment.secrets or {})}
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={deployment.name}",
        f"#SBATCH --nodes={deployment.hosts} --ntasks-per-node=1 --cpus-per-task={deployment.cpus}",
        f"#SBATCH --mem={max(deployment.memory) // MIB}M",
        "# Clients give the key in the file api-key. The folder is deleted when the job ends.",
        "set -eu",
        "umask 077",
        'folder=$(mktemp -d "$PWD/weft-$SLURM_JOB_ID-XXXXXX")',
        """trap 'rm -rf "$folder"' EXIT""",
        *(f"""cat > "$folder/{name}" <<'{END}'\n{text.rstrip()}\n{END}""" for name, text in files.items()),
        f"""echo "port {deployment.port} of $(hostname), key in $folder/{API_KEY}\"""",
        f"srun {_command(deployment)}",
    ]
    return "\n".join(lines) + "\n"


def _command(deployment: ContainerDeployment) -> str:
    """The same on every node, whose number and whose host 0 are Slurm's variables."""
    given = ["weft", "serve", *deployment.words, "--host", "0.0.0.0", "--port", str(deployment.port)]
    files = {"--layout": LAYOUT, "--api-key-file": API_KEY}
    files |= {"--dist-secret-file": DIST_SECRET} if deployment.hosts > 1 else {}
    return " ".join((join(given), *(f'{flag} "$folder/{name}"' for flag, name in files.items())))
