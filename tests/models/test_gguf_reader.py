import random
import struct
import time
from pathlib import Path

import pytest

from tutelage.errors import ModelError
from tutelage.models.gguf_convert import convert_gguf
from tutelage.models.gguf_reader import read_gguf

HUGE = [0xFF, 0x7F, 0x80, 0x00, 0x01]


def mutant(data: bytes, header: int, draw: random.Random) -> bytes:
    """One damaged copy: flipped bytes, a number made huge, a cut, a hole, or a piece that stands twice."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(draw.choice([64, 400, header]))
        kind = draw.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at] = draw.choice(HUGE)
        elif kind == 2:
            changed[at : at + 8] = struct.pack("<Q", draw.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 10**9]))
        elif kind == 3:
            del changed[draw.choice([at, len(changed) - 1 - at]) :]
        elif kind == 4:
            del changed[at : at + draw.randrange(1, 32)]
        else:
            changed[at:at] = changed[at : at + draw.randrange(1, 32)]
        if len(changed) <= header:
            break
    return bytes(changed)


def test_three_hundred_mutants_are_refused_with_a_sentence_or_read(tiny, tmp_path):
    data = tiny.path.read_bytes()
    header = min(tensor.offset for tensor in read_gguf(tiny.path).tensors.values())
    said: list[str] = []
    slowest = 0.0
    file = tmp_path / "mutant.gguf"
    for seed in range(300):
        file.write_bytes(mutant(data, header, random.Random(seed)))
        folder = tmp_path / f"out-{seed}"
        folder.mkdir()
        start = time.monotonic()
        try:
            convert_gguf(file, folder)
        except ModelError as error:
            said.append(str(error))
        slowest = max(slowest, time.monotonic() - start)
    assert len(said) > 200
    assert [text for text in said if str(file) not in text] == []
    assert slowest < 2.0


def replaced(tmp_path: Path, data: bytes, at: int, what: bytes) -> Path:
    file = tmp_path / "changed.gguf"
    file.write_bytes(data[:at] + what + data[at + len(what) :])
    return file


@pytest.mark.parametrize(
    ("at", "what", "says", "byte"),
    [
        (0, b"GGML", "does not begin with GGUF", 0),
        (4, struct.pack("<I", 1), "version 1", 8),
        (4, struct.pack(">I", 3), "big-endian", 8),
        (8, struct.pack("<Q", 2**63), "too many entries", 24),
        (16, struct.pack("<Q", 2**40), "too many entries", 24),
        (24, struct.pack("<Q", 2**62), "a key is too long", 24),
        (32, b"\xff\xfe", "a key is not UTF-8", 32),
    ],
)
def test_a_damaged_head_names_the_byte(tiny, tmp_path, at, what, says, byte):
    file = replaced(tmp_path, tiny.path.read_bytes(), at, what)
    with pytest.raises(ModelError) as caught:
        read_gguf(file)
    assert says in str(caught.value)
    assert caught.value.problems[0].where == f"{file}:byte {byte}"
    assert caught.value.problems[0].fix


def test_cut_empty_and_missing_files(tiny, tmp_path):
    data = tiny.path.read_bytes()
    for size in (0, 3, 23, 24, 200, len(data) - 1):
        file = tmp_path / f"{size}.gguf"
        file.write_bytes(data[:size])
        with pytest.raises(ModelError):
            read_gguf(file)
    with pytest.raises(ModelError, match="cannot read"):
        read_gguf(tmp_path / "none.gguf")


def metadata_only(tmp_path: Path, value: bytes, tensors: bytes = b"", count: int = 0) -> Path:
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, count, 1, 1) + b"k" + value + tensors)
    return file


def tensor_entry(name: bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims))
    return head + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


TRUE = struct.pack("<I?", 7, True)


@pytest.mark.parametrize(
    ("value", "tensors", "count", "says"),
    [
        (struct.pack("<IIQ", 9, 9, 1) + b"\0" * 32, b"", 0, "a type that is not read"),  # arrays inside arrays
        (struct.pack("<IIQ", 9, 8, 2**20), b"", 0, "it ends inside"),
        (struct.pack("<IIQ", 9, 0, 2**40), b"", 0, "too many items"),
        (struct.pack("<IB", 7, 2), b"", 0, "neither true nor false"),
        (struct.pack("<IB", 99, 2), b"", 0, "a type that is not read"),
        (TRUE, tensor_entry(b"t", (), 0, 0), 1, "0 dimensions"),
        (TRUE, tensor_entry(b"t", (2, 2, 2, 2, 2), 0, 0), 1, "5 dimensions"),
        (TRUE, tensor_entry(b"t", (0, 2), 0, 0), 1, "impossible shape"),
        (TRUE, tensor_entry(b"t", (2**33, 2**33), 0, 0), 1, "impossible shape"),
        (TRUE, tensor_entry(b"t", (4,), 77, 0), 1, "unknown type"),
        (TRUE, tensor_entry(b"t", (33,), 3, 0), 1, "whole blocks"),
        (TRUE, tensor_entry(b"t", (4,), 0, 5), 1, "not aligned"),
        (TRUE, tensor_entry(b"t", (4,), 0, 2**62), 1, "outside the file"),
        (TRUE, tensor_entry(b"t", (4,), 0, 0) * 2 + b"\0" * 128, 2, "stands twice"),
        (TRUE, tensor_entry(b"t", (9,), 0, 0) + tensor_entry(b"u", (9,), 0, 32) + b"\0" * 256, 2, "overlaps another"),
    ],
)
def test_impossible_entries_are_refused(tmp_path, value, tensors, count, says):
    with pytest.raises(ModelError) as caught:
        read_gguf(metadata_only(tmp_path, value, tensors, count))
    assert says in str(caught.value)
