"""Every kind of finding, in the order of the report: how bad it is, what `data prepare` does, and how to change that."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding. `prepare` says what `data prepare` does about it, `recipe` is a line that changes it."""

    severity: Severity
    title: str
    prepare: str
    recipe: str = ""

    @property
    def fix(self) -> str:
        """What to do, in one sentence."""
        return f"{self.prepare}; to change that: {self.recipe}" if self.recipe else self.prepare


_KEEPS = "`data prepare` keeps the row"
_DROPS = "`data prepare` drops the row and lists it in dropped.jsonl"

KINDS: dict[str, Kind] = {
    "unreadable_row": Kind("error", "rows that cannot be read", f"repair the file; {_DROPS}", "data.broken: error"),
    "unreadable_file": Kind("error", "files that cannot be read", "repair the file, or leave it out"),
    "wrong_format": Kind("error", "rows that break their format", f"correct it; {_DROPS}", "data.broken: error"),
    "mixed_formats": Kind(
        "warning", "files that mix formats", "`data prepare` sorts the rows into one file per format"
    ),
    "unknown_format": Kind(
        "warning", "rows of no known format", "map the columns: {path: …, columns: {prompt: question, response: answer}}"
    ),
    "missing_value": Kind("error", "values that are missing or null", _DROPS, "data.clean: [-drop_empty]"),
    "empty_value": Kind("error", "texts that are empty or blank", _DROPS, "data.clean: [-drop_empty]"),
    "type_clash": Kind("warning", "columns with values of different types", f"make them one type; {_KEEPS}"),
    "no_user_turn": Kind("warning", "conversations without a user turn", f"add what was asked; {_KEEPS}"),
    "split_overlap": Kind(
        "error", "test or validation inputs that are also in training",
        "`data prepare` removes them from training", "data.leak: report",
    ),
    "near_overlap": Kind(
        "warning", "test or validation rows nearly equal to training rows",
        "`data prepare` removes them from training", "data.leak: report",
    ),
    "contradiction": Kind(
        "warning", "equal inputs with different answers",
        "decide with `tutelage data review`; `data prepare` keeps them all", "data.dedupe.contradictions: drop",
    ),
    "wrong_label": Kind(
        "warning", "labels that are likely wrong", "decide with `tutelage data review --flagged`; `data prepare` keeps them"
    ),
    "surprising_answer": Kind(
        "info", "answers that their prompt makes no likelier for a language model: a hint that they belong elsewhere",
        "decide with `tutelage data review --flagged`; `data prepare` keeps them",
    ),
    "exact_duplicate": Kind(
        "warning", "rows that repeat an earlier row", "`data prepare` keeps the first", "data.dedupe.exact: false"
    ),
    "normalised_duplicate": Kind(
        "warning", "rows that repeat an earlier row but for case, punctuation and spaces",
        "`data prepare` keeps the first where the answers are equal", "data.dedupe.exact: false",
    ),
    "near_duplicate": Kind(
        "warning", "rows nearly equal to an earlier row",
        "`data prepare` keeps the one with the longest answer", "data.dedupe.near: null",
    ),
    "encoding_fault": Kind(
        "warning", "texts with broken characters", "`data prepare` repairs what was decoded wrongly",
        "data.clean: [-repair_encoding]",
    ),
    "control_character": Kind(
        "warning", "invisible characters", "`data prepare` removes them", "data.clean: [-control_characters]"
    ),
    "markup": Kind(
        "info", "HTML in the text", "`data prepare` leaves it", "data.clean: [+html]"
    ),
    "template_text": Kind(
        "warning", "template text baked into the rows",
        "`data prepare` takes an Alpaca frame and control tokens off", "data.clean: [-template_text]",
    ),
    "refusal": Kind("info", "answers that refuse or speak as an AI", _KEEPS, "data.clean: [+drop_refusals]"),
    "truncated_answer": Kind("info", "answers that stop in mid-sentence", _KEEPS, "data.clean: [+drop_truncated]"),
    "copied_prompt": Kind("warning", "answers that repeat the prompt", _KEEPS, "data.clean: [+drop_copied]"),
    "repetition": Kind("warning", "answers that loop", _KEEPS, "data.clean: [+drop_repetition]"),
    "over_long": Kind(
        "info", "very long rows", "`data prepare` keeps them; training drops what exceeds max_tokens",
        "data.clean: [{drop_long: {characters: 20000}}]",
    ),
    "secret": Kind(
        "error", "passwords, keys and tokens", "revoke them; `data prepare` keeps them", "data.clean: [+mask_personal]"
    ),
    "personal_data": Kind(
        "warning", "e-mail addresses, telephone, card and account numbers",
        "`data prepare` keeps them", "data.clean: [+mask_personal]",
    ),
    "inconsistent_system": Kind(
        "warning", "rows without the system prompt that others have",
        f"give all rows one, or none; {_KEEPS}", "task: {kind: chat, system: …}",
    ),
    "label_variants": Kind(
        "warning", "labels that differ only in case or spaces", f"write each label one way; {_KEEPS}"
    ),
    "rare_label": Kind("warning", "labels with fewer than five rows", "collect more rows, or join labels"),
    "label_imbalance": Kind(
        "info", "labels with very different numbers of rows", "look at macro F1 and not at accuracy alone"
    ),
    "identity_imbalance": Kind(
        "info", "labels that go with the mention of a group", "read the rows: a model would learn the connection"
    ),
    "mixed_languages": Kind(
        "info", "texts in several languages", "`data prepare` keeps them", "data.clean: [{language: {keep: [en]}}]"
    ),
    "too_few_rows": Kind("info", "fewer rows than advisable", "collect more rows"),
}  # fmt: skip

ORDER = {name: place for place, name in enumerate(KINDS)}
