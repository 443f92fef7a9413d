"""Damaged copies of model files: what a broken download, a careless tool, or somebody hostile would hand over.

Every kind is drawn from one random.Random, so that a mutant is known by (its kind, its seed).
"""

import copy
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUGE = [
    0,
    1,
    2,
    3,
    7,
    255,
    2**16,
    2**20,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**48,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
VALUES = [
    None, True, False, 0, -1, 1, 2, 3, 7, 2**15, 2**31, 2**53, 2**63, 2**70, 0.5, -0.0, 1e-320, 1e308, float("nan"),
    float("inf"), "", "x", "\x00", "../../etc/passwd", "float32", "é" * 300, [], {}, [[]], [0], ["x"], {"a": {}}, [None] * 9,
]  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One number or text of a GGUF header: bytes `start` to `stop`. `entry` is the number of its key or tensor."""

    kind: str
    start: int
    stop: int
    entry: int = -1


def gguf_fields(data: bytes) -> list[Field]:
    """Every field of a sound GGUF header."""
    fields = [Field("magic", 0, 4), Field("version", 4, 8), Field("tensors", 8, 16), Field("keys", 16, 24)]
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    at = 24

    def take(kind: str, size: int, entry: int) -> int:
        nonlocal at
        fields.append(Field(kind, at, at + size, entry))
        at += size
        return int.from_bytes(data[at - size : at], "little")

    def text(kind: str, entry: int) -> None:
        take(f"{kind} text", take(f"{kind} length", 8, entry), entry)

    for entry in range(keys):
        text("key", entry)
        kind = take("type", 4, entry)
        if kind == 8:
            text("value", entry)
        elif kind == 9:
            inner, count = take("item type", 4, entry), take("count", 8, entry)
            for index in range(count if inner == 8 else 0):
                text("item" if index % 50 == 0 else "quiet", entry)
            if inner != 8:
                take("numbers", WIDTHS[inner] * count, entry)
        else:
            take("number", WIDTHS[kind], entry)
    for entry in range(tensors):
        text("name", entry)
        for _ in range(take("dimensions", 4, entry)):
            take("size", 8, entry)
        take("dtype", 4, entry)
        take("offset", 8, entry)
    return fields


def gguf(data: bytes, draw: random.Random) -> bytes:
    """One damaged copy of the GGUF file `data`."""
    fields = [field for field in gguf_fields(data) if not field.kind.startswith("quiet")]
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        GGUF[draw.randrange(len(GGUF))](changed, data, fields, draw)
    return bytes(changed)


def _pick(fields: list[Field], draw: random.Random) -> Field:
    kind = draw.choice(sorted({field.kind for field in fields}))
    return draw.choice([field for field in fields if field.kind == kind])


def _number(changed: bytearray, data: bytes, fields: list[Field], draw: random.Random) -> None:
    field = _pick(fields, draw)
    size = min(8, field.stop - field.start)
    value = draw.choice(
        [*HUGE, int.from_bytes(data[field.start : field.start + size], "little") + draw.choice([-1, 1])]
    )
    changed[field.start : field.start + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def _bits(changed: bytearray, data: bytes, fields: list[Field], draw: random.Random) -> None:
    end = draw.choice([64, fields[-1].stop, len(changed)])
    for _ in range(draw.choice([1, 3, 30])):
        changed[draw.randrange(min(end, len(changed)))] ^= 1 << draw.randrange(8)


def _cut(changed: bytearray, data: bytes, fields: list[Field], draw: random.Random) -> None:
    del changed[
        draw.choice([_pick(fields, draw).start, _pick(fields, draw).stop, draw.randrange(len(data)), len(data) - 1]) :
    ]


def _hole(changed: bytearray, data: bytes, fields: list[Field], draw: random.Random) -> None:
    at = _pick(fields, draw).start
    del changed[at : at + draw.choice([1, 4, 8, 32, 100])]


def _twice(changed: bytearray, data: bytes, fields: list[Field], draw: random.Random) -> None:
    """A whole key or tensor once more, with the count raised, so that only the repetition is wrong."""
    group = draw.choice(["key length", "name length"])
    starts = [field.start for field in fields if field.kind == group]
    last = next((field.start for field in fields if field.kind == "name length"), fields[-1].stop)
    starts.append(last if group == "key length" else fields[-1].stop)
    which = draw.randrange(len(starts) - 1)
    piece = data[starts[which] : starts[which + 1]]
    changed[starts[which] : starts[which]] = piece
    at = 16 if group == "key length" else 8
    changed[at : at + 8] = struct.pack("<Q", struct.unpack_from("<Q", data, at)[0] + 1)


def _other_value(changed: bytearray, data: bytes, fields: list[Field], draw: random.Random) -> None:
    """A value of another type under a known key, well formed: only its meaning is wrong."""
    field = draw.choice([field for field in fields if field.kind == "type"])
    later = [f.start for f in fields if f.start > field.start and f.kind in ("key length", "name length")]
    values = [
        struct.pack("<If", 6, draw.choice([0.0, -1.0, 1e38, float("nan"), float("inf")])),
        struct.pack("<IQ", 10, draw.choice(HUGE)), struct.pack("<Iq", 11, -1), struct.pack("<IQ", 8, 1) + b"x",
        struct.pack("<IQ", 8, 0), struct.pack("<IIQ", 9, 8, 0), struct.pack("<IIQ", 9, 4, 1) + b"\0\0\0\0",
        struct.pack("<IB", 7, 1), struct.pack("<IIQ", 9, 0, 200_000) + bytes(200_000),
        struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 40, struct.pack("<IQ", 8, 60_000) + b"{" * 60_000,
        struct.pack("<IIQ", 9, 8, 50_000) + struct.pack("<Q", 0) * 50_000,
    ]  # fmt: skip
    changed[field.start : min(later, default=field.stop)] = draw.choice(values)


def _more_keys(changed: bytearray, data: bytes, fields: list[Field], draw: random.Random) -> None:
    """Many keys more than any file has, or one that names an alignment, a split, experts or a scaling."""
    arch = "llama"
    known = [("general.alignment", 4, struct.pack("<I", draw.choice([0, 1, 3, 8, 64, 2**31]))),
             ("split.count", 2, struct.pack("<H", 3)), (f"{arch}.expert_count", 4, struct.pack("<I", 8)),
             (f"{arch}.rope.scaling.type", 8, struct.pack("<Q", 4) + b"yarn"),
             (f"{arch}.rope.scaling.factor", 6, struct.pack("<f", float("nan"))),
             (f"{arch}.attention.key_length", 4, struct.pack("<I", draw.choice([0, 1, 2, 15, 2**24, 2**32 - 1])))]  # fmt: skip
    if draw.random() < 0.3:
        known = [(f"k{i}", 7, b"\1") for i in range(draw.choice([100, 5000]))]
    else:
        known = [draw.choice(known)]
    changed[24:24] = b"".join(
        struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value for key, kind, value in known
    )
    changed[16:24] = struct.pack("<Q", struct.unpack_from("<Q", data, 16)[0] + len(known))


Mutation = Callable[[bytearray, bytes, list[Field], random.Random], None]
GGUF: list[Mutation] = [
    _number,
    _number,
    _number,
    _bits,
    _bits,
    _cut,
    _hole,
    _twice,
    _other_value,
    _other_value,
    _more_keys,
]


def safetensors(data: bytes, draw: random.Random) -> bytes:
    """One damaged copy of the safetensors file `data`."""
    (length,) = struct.unpack_from("<Q", data)
    text, payload = data[8 : 8 + length], data[8 + length :]
    which = draw.randrange(8)
    if which == 0:
        return struct.pack("<Q", draw.choice([*HUGE, length - 1, length + 1, len(data)]) % 2**64) + data[8:]
    if which == 1:
        return data[: draw.choice([0, 1, 7, 8, 9, 8 + length, draw.randrange(len(data)), len(data) - 1])]
    if which == 2:
        changed = bytearray(data)
        for _ in range(draw.choice([1, 3, 30])):
            changed[draw.randrange(draw.choice([8, 8 + length, len(data)]))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if which == 3:
        return data + bytes(draw.choice([1, 8, 4096]))
    if which == 4:  # an entry twice, nesting without end, or very many entries
        kind = draw.randrange(4)
        name = draw.choice([key for key in json.loads(text) if key != "__metadata__"])
        entry = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
        text = [
            text[:-1].rstrip(b" }") + b'},"' + name.encode() + b'":' + entry.encode() + b"}",
            b"[" * draw.choice([100, 200_000]),
            b'{"a":' * draw.choice([100, 200_000]),
            b"{" + b",".join(b'"t%d":%s' % (i, entry.encode()) for i in range(draw.choice([5_000, 20_000]))) + b"}",
        ][kind]
        return struct.pack("<Q", len(text)) + text + payload
    header = json.loads(text)
    _edit_tensor(header, draw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def _edit_tensor(header: dict[str, Any], draw: random.Random) -> None:
    name = draw.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    which = draw.randrange(7)
    if which == 0:
        entry["dtype"] = draw.choice(["F16", "BF16", "F64", "I64", "U8", "BOOL", "F4", "f32", "PICKLE", None, 7])
    elif which == 1:
        entry["shape"] = draw.choice(
            [[], [0], [-1], [2**31, 2**31], [2**62], entry["shape"][::-1], [*entry["shape"], 1], "x"]
        )
    elif which == 2:
        entry["data_offsets"] = draw.choice([[0, 0], [4, 0], [0, 2**63], [-4, 0], [0], [], ["a", "b"], None, [0.5, 4]])
    elif which == 3:
        del header[name]
    elif which == 4:
        header[draw.choice(["x", "", "model.layers.999.x", "é" * 200])] = header.pop(name)
    elif which == 5:
        entry.pop(draw.choice(["dtype", "shape", "data_offsets"]))
    else:
        header[name] = draw.choice(VALUES)


def json_text(data: bytes, draw: random.Random) -> bytes:
    """One damaged copy of a JSON file: a value, a key, its nesting, or its bytes."""
    which = draw.randrange(8)
    if which == 0:
        return data[: draw.randrange(len(data))]
    if which == 1:
        changed = bytearray(data)
        for _ in range(draw.choice([1, 5, 50])):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if which == 2:
        return draw.choice(
            [b"", b"null", b"[]", b"7", b'"x"', b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe{}", b"NaN", data * 2]
        )
    value = json.loads(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        place, key = draw.choice(list(_places(value)))
        if draw.random() < 0.25:
            del place[key]
        elif isinstance(place, dict) and draw.random() < 0.15:
            place[draw.choice(["auto_map", "x", "quantization_config", "rope_scaling", "text_config"])] = _value(draw)
        else:
            place[key] = _value(draw)
        if not value:
            break
    return json.dumps(value).encode()


def _value(draw: random.Random) -> Any:
    """One of `VALUES`, a copy: what one mutant puts into it must not stand in the next one."""
    return copy.deepcopy(draw.choice(VALUES))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value; of long lists and vocabularies a few."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item)))
        for key in keys if len(keys) < 60 else keys[:: len(keys) // 7]:
            found.append((item, key))
            if isinstance(item[key], dict | list):
                stack.append(item[key])
    return found


SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_mutant(kind: str, seed: int, sound: Path, target: Path) -> Path:
    """The mutant number `seed` of a kind, in the folder `target`; returned is what a user would name."""
    draw = random.Random(f"{kind}-{seed}")
    if kind == "gguf":
        files = sorted(sound.glob("*.gguf"))
        source = files[seed % len(files)]
        (target / "mutant.gguf").write_bytes(gguf(source.read_bytes(), draw))
        return target / "mutant.gguf"
    folder = target / "mutant"
    folder.mkdir(exist_ok=True)
    for file in (sound / "folder").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    name = "model.safetensors" if kind == "safetensors" else draw.choice(SMALL_FILES)
    change = safetensors if kind == "safetensors" else json_text
    (folder / name).write_bytes(change((folder / name).read_bytes(), draw))
    return folder
