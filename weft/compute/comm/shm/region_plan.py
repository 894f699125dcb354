"""Where everything lies in a region, and its records; `weft/compute/native/runtime/comm/region.h` mirrors them. No
torch."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Container, Iterator, Sequence

from weft.compute.comm.mailboxes import Mailboxes
from weft.parallel.layout.ranks import Group

MAGIC = 0x314D4F4354464557  # "WEFTCOM1"
HEADER = struct.Struct("<QQQIIIIQQQ")  # magic, size, piece, world, groups, spin_us, debug, then offsets
STATE = struct.Struct("<I")
RECORD = struct.Struct("<IIIIQQQ24x")  # kind, group, inside, pid, calls, bytes, since_ns
GROUP = struct.Struct("<QQQQQQQQ")  # members, then offsets of ranks, counter, heads, counts, texts, slots, mail
MAIL = struct.Struct("<QQIIQQQ16x")  # sent, taken, two counts of sleepers, then boxes, room, offset of the first
LINE = 64
PAGE = 4096
HEAD_BYTES = 128  # two heads, one per parity
TEXT_BYTES = 256


def _rounded(nbytes: int) -> int:
    """In whole cache lines."""
    return -(-nbytes // LINE) * LINE


class RegionPlan:
    """Offsets of everything in a region."""

    def __init__(
        self,
        world: int,
        groups: Sequence[Group],
        piece: int,
        spans: Sequence[bool],
        mailboxes: Mailboxes,
        here: Container[int],
    ) -> None:
        """`spans`: of each group, whether its members are on several hosts. `here`: the ranks that take messages from
        mailboxes of this region."""
        self.world, self.groups, self.piece, self.mailboxes = world, groups, piece, mailboxes
        self._end = HEADER.size
        self.states = self._take(STATE.size * world)
        self.records = self._take(RECORD.size * world)
        self.group_table = self._take(GROUP.size * len(groups))
        control = [tuple(self._take(size) for size in self._control_sizes(len(group))) for group in groups]
        pairs = {(min(ends), max(ends)) for ends in mailboxes.bytes_of}
        bare = [span or group in pairs for group, span in zip(groups, spans, strict=True)]
        sizes = [0 if none else 2 * len(group) * piece for group, none in zip(groups, bare, strict=True)]
        slots = [self._take(size, PAGE) for size in sizes]
        mails = [self._take(2 * MAIL.size) if group in pairs else 0 for group in groups]
        self.tables = [(*offsets, at, mail) for offsets, at, mail in zip(control, slots, mails, strict=True)]
        rings = {
            ends: mailboxes.boxes * (LINE + _rounded(room))
            for ends, room in mailboxes.bytes_of.items()
            if ends[1] in here
        }
        self._boxes_at = {ends: self._take(nbytes, PAGE) for ends, nbytes in rings.items()}
        self.size = -(-self._end // PAGE) * PAGE

    @staticmethod
    def _control_sizes(members: int) -> Iterator[int]:
        """Bytes of: ranks, counter, heads, counts, texts."""
        yield from (4 * members, LINE, HEAD_BYTES * members, 2 * 8 * members * members, 2 * TEXT_BYTES * members)

    def _take(self, size: int, align: int = LINE) -> int:
        at = -(-self._end // align) * align
        self._end = at + size
        return at

    def write(self, memory: mmap.mmap, spin_us: int, debug: bool) -> None:
        numbers = (self.piece, self.world, len(self.groups), spin_us, int(debug))
        HEADER.pack_into(memory, 0, MAGIC, self.size, *numbers, self.states, self.records, self.group_table)
        for index, (group, table) in enumerate(zip(self.groups, self.tables, strict=True)):
            GROUP.pack_into(memory, self.group_table + index * GROUP.size, len(group), *table)
            struct.pack_into(f"<{len(group)}I", memory, table[0], *group)
            for way, ends in enumerate([(group[0], group[1]), (group[1], group[0])] if table[-1] else []):
                room, at = self.mailboxes.bytes_of.get(ends, 0), self._boxes_at.get(ends, 0)
                place = table[-1] + way * MAIL.size
                MAIL.pack_into(memory, place, 0, 0, 0, 0, self.mailboxes.boxes, _rounded(room), at)
