"""Task `classify` with verbalised labels: a causal model learns to write the label's name, and no head is added.

Training is `chat` on an instruction and the name. A prediction scores every label: log p(name and end of turn | prompt),
the prompt computed once for all of them (as in PET's scoring, Schick & Schütze 2021, arXiv 2001.07676 §3, with whole names).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.data.rows import Labelled
from tutelage.data.types import Conversation, Message, Row
from tutelage.encode.layout import make_layout
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import RecipeError
from tutelage.metrics.types import Prediction
from tutelage.tasks.asked import Asked
from tutelage.tasks.chat import BoundChat, open_chat
from tutelage.tasks.types import Opening, require_family
from tutelage.taskspec import ChatSpec, ClassifySpec

INSTRUCTION = "Which label fits this text? Answer with one of: {labels}.\n\n{text}"


def open_verbalised(spec: ClassifySpec, opening: Opening) -> "VerbalClassifier":
    """The task for a causal model with a chat template."""
    require_family("classify with `verbalised`", opening, "decoder")
    if spec.instruction is not None and "{text}" not in spec.instruction:
        raise RecipeError(
            "`task.instruction` has no place for the text", where="task.instruction", fix="write {text} in it"
        )
    chat = open_chat(ChatSpec(chat_template=spec.chat_template, allow=spec.allow), opening)
    return VerbalClassifier(spec, chat)


@dataclass(frozen=True)
class VerbalClassifier(Asked):
    """`classify` by writing names."""

    spec: ClassifySpec
    chat: BoundChat

    @property
    def names(self) -> list[str]:
        """The labels."""
        return self.spec.labels or []

    def conversation(self, row: Labelled, label: str) -> Conversation:
        """The instruction, and `label` as its answer; a class weight is the turn's weight."""
        text = row.text if row.second is None else f"{row.text}\n\n{row.second}"
        asked = (
            (self.spec.instruction or INSTRUCTION).replace("{labels}", ", ".join(self.names)).replace("{text}", text)
        )
        given = self.spec.class_weights
        weight = given[label] if isinstance(given, dict) and given[label] != 1.0 else None
        return Conversation((Message("user", asked), Message("assistant", label, weight)), row.at)

    def conversations(self, rows: Sequence[Row]) -> list[Conversation]:
        """Those of all rows."""
        return [self.conversation(row, row.labels[0]) for row in rows if isinstance(row, Labelled)]

    def predict(self, backbone: Backbone, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """The label whose name is likeliest behind the prompt, with the probabilities of all."""
        found = []
        for row in rows:
            assert isinstance(row, Labelled)
            candidates = self.chat.template.encode([self.conversation(Labelled(row.text, row.at, second=row.second), name)
                                                    for name in self.names])  # fmt: skip
            if max(len(candidate.ids) for candidate in candidates) > self.chat.max_tokens:
                continue
            share = plan.packed and plan.share_prefix
            with torch.no_grad():
                sums = _log_likelihoods(backbone, candidates, share=share, device=plan.device)
            chances = dict(zip(self.names, torch.softmax(sums, -1).tolist()))
            label = row.labels[0] if row.labels else ""
            found.append(Prediction(row.at, row.text, label, max(chances, key=chances.__getitem__), chances))
        return found


def _log_likelihoods(backbone: Backbone, rows: Sequence[Encoded], *, share: bool, device: str) -> Tensor:
    """[rows]: the sum of log p over each row's targets; class weights do not count."""
    plain = [Encoded(row.ids, (row.weights != 0).astype("float32"), row.roles, row.at) for row in rows]
    groups = [plain] if backbone.packs else [[row] for row in plain]
    sums: list[Tensor] = []
    for group in groups:
        layout = make_layout(group, share_prefix=share, device=device)
        if backbone.plain_logits:
            logits = backbone.logits(layout)[layout.sources]
        else:
            logits = backbone.head_rule().logits(backbone.hidden(layout)[layout.sources])
        each = torch.log_softmax(logits.float(), -1).gather(1, layout.labels[:, None])[:, 0]
        counts = [int((row.weights[1:] != 0).sum()) for row in group]
        sums += [part.sum() for part in torch.split(each, counts)]
    return torch.stack(sums).cpu()
