# ruff: noqa: E501
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tutelage.report.page import render, write
from tutelage.runs import append_event, read_json, write_json

VOID = {"meta", "path", "rect", "circle", "br"}
INLINE = {"bdi", "span", "ins", "sub", "code", "a", "text"}
BANNED = {
    "script",
    "iframe",
    "object",
    "embed",
    "link",
    "img",
    "form",
    "base",
    "foreignobject",
    "animate",
    "set",
    "image",
    "use",
}
PAYLOADS = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>", "</pre><script>alert(1)</script>", "</svg><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>", "--><script>alert(1)</script>", "]]><script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></ScRiPt>", "<script/src='https://evil.example/x.js'>", "<<script>alert(1);//<</script>",
    "<img src=x onerror=alert(1)>", "<img src='https://evil.example/pixel.png'>", "\"><img src=x onerror=alert(1)>",
    "'><img src=x onerror=alert(1)>", "<img/src/onerror=alert(1)>", "<svg onload=alert(1)>", "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x>", "<svg><use href='data:image/svg+xml,x#x'></use></svg>",
    "<iframe src=javascript:alert(1)></iframe>", "<iframe srcdoc='<script>alert(1)</script>'>", "<object data=//evil.example>",
    "<embed src=//evil.example>", "<a href=javascript:alert(1)>x</a>", "<form action=//evil.example><button>x", "<base href=//evil.example/>",
    "<link rel=stylesheet href=//evil.example/x.css>", "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<body onload=alert(1)>", "<details open ontoggle=alert(1)>", "<input autofocus onfocus=alert(1)>", "<math><mtext><script>alert(1)</script>",
    "\" onmouseover=\"alert(1)", "' onmouseover='alert(1)", "` onmouseover=`alert(1)", "{{ 7 * 7 }}{% for x in ().__class__ %}",
    "&lt;script&gt;alert(1)&lt;/script&gt;", "<style>@import '//evil.example/x.css'</style>",
]  # fmt: skip


