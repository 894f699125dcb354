"""Seeded changes of a model's files: single bytes and numbers, fields of JSON, and pieces of templates."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

_DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
VALUES: tuple[Any, ...] = (
    {"type": "Sequence", "normalizers": [_DOUBLED] * 30}, {"type": "Prepend", "prepend": "b" * 100_000}, 1e-320,
    {"type": "yarn", "factor": 2.0, "beta_fast": 1e308, "beta_slow": 1e-308}, 65536, 99999,
    None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**32 - 1, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "default", "yarn", "\x1b[31mred\x07", "\u202e", "\ud800", "A" * 5000, [], [1], [None] * 3,
    ["x"] * 70, [[[[]]]], {}, {"x": 1}, {"content": 3}, {"type": "yarn"}, {"rope_type": "linear", "factor": -2},
    {"0": {"content": "q"}}, {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 16},
)  # fmt: skip
ADDED = (
    "rope_scaling", "quantization_config", "text_config", "layer_types", "chat_template", "normalizer",
    "extra_special_tokens", "split_special_tokens", "num_beams", "image_token",
)  # fmt: skip
NUMBERS = (0, 1, 2, 7, 8, 9, 10, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
PIECES = (
    "{{ messages[0].content }}", "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] }}",
    "{% if tools %}", "{% endif %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{% set x = namespace(a=1) %}",
    "{{ x.a }}", "{{ messages | tojson }}", "{{ bos_token }}", "{%- else %}", "{{ strftime_now('%d') }}",
    "{{ '\x1b[2J' }}",
    "{{ m.content[0].text }}", "{% macro f() %}", "{% endmacro %}", "{{ f() }}", "{{ ''.__class__ }}", "{{", "%}",
    "text",
    "{% generation %}", "{% break %}", "{{ (" + "(" * 60 + "1" + ")" * 60 + ") }}", "{{ messages[99].content }}",
)  # fmt: skip


def of_bytes(draw: random.Random, data: bytes, head: int) -> bytes:
    """A few bytes or numbers among the first `head` bytes changed, or the file cut, or longer."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(min(head, len(changed)))
        kind = draw.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + 8] = struct.pack("<Q", draw.choice(NUMBERS))
        elif kind == 2:
            changed[at : at + 4] = struct.pack("<I", draw.choice(NUMBERS) % 2**32)
        elif kind == 3:
            del changed[at : at + draw.choice((1, 3, 8, 100))]
        elif kind == 4:
            changed[at:at] = draw.randbytes(draw.choice((1, 8, 64)))
        else:
            del changed[draw.randrange(len(changed)) :]
        if not changed:
            break
    return bytes(changed)


def of_json(draw: random.Random, text: str) -> str:
    """A field somewhere in the document with another value, without one, or twice; or the text itself changed."""
    if draw.random() < 0.15:
        return of_bytes(draw, text.encode(), len(text.encode())).decode("latin-1")
    if draw.random() < 0.03:
        return "[" * 100_000
    document = json.loads(text)
    place = document
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = draw.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7:
            place = place[key]
            continue
        if draw.random() < 0.15:
            del place[key]
        else:
            place[key] = draw.choice(VALUES)
        break
    if draw.random() < 0.1 and isinstance(document, dict):
        document[draw.choice(ADDED)] = draw.choice(VALUES)
    return json.dumps(document)


def of_template(draw: random.Random, text: str) -> str:
    """Pieces of templates in any order, or a piece within `text`."""
    if draw.random() < 0.5:
        return "".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 8)))
    at = draw.randrange(len(text))
    return text[:at] + draw.choice(PIECES) + text[at + draw.randrange(6) :]
