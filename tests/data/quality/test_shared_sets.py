"""The known faults of public data sets, found."""

from pathlib import Path
from typing import Any

import pytest

import tutelage

DATA = Path(__file__).parents[4] / "shared" / "data"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")]


def check(*files: str, **options: Any) -> dict[str, Any]:
    return tutelage.data_check([str(DATA / file) for file in files], processes=1, **options)


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {finding["kind"]: finding["count"] for finding in report["findings"]}


def examples(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return next(list(finding["examples"]) for finding in report["findings"] if finding["kind"] == kind)


def test_sms_spam_has_403_exact_repeats() -> None:
    report = check("classify/sms_spam/SMSSpamCollection")
    assert report["rows"] == 5574
    assert report["profile"]["labels"] == {"ham": 4827, "spam": 747}
    assert counts(report)["exact_duplicate"] == 403


def test_the_broken_line_is_found() -> None:
    report = check("dirty/sms_spam_broken_copy/SMSSpamCollection")
    (example,) = examples(report, "unreadable_row")
    assert (example["row"], report["ok"]) == (6, False)
    assert "re though" in example["detail"]


def test_banking77_overlap_and_the_text_with_two_labels() -> None:
    report = check("classify/banking77/train.csv", "classify/banking77/test.csv")
    found = counts(report)
    assert (found["split_overlap"], found["contradiction"]) == (25, 1)
    assert found["normalised_duplicate"] == 30
    assert "exact_duplicate" not in found
    (example,) = examples(report, "contradiction")
    assert (example["row"], example["of"]["row"], example["text"]) == (3169, 2010, "Has my top-up gone through?")


def test_the_pairs_of_the_deduplication_demo() -> None:
    file = "dirty/dedup_demo/demo-dataset-deduplication.jsonl"
    report = check(file)
    pairs = [(each["of"]["row"], each["row"]) for each in examples(report, "exact_duplicate")]
    assert pairs == [(7, 12)]
    assert [(each["of"]["row"], each["row"]) for each in examples(report, "near_duplicate")] == [
        (8, 9),
        (10, 11),
        (13, 14),
    ]
    looser = check(file, near=0.7)
    assert (1, 6) in [(each["of"]["row"], each["row"]) for each in examples(looser, "near_duplicate")]


def test_the_template_in_every_prompt_of_dolly_hhrlhf() -> None:
    assert counts(check("prompt_response/dolly_hhrlhf"))["template_text"] == 500


def test_the_faults_of_the_toy_chat() -> None:
    report = check("chat/openai_toy_chat")
    rows = {finding["kind"]: finding["examples"][0]["row"] for finding in report["findings"]}
    assert rows == {"inconsistent_system": 3, "no_user_turn": 4, "repetition": 5, "over_long": 5, "too_few_rows": 1}


def test_files_with_commas_and_with_semicolons() -> None:
    report = check("dirty/mmlu_redux")
    assert report["rows"] == 700
    assert {file["rows"] for file in report["profile"]["files"]} == {100}
    assert all(
        set(file["columns"]) >= {"question", "choices", "answer", "error_type"} for file in report["profile"]["files"]
    )
    assert "unreadable_row" not in counts(report)


def test_alpaca_has_14_repeats() -> None:
    assert counts(check("alpaca/alpaca_en_demo"))["exact_duplicate"] == 14