class Page(HTMLParser):
    """The page as a browser's tokenizer sees it: start tags in order, text, headings, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag not in INLINE:
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def poisoned(run: Path, text: str) -> str:
    """The page of a run in which `text` stands wherever data, a model or a user can put some."""
    numbers = {"loss": 1.5, "perplexity": 4.5, "accuracy": 0.5, "target_tokens": 10, "rows": text}
    write_json(run / "manifest.json", {
        "schema": 1, "status": "failed", "reason": text, "created": text, "finished": text, "best_step": text, "model_step": text,
        "versions": {"tutelage": text, text: text}, "machine": {"cpu": text, "memory_bytes": text, text: [text]},
        "model": {"name": text, "path": text, text: {text: text}}, "plan": {"device": text, text: {"inner": text}},
        "data": {"fingerprint": text, "counts": {"train": text, text: 4}, "dropped": {text: 3}, "formats": {text: text},
                 "overlap": {text: text}},
        "totals": {"steps": text, "seconds": text, "trainable_parameters": 5, "total_parameters": 10, "tokens_per_second": text},
        "validation": {"before": numbers, "after": numbers}, "changes": [{"at": text, "changed": [text]}],
    })  # fmt: skip
    write_json(run / "contract.json", {
        "rows": text, "tokens": 10, "target_tokens": 5, "roles": {text: 10}, "over_length": 1, "over_length_share": text,
        "added_by_template": text, "checks": [{"name": text, "passed": text, "detail": text, "problems": [text]}],
        "examples": [{"at": text, "title": text, "pieces": [[text, 1.0, text], [text, 0.0, "user"], [text, text, text]]}],
    })  # fmt: skip
    write_json(run / "samples.json", [{"prompt": text, "before": text, "after": text, "reference": text}])
    (run / "recipe.yaml").write_text(
        f"method: {{kind: {json.dumps(text)}, rank: 4}}\nmodel: {json.dumps(text)}\n# {text}\n"
    )
    (run / "dropped.jsonl").write_text(json.dumps({"reason": text, "source": text, "row": text, "detail": text}) + "\n")
    append_event(run, {"event": "saved", "step": 121, "path": text, "seconds": 0, "error": text})
    append_event(run, {"event": "resumed", "step": 121, "path": text, "skipped": [text]})
    append_event(run, {"event": "budget_halved", "step": 121, "tokens": text})
    append_event(run, {"event": text, "step": 121})
    return render(run)


def assert_harmless(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in BANNED
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "href", "xlink:href", "action", "srcdoc", "data", "style"), (tag, name, value)


@pytest.fixture(scope="module")
def plain(pristine_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    run = shutil.copytree(pristine_run, tmp_path_factory.mktemp("plain") / "science-teacher")
    return Page(poisoned(Path(run), "word"))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_stays_text(finished_run: Path, plain: Page, payload: str) -> None:
    page = Page(poisoned(finished_run, payload))
    assert_harmless(page)
    assert page.open == []
    assert "".join(page.text).count(payload) >= 25
    assert [(tag, sorted(names)) for tag, names in page.tags] == [(tag, sorted(names)) for tag, names in plain.tags]


def test_the_payloads_are_forty() -> None:
    assert len(set(PAYLOADS)) == 40


def test_the_page_asks_for_nothing(finished_run: Path) -> None:
    html = render(finished_run)
    page = Page(html)
    assert_harmless(page)
    policy = [one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert html.index("Content-Security-Policy") < html.index("<style>")
    assert not re.search(r"url\(|@import|https?:", html)


def test_golden_facts(finished_run: Path) -> None:
    words = Page(render(finished_run)).words()
    for fact in (
        "smollm2-135m was trained on 320 rows with LoRA, and its held-out loss fell from 2.315 to 1.093",
        "Training time 6 min 12 s 120 steps, 3 epochs",
        "Loss (nats per target token) 2.315 1.093 −1.221 better",
        "40,320 of 88,800 tokens in 320 rows are trained: 45.4%. 7 rows (2.1%) were longer than the limit; none was cut.",
        "All 5 checks passed",
        "Passed end of turn is trained every trained turn ends in a token that stops generation",
        "assistant 39,680 44.7%",
        "train 320 86.5%",
        "data/extra.csv prompt_completion",
        "3 rows of test also occur in training. No rows of validation also occur in training.",
        "60 rows not used",
        "exact duplicate 41 68.3%",
        "data/teacher.jsonl:400 exact duplicate the same as row 0",
        "10 more are in dropped.jsonl.",
        "4,884,480 of 139,399,488 parameters were trained: 3.5%. The method is LoRA, rank 16.",
        "memory 7.8 GiB",
        "measured › bf16 tokens per second 651.3",
        "transformers 5.23.0",
        "learning_rate: 0.0002",
    ):
        assert fact in words


def test_trained_text_is_marked_by_more_than_colour(finished_run: Path) -> None:
    html = render(finished_run)
    trained = re.findall(r"<ins[^>]*>(.*?)</ins>", html, re.S)
    assert len(trained) == 4
    assert trained[0].startswith("Air scatters blue light")
    assert [text for text in trained if "&lt;|im_end|&gt;" in text] == ["&lt;|im_end|&gt;"] * 2
    assert "ins.token" in html
    assert "underline" in html[html.index("ins.token") :][:250]


def test_a_failed_check_comes_first_and_says_so(finished_run: Path) -> None:
    contract = read_json(finished_run / "contract.json")
    contract["checks"].append(
        {"name": "no_answer_is_cut", "passed": False, "detail": "x", "problems": ["data/a.jsonl:7: cut"]}
    )
    write_json(finished_run / "contract.json", contract)
    words = Page(render(finished_run)).words()
    assert "1 of 6 checks failed Failed no answer is cut x data/a.jsonl:7: cut Passed" in words


def test_headings_in_order_tables_with_scope_charts_with_names(finished_run: Path) -> None:
    page = Page(render(finished_run))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(one.get("scope") in ("row", "col") for one in page.named("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    charts = [one for one in page.named("svg") if one.get("class") == "chart"]
    assert len(charts) == 5
    assert all(one.get("role") == "img" for one in charts)
    named = {name for _, attributes in page.tags for name in (attributes.get("aria-labelledby") or "").split()}
    assert named <= set(ids)


def test_every_half_written_run_renders(finished_run: Path) -> None:
    whole = read_json(finished_run / "manifest.json")
    for gone in ("recipe.yaml", "dropped.jsonl", "samples.json", "contract.json", "events.jsonl"):
        (finished_run / gone).unlink()
        assert Page(render(finished_run)).open == []
    for key in whole:
        write_json(finished_run / "manifest.json", {name: value for name, value in whole.items() if name != key})
        assert Page(render(finished_run)).open == []
        write_json(finished_run / "manifest.json", whole | {key: None})
        assert Page(render(finished_run)).open == []
    write_json(finished_run / "manifest.json", {})
    assert "The model is not finished: 0 steps so far" in Page(render(finished_run)).words()


def test_a_run_in_its_first_steps(finished_run: Path) -> None:
    (finished_run / "samples.json").unlink()
    write_json(finished_run / "manifest.json", {"schema": 1, "status": "running", "model": {"name": "org/tiny"}})
    lines = (finished_run / "events.jsonl").read_text().splitlines(keepends=True)
    (finished_run / "events.jsonl").write_text("".join(lines[:2]))
    page = Page(render(finished_run))
    assert "tiny is not finished: 1 step so far" in page.words()
    assert len([one for one in page.named("svg") if one.get("class") == "chart"]) == 5
    assert "Answers, before and after" not in page.words()


def test_an_answer_not_given_yet_is_left_out_and_long_ones_are_cut(finished_run: Path) -> None:
    write_json(finished_run / "samples.json", [{"prompt": "p", "before": "b" * 6100, "after": None, "reference": None}])
    words = Page(render(finished_run)).words()
    assert "Untouched model" in words
    assert "Tuned model" not in words
    assert "100 more characters are not shown" in words


def test_text_that_is_no_utf8_is_written_all_the_same(finished_run: Path) -> None:
    (finished_run / "samples.json").write_text(
        '[{"prompt": "half \\ud83d and whole \\ud83d\\ude00", "before": "\\u0000\\u001b[31m\\r", "after": "\\u202eabc"}]'
    )
    path = write(finished_run)
    assert path == finished_run / "report.html"
    text = path.read_text(encoding="utf-8")
    assert "half \ufffd and whole \U0001f600" in text
    assert "\u2400\u241b[31m\u240d" in text
    assert "\x00" not in text


def test_the_page_is_the_same_each_time(finished_run: Path) -> None:
    assert write(finished_run).read_text(encoding="utf-8") == render(finished_run)
