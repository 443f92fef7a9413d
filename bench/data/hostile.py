"""300 hostile files, each through `data check` in a process of its own: what it says, what it writes, what memory it takes.

    python bench/data/hostile.py --work /tmp/hostile [--only 20]

Passes where every run ends with one JSON document and no traceback, every finding has a file, a row and a fix, nothing
is written beside the input, and peak resident memory (VmHWM: ru_maxrss would begin with the parent's) stays below
that of a check of one good row plus 300 MiB.
"""

import argparse
import gzip
import io
import json
import random
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

GOOD = b'{"prompt": "What is it?", "response": "It is fine."}\n'
MEGA = 1024 * 1024
CODE = (
    "import sys, re; from tutelage.cli import main; code = main(sys.argv[1:]);"
    "print('PEAK', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr); sys.exit(code)"
)


def zipped(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return out.getvalue()


def kinds(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of each kind, with sizes and places drawn."""
    deep, many = draw.randrange(100, 200_000), draw.randrange(2, 60)
    yield "deep.json", b"[" * deep
    yield "deep.jsonl", b'{"a":' * deep + b"1" + b"}" * deep + b"\n" + GOOD
    yield "deepwhole.json", b'{"a":' * deep
    yield "nul.jsonl", GOOD * many + b"\0" * draw.randrange(1, 5000) + b"\n" + GOOD
    yield "nul.csv", b"prompt,response\na\0b,c\n"
    yield "utf16.jsonl", (GOOD * many).decode().encode("utf-16")
    yield "utf16le.csv", "prompt,response\na,b\n".encode("utf-16-le") * many
    yield "utf32.json", GOOD.decode().encode("utf-32")
    yield "latin.jsonl", GOOD * many + '{"prompt": "caf\u00e9", "response": "x"}\n'.encode("latin-1")
    yield "mixed.jsonl", GOOD * many + b'7\nnull\n"x"\n[1]\n{"prompt": 1, "response": []}\n{}\n'
    yield "formats.jsonl", GOOD + b'{"messages": []}\n{"text": "a", "label": 3}\n{"tokens": [1], "tags": {}}\n'
    yield "formula.csv", b'prompt,response\n=cmd|\' /C calc\'!A0,"=HYPERLINK(""http://x"")"\n' * many
    yield "quote.csv", b'prompt,response\n"never closed,b\n' + GOOD * many
    yield "ragged.csv", b"prompt,response\n" + b"a,b,c,d\na\n" * many
    yield "columns.csv", b",".join(b"c%d" % i for i in range(draw.randrange(2000, 20_000))) + b"\n1\n"
    yield "header.csv", b"a,a,,b\n1,2,3,4\n"
    yield "cut.jsonl.gz", gzip.compress(GOOD * 5000)[: -draw.randrange(1, 60)]
    yield "flipped.jsonl.gz", bytes(b ^ (i == 40) for i, b in enumerate(gzip.compress(GOOD * 500)))
    yield "plain.jsonl.gz", GOOD
    yield "bomb.jsonl.gz", gzip.compress(b" " * (draw.randrange(70, 200) * MEGA))
    yield "bomb.json.gz", gzip.compress(b"[" + b"1," * (draw.randrange(40, 100) * MEGA), 1)
    yield "bombline.csv.gz", gzip.compress(b"a," * (draw.randrange(40, 100) * MEGA))
    yield "zip.jsonl", zipped("../../evil.txt", b"x" * MEGA)
    yield "zip.zip", zipped("a.jsonl", GOOD)
    yield "schema.parquet", b"PAR1" + draw.randbytes(200) + b"PAR1"
    yield "notparquet.parquet", GOOD
    yield "pickle.jsonl", b"\x80\x04\x95" + draw.randbytes(50)
    yield "random", draw.randbytes(draw.randrange(1, 100_000))
    yield "random.json", draw.randbytes(draw.randrange(1, 100_000))
    yield "random.csv", draw.randbytes(draw.randrange(1, 100_000))
    yield "empty.json", b""
    yield "blank.jsonl", b"\n \n\t\n" * many
    yield "numbers.jsonl", b'{"prompt": ' + b"9" * draw.randrange(5000, 50_000) + b', "response": NaN}\n'
    yield "surrogate.jsonl", b'{"prompt": "\\ud800", "response": "x"}\n' + GOOD
    yield "twice.jsonl", b'{"prompt": "a", "prompt": "b", "response": "c"}\n'
    yield "longrow.jsonl", b'{"prompt": "' + b"x" * (draw.randrange(17, 40) * MEGA) + b'", "response": "y"}\n' + GOOD
    yield "longtext.jsonl", b'{"prompt": "' + b"ab " * 5 * MEGA + b'", "response": "y"}\n'
    yield "regex.jsonl", json.dumps({"prompt": "a@" * 100_000 + "1-" * 100_000, "response": "0" * 200_000}).encode()
    yield "bytes.json", b'[{"prompt": "\xff\xfe", "response": "x"}]'
    yield "trailing.json", b"[" + GOOD + b"] [" + GOOD + b"]"
    yield "ints.json", b'{"a": [' + b"1," * (10 * MEGA) + b"1]}"
    yield "bidi.jsonl", json.dumps({"prompt": "\u202e\x1b[2J\x07", "response": "<script>alert(1)</script>"}).encode()


def files_of(work: Path, count: int) -> Iterator[Path]:
    """`count` files of all kinds in turn, and two that are a gigabyte on paper."""
    for name, head in (("line.jsonl", b'{"prompt": "'), ("line.json", b'[{"prompt": "')):
        path = work / "huge" / name
        path.parent.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            file.write(head)
            for _ in range(1024):
                file.write(b"x" * MEGA)
        yield path
        path.unlink()
    made, seed = 2, 0
    while True:
        for name, content in kinds(random.Random(seed)):
            if made >= count:
                return
            path = work / f"{made:03}" / name
            path.parent.mkdir()
            path.write_bytes(content)
            yield path
            shutil.rmtree(path.parent)
            made += 1
        seed += 1


def check(path: Path) -> tuple[int, str, str, int]:
    command = [sys.executable, "-c", CODE, "data", "check", str(path), "--json", "--processes", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=path.parent)
    peak = [int(line.split()[1]) for line in run.stderr.splitlines() if line.startswith("PEAK")]
    return run.returncode, run.stdout, run.stderr, peak[0] // 1024 if peak else -1


def complaints(path: Path, base: int) -> Iterator[str]:
    before = {each: each.stat().st_size for each in path.parent.parent.rglob("*")}
    code, out, err, peak = check(path)
    if "Traceback" in err or code not in (0, 1, 65):
        yield f"exit code {code}: {err[-300:]}"
        return
    if {each: each.stat().st_size for each in path.parent.parent.rglob("*")} != before:
        yield "something was written"
    if peak - base > 300:
        yield f"{peak - base} MiB above base"
    document = json.loads(out)
    listed = document.get("findings") or document.get("problems")
    if not listed:
        yield "nothing was said"
    for each in document.get("findings", []):
        for one in each["examples"]:
            if not one.get("file") or not one.get("row") or not (one.get("fix") or each["fix"]):
                yield f"{each['kind']} without place or fix: {one}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=int, default=300, help="how many files")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    shutil.rmtree(given.work, ignore_errors=True)
    (given.work / "good").mkdir(parents=True)
    good = given.work / "good" / "good.jsonl"
    good.write_bytes(GOOD)
    base, bad, count = check(good)[3], 0, 0
    for path in files_of(given.work, given.only):
        count += 1
        for complaint in complaints(path, base):
            bad += 1
            print(f"{path}: {complaint}", flush=True)
    print(json.dumps({"files": count, "complaints": bad, "base_mib": base}))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
