"""A run under a memory limit that its first budget breaks finishes all the same, with the losses of an unlimited one."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tutelage.runs import history
from tutelage.train import checkpoint

ROWS, TOKENS, STEPS = 40, 8192, 3
ROOM = 300  # MiB beyond what is loaded; one step as a single micro-batch takes about 600
# `tutelage train` in a process of its own. The limit is real: from that event on the kernel refuses more address space.
CHILD = """
import resource, sys
import tutelage.verbs.train
from tutelage import cli, progress

def limit(mib):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    most = (int(status["VmSize"].split()[0]) // 1024 + mib) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    while mib == 0:  # what the allocator has, but does not use, would be room too
        try:
            eaten.append(bytearray(2**18))
        except MemoryError:
            return

eaten = []
when, mib, *arguments = sys.argv[1:]
show = progress.Progress.__call__
def watch(self, event):
    show(self, event)
    if when == f"{event.event} {event.step}":
        limit(int(mib))
progress.Progress.__call__ = watch
module = sys.modules["tutelage.verbs.train"]
fit_budget = module.fit_budget
def limited(*arguments):  # not from the start on: loaders take hundreds of MiB of address space for threads, for a moment
    limit(int(mib))
    return fit_budget(*arguments)
if when == "loaded":
    module.fit_budget = limited
sys.exit(cli.main(["train", *arguments]))
"""


@pytest.fixture(scope="module")
def wide(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose activations are large and whose products are small; and what it gives without a limit."""
    folder = tmp_path_factory.mktemp("wide")
    model = folder / "model"
    shutil.copytree(model_folder("llama"), model)
    config = CONFIG_MAPPING["llama"](
        vocab_size=512, bos_token_id=1, eos_token_id=2, pad_token_id=0, hidden_size=48, intermediate_size=4096,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    rows = [
        {"messages": [
            {"role": "user", "content": f"Why is the sky blue? {i}"},
            {"role": "assistant", "content": " ".join(["Because light scatters in the air"] * (8 + i % 7)) + f" {i}."},
        ]}
        for i in range(3 * ROWS)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        f"model: {model}\ndata: {{train: {folder / 'rows.jsonl'}, validation: 0.1}}\nmethod: {{kind: lora, rank: 4}}\n"
        f"optim: {{steps: {STEPS}, batch_size: {ROWS}, learning_rate: 1.0e-3}}\nsave: {{every: 1}}\nmax_tokens: 400\n"
        f"precision: fp32\nforgetting: false\nthreads: 1\nbatch: {{tokens: {TOKENS}, share_prefix: false}}\n",
        encoding="utf-8",
    )
    assert run(folder, "free", "never").returncode == 0
    return folder


def run(folder: Path, name: str, when: str, mib: int = 0) -> Any:
    command = [sys.executable, "-c", CHILD, when, str(mib), str(folder / "recipe.yaml"), "--out", str(folder / name)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def events(folder: Path, name: str, kind: str) -> list[dict[str, Any]]:
    return [event for event in history(folder / name) if event["event"] == kind]


def assert_same_losses(folder: Path, name: str) -> None:
    for kind, count in (("step", STEPS), ("validated", 2)):
        ours, free = events(folder, name, kind), events(folder, "free", kind)
        assert len(free) >= count
        assert [e["step"] for e in ours] == [e["step"] for e in free]
        for a, b in zip(ours, free):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_a_limit_known_at_the_start_is_planned_for(wide: Path) -> None:
    result = run(wide, "planned", "loaded", ROOM)
    assert result.returncode == 0, result.stderr
    assert f"instead of {TOKENS:,}: RLIMIT_AS leaves" in result.stderr
    assert events(wide, "planned", "budget_halved") == []  # nothing was done twice
    assert_same_losses(wide, "planned")


def test_a_limit_that_comes_later_halves_the_budget_and_loses_nothing(wide: Path) -> None:
    result = run(wide, "halved", "validated 0", ROOM)
    assert result.returncode == 0, result.stderr
    assert "instead of" not in result.stderr
    assert events(wide, "halved", "budget_halved")  # the first budget did not fit into this room
    assert_same_losses(wide, "halved")


def test_what_cannot_be_survived_ends_with_75_and_the_checkpoint_intact(wide: Path) -> None:
    result = run(wide, "stopped", "saved 2", 0)
    assert result.returncode == 75, result.stderr
    assert "the last checkpoint is intact" in result.stderr
    assert "Traceback" not in result.stderr
    saved, skipped = checkpoint.newest(wide / "stopped" / "checkpoints")
    assert saved is not None
    assert (saved.step, skipped) == (2, ())
    assert run(wide, "stopped", "never").returncode == 0
    assert_same_losses(wide, "stopped")


SCOPE = ["systemd-run", "--user", "--scope", "--quiet", "--collect", "-p", "MemoryMax=1G", "-p", "MemorySwapMax=0"]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("systemd-run") is None or subprocess.run([*SCOPE, "true"], capture_output=True).returncode != 0,
    reason="no systemd that gives this user a cgroup with a memory limit",
)
def test_under_a_cgroup_the_kernel_never_has_to_kill(wide: Path) -> None:
    child = [sys.executable, "-c", CHILD, "never", "0", str(wide / "recipe.yaml"), "--out", str(wide / "cgroup")]
    result = subprocess.run(
        [*SCOPE, *child, "--set", "optim.batch_size=120", "--set", "batch.tokens=32768", "--set", "optim.steps=2"],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "cgroup" in result.stderr
