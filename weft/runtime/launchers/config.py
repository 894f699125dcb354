"""LauncherConfig: what starts the agents of a command's other hosts. Options by declaration."""

from __future__ import annotations

from dataclasses import dataclass

from weft.base.options import Setting, option, settings_of

RAY = "ray"


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherConfig:
    """As given."""

    launcher: str | None = option(
        None,
        "what starts the other hosts' agents; ray: actors of a Ray cluster (default: the same command on each host)",
        "--launcher",
        choices=(RAY,),
        expert=True,
    )
    ray_address: str = option(
        "auto",
        "address of the Ray cluster; auto: of the one that this host is in",
        "--ray-address",
        metavar="HOST:PORT",
        expert=True,
    )


def launcher_settings() -> tuple[Setting, ...]:
    """The fields as options, in order of declaration."""
    return settings_of(LauncherConfig)
