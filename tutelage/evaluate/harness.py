"""A model or run as a model of lm-evaluation-harness (the extra `lm-eval`): `lm_eval.simple_evaluate(Harness.open(RUN), ...)`.

Only the LM interface of that package is used. Likelihoods come from this package's own layers, continuations from its
greedy or sampling decoder. Importing this module needs the extra.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.data.types import At
from tutelage.encode.layout import make_layout
from tutelage.encode.template import Template
from tutelage.errors import need
from tutelage.evaluate.writers import scored_from
from tutelage.generate.answer import text_of
from tutelage.generate.batch import generate
from tutelage.generate.decode import context_limit
from tutelage.generate.sampling import Sampling
from tutelage.methods.opening import open_model
from tutelage.tasks.chat import loss
from tutelage.tasks.likelihood import backbone_of

LM: Any = need("lm_eval.api.model", extra="lm-eval").LM
windows: Any = need("lm_eval.utils", extra="lm-eval")
NOWHERE = At("lm-eval", 0)
MOST_TOKENS, LONGEST = (
    256,
    2048,
)  # of an answer, and of a text where the model states no limit; as that package's own model


class Harness(LM):  # type: ignore[misc]
    """An opened model as the harness asks it."""

    def __init__(self, model: Any, template: Template) -> None:
        """`model` is a causal model in eval mode, `template` that of its tokenizer."""
        super().__init__()
        self.model, self.template = model, template
        self.limit = min(context_limit(model) or LONGEST, LONGEST)
        known = (template.tokenizer.bos_token_id, template.tokenizer.eos_token_id, 0)
        self.prefix = int(next(token for token in known if token is not None))

    @classmethod
    def open(cls, name: str, *, base: bool = False, precision: str = "fp32") -> "Harness":
        """A run's tuned model, with `base` the one it started from, or any model by folder or name."""
        opened = open_model(name, base=base, precision=precision)
        return cls(opened.model, opened.template)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding would say it) of each (context, continuation)."""
        rows = []
        for context, continuation in (request.args for request in requests):
            ids, offsets = self.template.tokenise([context + continuation], [None])[0]
            scored = np.flatnonzero(offsets[:, 1] > len(context))
            first = int(scored[0]) if len(scored) else len(ids)
            lead = [self.prefix] if first == 0 else []  # a first token has nothing that it could follow from
            rows.append(([*lead, *map(int, ids)], first + len(lead)))
        return self._scored(rows)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text; one that is too long is read in windows that share no target."""
        totals = []
        for (text,) in (request.args for request in requests):
            ids, _ = self.template.tokenise([text], [None])[0]
            parts = windows.get_rolling_token_windows([*map(int, ids)], self.prefix, self.limit - 1, 1)
            pairs = [windows.make_disjoint_window(part) for part in parts]
            rows = [([*context, *targets], len(context)) for context, targets in pairs]
            totals.append(sum(value for value, _ in self._scored(rows)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context, up to the first text of `until`."""
        answers = []
        for context, wanted in (request.args for request in requests):
            most = int(wanted.get("max_gen_toks", MOST_TOKENS))
            ids, _ = self.template.tokenise([context], [None])[0]
            prompt = [*map(int, ids)][-max(1, self.limit - most) :] or [self.prefix]
            warm = Sampling(
                temperature=float(wanted.get("temperature") or 1.0), top_p=float(wanted.get("top_p") or 1.0)
            )
            sampling = warm if wanted.get("do_sample") else Sampling()
            (answer,) = generate(
                self.model, [prompt], stop_ids=self.template.stop_ids, max_tokens=most, sampling=sampling
            )
            answers.append(_until(text_of(self.template, answer), wanted.get("until") or ()))
        return answers

    @property
    def tokenizer_name(self) -> str:
        """For the names of the harness's caches."""
        return str(self.template.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the model was trained to read them."""
        text = self.template.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(text)

    def _scored(self, rows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Log-likelihood and greediness of the tokens from `first` of each row; its oldest tokens give way to the limit."""
        backbone, found = backbone_of(self.model), []
        for whole, first in rows:
            cut = max(0, len(whole) - self.limit)
            ids, start = whole[cut:], max(1, first - cut)
            row = scored_from(start, ids, NOWHERE)
            with torch.no_grad():
                said = loss(backbone, make_layout([row], share_prefix=False, device=str(self.model.device)))
            found.append((-said.value, said.correct == len(ids) - start))
        return found


def _until(text: str, stops: str | Sequence[str]) -> str:
    ends = [at for stop in ([stops] if isinstance(stops, str) else stops) if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
