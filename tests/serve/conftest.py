"""A real server on a free port: uvicorn in a thread, tiny models, fp32, so that answers are exact."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tutelage.methods import lora
from tutelage.models.load import load_model
from tutelage.recipe import LoraSpec
from tutelage.serve.app import Server, make_app
from tutelage.serve.guard import Guard
from tutelage.serve.limits import Limits
from tutelage.serve.running import listen, settle
from tutelage.serve.served import open_served
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


def start(models: list[str], *, key: str | None = None, log: bool = False, **limits: Any) -> Running:
    granted = Limits(**{"slots": 4, "queue": 8, "seconds": 60.0, "drain": 5.0, **limits})
    said: list[str] = []
    served = open_served(models, dtype=torch.float32, limits=granted, base=False, say=said.append, threads=1)
    server = Server(served, granted, said.append if log else None)
    address = settle("127.0.0.1", 0, key, ())
    listener = listen(address)
    app: Any = Guard(make_app(server), key=address.key, hosts=set(), body=granted.body)
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


@pytest.fixture(scope="session")
def starting() -> Callable[..., Running]:
    return start


@pytest.fixture(scope="module")
def running(model_folder: Callable[[str], Path], adapter_folder: Path) -> Iterator[Running]:
    """One server with a model and an adapter over it, without a key."""
    served = start([f"base={model_folder('llama')}", f"tuned={adapter_folder}"])
    yield served
    served.stop()
