"""The adapter to lm-evaluation-harness, on a tiny model, against transformers' own logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

pytest.importorskip("lm_eval", reason="pip install 'tutelage[lm-eval]'")

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tutelage.evaluate.harness import Harness


def asked(kind: str, *arguments: Any) -> list[Any]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def harness(model_folder: Callable[[str], Path]) -> Harness:
    return Harness.open(str(model_folder("llama")))


def likelihood(folder: Path, ids: list[int], first: int) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(scores[i - 1, ids[i]] for i in range(first, len(ids))))


def test_it_is_one_of_theirs_and_scores_as_transformers_does(
    harness: Harness, model_folder: Callable[[str], Path]
) -> None:
    assert isinstance(harness, LM)
    context, continuation = "Why is the sky blue?", " Because light scatters"
    (found, nothing_before) = harness.loglikelihood(asked("loglikelihood", (context, continuation), ("", "Why")))
    ids, offsets = harness.template.tokenise([context + continuation], [None])[0]
    first = int((offsets[:, 1] > len(context)).argmax())
    assert found[0] == pytest.approx(likelihood(model_folder("llama"), list(ids), first), abs=1e-3)
    word, _ = harness.template.tokenise(["Why"], [None])[0]
    assert nothing_before[0] == pytest.approx(likelihood(model_folder("llama"), [harness.prefix, *word], 1), abs=1e-3)


def test_a_text_is_read_in_windows_that_share_no_target(harness: Harness, model_folder: Callable[[str], Path]) -> None:
    text = "Plants need light and water."
    (short,) = harness.loglikelihood_rolling(asked("loglikelihood_rolling", (text,)))
    ids, _ = harness.template.tokenise([text], [None])[0]
    assert short == pytest.approx(likelihood(model_folder("llama"), [harness.prefix, *ids], 1), abs=1e-3)
    (long,) = harness.loglikelihood_rolling(asked("loglikelihood_rolling", (text * 60,)))
    assert long < 10 * short


def test_it_writes_up_to_a_stop_and_what_it_writes_is_greedy(
    harness: Harness, model_folder: Callable[[str], Path]
) -> None:
    settings = {"max_gen_toks": 6, "until": []}
    (whole,) = harness.generate_until(asked("generate_until", ("Why is the sky blue?", settings)))
    assert whole
    stop = whole[len(whole) // 2]
    (cut,) = harness.generate_until(asked("generate_until", ("Why is the sky blue?", {**settings, "until": [stop]})))
    assert cut == whole[: whole.find(stop)]
    text = harness.apply_chat_template([{"role": "user", "content": "Yes?"}])
    assert text.endswith("<|im_start|>assistant\n")
    ids, _ = harness.template.tokenise(["Why is the sky blue?"], [None])[0]
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32).eval()
    with torch.no_grad():
        best = int(model(input_ids=torch.tensor([list(ids)])).logits[0, -1].argmax())
    others = [([*ids, token], len(ids)) for token in (best, (best + 1) % 400)]
    assert [greedy for _, greedy in harness._scored(others)] == [True, False]
