"""Names of held-out numbers."""

from tutelage.report.measures import measures
from tutelage.taskspec import TASKS


def test_perplexity_is_said_of_tokens_only() -> None:
    said = {kind: measures(spec().model_dump(mode="json")).perplexity for kind, spec in TASKS.items()}
    assert said == {"chat": True, "classify": False, "tag": False, "extract": False, "seq2seq": True, "text": True}


def test_what_kind_of_labels_decides() -> None:
    units = [
        measures({"kind": "classify", **more}).unit
        for more in ({"verbalised": True}, {"num_labels": 1}, {"multi_label": True})
    ]
    assert units == ["nats per target token", "squared error", "nats per label that may hold"]
    assert measures({}).perplexity
