"""What a call must satisfy on its own rank before any other rank is asked. The same for every backend.

A wrong call here is a mistake of the caller, hence ValueError; a disagreement between ranks is a PeerError.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weft.compute.comm.base import Group


def check_groups(world: int, groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups as given; each ascending ranks of the world, two or more, and no group twice."""
    for group in groups:
        if len(group) < 2 or list(group) != sorted(set(group)) or group[0] < 0 or group[-1] >= world:
            raise ValueError(f"group {group} is not two or more ascending ranks of 0..{world - 1}")
    if len(set(groups)) != len(groups):
        raise ValueError("a group is given twice")
    return tuple(groups)


def member_groups(rank: int, groups: Sequence[Group]) -> dict[Group, tuple[int, int]]:
    """Group -> (its index among all groups, this rank's position in it), for the groups that hold `rank`."""
    return {group: (index, group.index(rank)) for index, group in enumerate(groups) if rank in group}


def unknown_group(rank: int, group: Group, known: Sequence[Group]) -> ValueError:
    """The error for a collective over a group that this rank was not given."""
    names = ", ".join(str(one) for one in known) or "none"
    return ValueError(f"rank {rank} has no group {group}; its groups: {names}")


def check_list(kind: str, name: str, tensors: Sequence[Tensor], group: Group, like: Tensor | None = None) -> None:
    """One contiguous tensor per member, all of one dtype and device (that of `like` where given)."""
    if len(tensors) != len(group):
        raise ValueError(f"{kind} over {group}: {name} holds {len(tensors)} tensors, wanted one per member")
    first = tensors[0] if like is None else like
    for index, tensor in enumerate(tensors):
        if not tensor.is_contiguous():
            raise ValueError(f"{kind} over {group}: {name}[{index}] is not contiguous")
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{kind} over {group}: {name}[{index}] is {tensor.dtype} on {tensor.device}, "
                f"others are {first.dtype} on {first.device}"
            )


def check_contiguous(kind: str, name: str, tensor: Tensor, group: Group) -> None:
    """A single buffer."""
    if not tensor.is_contiguous():
        raise ValueError(f"{kind} over {group}: {name} is not contiguous")


def check_same_size(kind: str, group: Group, own_in: Tensor, own_out: Tensor) -> None:
    """What a rank hands to itself has the size of where it goes."""
    if own_in.numel() != own_out.numel() or own_in.dtype != own_out.dtype:
        raise ValueError(
            f"{kind} over {group}: this rank's own part is {own_in.dtype} {list(own_in.shape)}, "
            f"its place {own_out.dtype} {list(own_out.shape)}"
        )


def describe_call(kind: str, like: Tensor | None, same: Sequence[Tensor]) -> str:
    """A call in words, for members to compare: the shapes in `same` must be equal on all of them."""
    dtype = "" if like is None else " " + str(like.dtype).removeprefix("torch.")
    return kind + dtype + "".join(f" {list(x.shape)}" for x in same)
