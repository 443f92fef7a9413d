"""An encoder-decoder in the engine's terms: its decoder's hidden states, its head, and the rule between them.

The rule (T5 scales, BART and Marian add a bias) is compared with the model's own logits on a few tokens at load; a model
that follows none runs through its own forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.encode.padded import Padded
from tutelage.engine.backbone import PROBE_TOKENS, Backbone, close
from tutelage.engine.loss import Head


@dataclass(frozen=True)
class Paired(Backbone):
    """`bias`: added to the logits (BART). `scale` is on the hidden state (T5), which for a linear head is the same."""

    def head_rule(self) -> Head:
        """The head for the loss without logits."""
        bias = getattr(self.head, "bias", None)
        extra = getattr(self.model, "final_logits_bias", None)
        if extra is not None:
            bias = extra[0] if bias is None else bias + extra[0]
        return Head(self.head.weight, bias, self.scale, self.softcap)  # type: ignore[arg-type]

    def states(self, batch: Padded) -> Tensor:
        """[B·T, H]: the decoder's last hidden states."""
        read = self.model.get_encoder()(
            input_ids=batch.encoder_ids, attention_mask=batch.encoder_mask
        ).last_hidden_state
        hidden: Tensor = self.model.get_decoder()(
            input_ids=batch.decoder_ids, encoder_hidden_states=read, encoder_attention_mask=batch.encoder_mask,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        return hidden.flatten(0, 1)

    def own_logits(self, batch: Padded) -> Tensor:
        """[B·T, V]: the model's own logits."""
        logits: Tensor = self.model(
            input_ids=batch.encoder_ids, attention_mask=batch.encoder_mask, decoder_input_ids=batch.decoder_ids,
            use_cache=False,
        ).logits  # fmt: skip
        return logits.flatten(0, 1)


def make_paired(model: Any) -> Paired:
    """The backbone of a loaded encoder-decoder."""
    head = model.get_output_embeddings()
    drawn = torch.arange(PROBE_TOKENS, device=head.weight.device) * 7919 + 11
    read, written = (drawn % size for size in (model.get_input_embeddings().weight.shape[0], head.weight.shape[0]))
    none = torch.zeros(0, dtype=torch.int64)
    probe = Padded(read[None], torch.ones_like(read)[None], written[None, : PROBE_TOKENS // 2], none, none, none, 0)
    with torch.no_grad():
        expected = Paired(model, model, head, 1.0, None, packs=False, plain_logits=True).own_logits(probe)
        for scale in (1.0, float(getattr(model.config, "d_model", 1)) ** -0.5):
            made = Paired(model, model, head, scale, None, packs=False, plain_logits=False, shares=False)
            if close(made.head_rule().logits(made.states(probe)), expected):
                return made
    note = f"the logit rule of {model.config.model_type} is not known: the loss holds all logits of its targets"
    return Paired(model, model, head, 1.0, None, packs=False, plain_logits=True, notes=(note,), shares=False)
