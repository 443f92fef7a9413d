"""A real server on a free port: uvicorn in a thread, tiny models, fp32, so that answers are exact."""

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import tutelage
from tutelage.methods import lora
from tutelage.models.load import load_model
from tutelage.recipe import LoraSpec, make_recipe
from tutelage.serve.app import make_app
from tutelage.serve.guard import Guard
from tutelage.serve.limits import Limits
from tutelage.serve.opening import open_models
from tutelage.serve.running import listen, settle
from tutelage.serve.server import Server
from tutelage.serve.vllm_engine import VllmEngine
from tutelage.serve.web import uvicorn

KEY = "a-key-of-the-tests"


@dataclass
class Running:
    url: str
    server: Server
    said: list[str]
    stop: Callable[[], None]

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


def start(
    models: list[str], *, key: str | None = None, log: bool = False, engine: str = "torch",
    flags: tuple[str, ...] = (), **limits: Any,
) -> Running:  # fmt: skip
    granted = Limits(**{"slots": 4, "queue": 8, "seconds": 60.0, "drain": 5.0, **limits})
    said: list[str] = []
    served = open_models(
        models, dtype=torch.float32, precision="auto", limits=granted, base=False, say=said.append, threads=1,
        engine=engine, flags=flags,
    )  # fmt: skip
    server = Server(served, granted, said.append if log else None)
    programs = [each.process for each in server.engines if isinstance(each, VllmEngine)]
    for program in programs:
        program.start(said.append)
    address = settle("127.0.0.1", 0, key, ())
    listener = listen(address)
    app: Any = Guard(make_app(server), key=address.key, hosts=set(), body=granted.body, refused=server.refused)
    runner = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=5, ws="none"
        )
    )
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not runner.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)

    def stop() -> None:
        runner.should_exit = True
        thread.join(timeout=20)
        listener.close()
        for program in programs:
            program.stop()

    return Running(f"http://127.0.0.1:{listener.getsockname()[1]}", server, said, stop)


@pytest.fixture(scope="session")
def adapter_folder(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter over the tiny Llama that changes its answers."""
    folder = tmp_path_factory.mktemp("adapters") / "tuned"
    folder.mkdir()
    model = load_model(model_folder("llama"), dtype=torch.float32)
    spec = LoraSpec(rank=4, alpha=8)
    lora.Lora().prepare(model, spec, seed=3)
    torch.manual_seed(3)
    for _, layer in lora.lora_layers(model):
        layer.b.data.normal_(std=0.3)
    lora.Lora().save(model, spec, folder, base=str(model_folder("llama")))
    return folder


TASKS: dict[str, tuple[str, dict[str, Any]]] = {  # name → kind of model, task
    "classify": ("bert", {"kind": "classify"}), "several": ("bert", {"kind": "classify", "multi_label": True}),
    "score": ("bert", {"kind": "classify", "num_labels": 1}), "tag": ("bert", {"kind": "tag"}),
    "extract": ("bert", {"kind": "extract"}), "text": ("bert", {"kind": "text"}),
    "seq2seq": ("t5", {"kind": "seq2seq", "prefix": "say: ", "max_target_tokens": 24, "num_beams": 2}),
    "verbalised": ("llama", {"kind": "classify", "verbalised": True, "instruction": "{text}"}),
}  # fmt: skip


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny(folder: Path, maker: str) -> Path:
    """The new folder, filled by a function of the conformance tests."""
    folder.mkdir()
    getattr(load(Path(__file__).parents[1] / "conformance" / "conftest.py"), maker)(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT."""
    return tiny(tmp_path_factory.mktemp("encoders") / "vectors", "make_encoder")


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random T5."""
    return tiny(tmp_path_factory.mktemp("encoder-decoders") / "t5", "make_pair_model")


def train_task(name: str, model: Path, folder: Path, method: str = "full") -> Path:
    """A run of the task, trained on the eight rows of the conformance tests until it knows them."""
    conformance = load(Path(__file__).parents[1] / "conformance" / "conftest.py")
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in conformance.ROWS[name]), encoding="utf-8")
    rates = {"full": 3e-3, "lora": 1e-2}
    recipe: dict[str, Any] = {
        "model": str(model), "task": TASKS[name][1], "data": {"train": str(data)}, "max_tokens": 128, "precision": "fp32",
        "method": {"kind": method}, "optim": {"steps": 40, "batch_size": 8, "learning_rate": rates[method]},
        "threads": 1, "out": str(folder / f"{name}-{method}"),
    }  # fmt: skip
    tutelage.train(make_recipe(recipe))
    return folder / f"{name}-{method}"


@pytest.fixture(scope="session")
def task_runs(
    encoder_folder: Path, pair_folder: Path, model_folder: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    """A run of each task that is served."""
    folder = tmp_path_factory.mktemp("task-runs")
    models = {"bert": encoder_folder, "llama": model_folder("llama"), "t5": pair_folder}
    methods = {"several": "lora", "text": "lora", "seq2seq": "lora"}
    return {
        name: train_task(name, models[kind], folder, methods.get(name, "full")) for name, (kind, _) in TASKS.items()
    }


@pytest.fixture(scope="session")
def starting() -> Callable[..., Running]:
    return start


@pytest.fixture(scope="module")
def tasks(
    task_runs: dict[str, Path], encoder_folder: Path, pair_folder: Path, model_folder: Callable[[str], Path]
) -> Iterator[Running]:
    """One server with a run of each task, an untuned encoder, an untuned encoder-decoder and a model that writes."""
    names = [f"{name}={run}" for name, run in task_runs.items()]
    untuned = [f"vectors={encoder_folder}", f"pairs={pair_folder}", f"base={model_folder('llama')}"]
    served = start([*names, *untuned])
    yield served
    served.stop()


@pytest.fixture(scope="module")
def running(model_folder: Callable[[str], Path], adapter_folder: Path) -> Iterator[Running]:
    """One server with a model and an adapter over it, without a key."""
    served = start([f"base={model_folder('llama')}", f"tuned={adapter_folder}"])
    yield served
    served.stop()
