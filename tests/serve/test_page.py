"""The chat page in a real headless Chromium: type, stream, stop, compare, switch, and 40 payloads that must stay text."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage.generate.text import Decoder

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)

PAYLOADS = [
    f"{before}{code}{after}"
    for before, after in (("", ""), ('"', '"'), ("```html\n", "\n```"), ("](", ")"))
    for code in (
        "<script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>", "<svg onload=window.hacked=1>",
        "<iframe srcdoc='<script>parent.hacked=1</script>'>", "<a href=javascript:window.hacked=1>x</a>",
        "<body onload=window.hacked=1>", "{{constructor.constructor('window.hacked=1')()}}",
        "<math><mtext></form><form><mglyph><style></math><img src onerror=window.hacked=1>",
        "javascript:window.hacked=1//", "</section></div><script>window.hacked=1</script>",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-quic", "--window-size=1200,900",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.binary_location = str(shutil.which("chromium"))
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    )
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, running: Any) -> Any:
    browser.set_window_size(1200, 900)
    browser.get(running.url)
    wait(browser, lambda: state(browser) == "Ready.")
    return browser


def wait(browser: Any, condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, browser.find_element("css selector", "body").text
        time.sleep(0.05)


def state(browser: Any) -> str:
    return str(browser.find_element("id", "state").text)


def choose(browser: Any, place: str, name: str) -> None:
    browser.find_element("css selector", f"#{place} option[value='{name}']").click()


def ask(browser: Any, question: str, tokens: int = 12) -> None:
    browser.execute_script(f"document.getElementById('max_tokens').value = {tokens}")
    browser.find_element("id", "question").send_keys(question + webdriver.Keys.ENTER)


def texts(browser: Any) -> list[str]:
    return [item.get_attribute("textContent") for item in browser.find_elements("css selector", ".answer .text")]


def test_tuned_and_base_answer_side_by_side(page: Any) -> None:
    choose(page, "model", "tuned")
    choose(page, "other", "base")
    ask(page, "Why is the sky blue?")
    wait(page, lambda: state(page) == "Ready.")
    names = [item.text for item in page.find_elements("css selector", ".answer .name")]
    assert names == ["tuned", "base"]
    assert len(set(texts(page))) == 2
    assert all(texts(page))
    boxes = [item.rect for item in page.find_elements("css selector", ".answer")]
    assert boxes[0]["y"] == boxes[1]["y"]  # beside each other on a wide screen
    page.save_screenshot("/tmp/tutelage-page-wide.png")


def test_one_model_alone_and_a_new_conversation(page: Any) -> None:
    choose(page, "model", "base")
    choose(page, "other", "")
    for question in ("One?", "Two?"):
        ask(page, question)
        wait(page, lambda: state(page) == "Ready." and len(page.find_elements("css selector", ".note")) >= 1)
    wait(page, lambda: len(texts(page)) == 2)
    page.find_element("id", "new").click()
    assert texts(page) == []


def test_an_answer_streams_and_can_be_stopped(page: Any, running: Any) -> None:
    engine = running.server.engines[0]
    forward = engine.runner.forward

    def slow(chunks: Any) -> Any:
        time.sleep(0.03)
        return forward(chunks)

    engine.runner.forward = slow
    try:
        choose(page, "model", "base")
        choose(page, "other", "")
        ask(page, "Tell me much.", 300)
        wait(page, lambda: bool(texts(page) and texts(page)[0]))
        first = texts(page)[0]
        wait(page, lambda: len(texts(page)[0]) > len(first))
        page.find_element("id", "question").send_keys(webdriver.Keys.ESCAPE)
        wait(page, lambda: state(page) == "Stopped.")
        wait(page, lambda: not engine.streams, 5)
    finally:
        engine.runner.forward = forward
    assert not page.find_element("id", "send").get_attribute("disabled")


def test_an_error_is_shown_where_the_answer_would_be(page: Any) -> None:
    choose(page, "model", "base")
    choose(page, "other", "")
    ask(page, "word " * 20, 100_000)
    wait(page, lambda: bool(page.find_elements("css selector", ".bad")))
    assert "at most 4096" in page.find_element("css selector", ".bad").text


def test_40_payloads_stay_text(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is made to answer each payload; nothing runs, nothing becomes an element."""
    assert len(PAYLOADS) == 40
    choose(page, "model", "base")
    choose(page, "other", "")
    for payload in PAYLOADS:
        said = iter([payload])
        monkeypatch.setattr(Decoder, "push", lambda self, *tokens, said=said: "".join(next(said, "") for _ in tokens))
        monkeypatch.setattr(Decoder, "finish", lambda self: "")
        page.find_element("id", "new").click()
        ask(page, payload, 2)
        wait(page, lambda payload=payload: texts(page) == [payload] and state(page) == "Ready.")
        assert page.find_elements("css selector", "#talk script, #talk img, #talk svg, #talk iframe, #talk a") == []
    assert page.execute_script("return window.hacked") is None


def test_it_works_at_a_phones_width(page: Any) -> None:
    page.set_window_size(500, 800)  # the narrowest window that Chromium makes; the page itself is narrowed below
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    ask(page, "Why is the sky blue?")
    wait(page, lambda: state(page) == "Ready." and len(texts(page)) > 0)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    page.save_screenshot("/tmp/tutelage-page-phone.png")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keyboard_reaches_everything_and_all_fields_have_names(page: Any) -> None:
    reached = set()
    for _ in range(20):
        page.switch_to.active_element.send_keys(webdriver.Keys.TAB)
        reached.add(page.execute_script("return document.activeElement.id || document.activeElement.tagName"))
    assert {"model", "other", "new", "talk", "question", "send", "SUMMARY"} <= reached
    for field in page.find_elements("css selector", "input, select, textarea"):
        assert page.execute_script("return arguments[0].labels.length", field) == 1
    assert page.find_element("id", "talk").get_attribute("role") == "log"
    assert page.find_element("id", "state").get_attribute("role") == "status"


@pytest.fixture
def task_page(browser: Any, tasks: Any) -> Any:
    browser.set_window_size(1200, 900)
    browser.get(tasks.url)
    wait(browser, lambda: state(browser) == "Ready.")
    return browser


def ask_task(browser: Any, model: str, text: str, second: str = "") -> Any:
    """The box with the model's answer."""
    browser.find_element("id", "new").click()
    choose(browser, "model", model)
    if second:
        browser.execute_script("document.getElementById('second').value = arguments[0]", second)
    browser.execute_script("document.getElementById('question').value = arguments[0]", text)
    browser.find_element("id", "question").send_keys(webdriver.Keys.ENTER)
    wait(browser, lambda: state(browser) == "Ready." and bool(browser.find_elements("css selector", ".note")))
    return browser.find_element("css selector", ".answer")


def test_labels_have_bars_as_long_as_their_shares(task_page: Any) -> None:
    box = ask_task(task_page, "classify", "thanks for the help")
    assert box.find_element("css selector", "strong").text == "good"
    names = [item.text for item in box.find_elements("css selector", ".bars .label")]
    assert names == ["good", "bad"]
    shares = [float(item.text.rstrip(" %")) for item in box.find_elements("css selector", ".bars .share")]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    widths = [item.size["width"] for item in box.find_elements("css selector", ".bar")]
    track = box.find_element("css selector", ".track").size["width"]
    assert widths == pytest.approx([track * share / 100 for share in shares], abs=1.5)
    assert not task_page.find_element("id", "sampling").is_displayed()
    task_page.save_screenshot("/tmp/tutelage-page-classify.png")
    assert "Score" in ask_task(task_page, "score", "good sea").text
    others = [item.get_attribute("value") for item in task_page.find_elements("css selector", "#other option")]
    assert others == ["", "classify", "several", "verbalised"]


def test_entities_are_coloured_and_named(task_page: Any, tasks: Any) -> None:
    text = "ada went to rome"
    box = ask_task(task_page, "tag", text)
    marks = box.find_elements("css selector", "mark")
    assert [mark.get_attribute("textContent") for mark in marks] == ["adaperson", "romeplace"]
    colours = {mark.value_of_css_property("background-color") for mark in marks}
    assert len(colours) == 2
    assert not task_page.find_element("id", "second").is_displayed()
    task_page.save_screenshot("/tmp/tutelage-page-tag.png")
    text = "😀😀 ada went to rome"
    odd = ask_task(task_page, "tag", text).find_element("css selector", ".marked")
    script = "return [...arguments[0].querySelectorAll('mark')].map((mark) => mark.firstChild.textContent)"
    with tasks.client() as client:
        (found,) = client.post("/v1/tag", json={"model": "tag", "input": text}).json()["data"]
    assert task_page.execute_script(script, odd) == [entity["text"] for entity in found["entities"]]  # code points


def test_an_answer_is_highlighted_in_its_context(task_page: Any) -> None:
    context = "the bridge was built in 1890 by ada"
    box = ask_task(task_page, "extract", "who built it", context)
    assert box.find_element("css selector", "strong").text == "ada"
    assert [mark.text for mark in box.find_elements("css selector", "mark")] == ["ada"]
    assert box.find_element("css selector", ".marked").get_attribute("textContent") == context
    task_page.save_screenshot("/tmp/tutelage-page-extract.png")


def test_a_rewritten_text_is_shown_and_one_that_was_cut_says_so(task_page: Any) -> None:
    box = ask_task(task_page, "seq2seq", "ada in rome")
    assert box.find_element("css selector", "div.text").text == "rome ada"
    assert not task_page.find_element("id", "second").is_displayed()
    task_page.save_screenshot("/tmp/tutelage-page-seq2seq.png")
    cut = ask_task(task_page, "pairs", "ada in rome")  # an untouched model babbles
    assert "cut at the most tokens" in cut.text


def test_vectors_are_compared(task_page: Any) -> None:
    box = ask_task(task_page, "vectors", "blue sky", "blue sky")
    assert box.find_element("css selector", "strong").text == "Cosine similarity 1.0000"
    assert "48 numbers" in box.text


def test_a_task_model_at_a_phones_width(task_page: Any) -> None:
    task_page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    for model, text, second in (
        ("classify", "a lovely sky and light " * 4, ""), ("tag", "ada went to rome and bob to london " * 5, ""),
        ("extract", "when was the bridge built", "the bridge was built in 1890 by ada " * 6), ("vectors", "x" * 100, ""),
        ("pairs", "ada in rome " * 9, ""),
    ):  # fmt: skip
        ask_task(task_page, model, text, second)
        assert task_page.execute_script("return document.documentElement.scrollWidth") <= 360, model
        task_page.save_screenshot(f"/tmp/tutelage-page-phone-{model}.png")
    for field in task_page.find_elements("css selector", "input, select, textarea"):
        assert task_page.execute_script("return arguments[0].labels.length", field) == 1
    task_page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_payloads_in_texts_and_labels_stay_text(task_page: Any, tasks: Any) -> None:
    """As texts to all tasks, and as the label names that the server reports."""
    for payload in PAYLOADS[::3]:
        for model in ("tag", "extract", "classify"):
            ask_task(task_page, model, payload, "" if model == "tag" else f"ada {payload}")
    worker = tasks.server.models["classify"].worker
    compute, payload = worker.compute, PAYLOADS[0]
    engine = tasks.server.models["classify"].engine

    def named(rows: Any) -> Any:
        found = compute(rows)
        for outcome in found:
            outcome.item.update(label=payload, labels=[payload], scores={payload: 0.75, PAYLOADS[1]: 0.25})
        return found

    engine.compute = named
    try:
        box = ask_task(task_page, "classify", "good")
    finally:
        engine.compute = compute
    assert box.find_element("css selector", "strong").text == payload
    found = "#talk script, #talk img, #talk svg, #talk iframe, #talk a"
    assert task_page.find_elements("css selector", found) == []
    assert task_page.execute_script("return window.hacked") is None


def test_nothing_outside_is_asked_and_nothing_complains(page: Any, running: Any) -> None:
    assert [
        entry for entry in page.get_log("browser") if entry["level"] == "SEVERE" and "400" not in entry["message"]
    ] == []
    asked = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith((running.url, "data:")) for name in asked)


def test_the_files_are_small_and_build_nothing() -> None:
    folder = Path(__file__).parents[2] / "tutelage" / "serve" / "page"
    for name in ("page.html", "page.js", "tasks.js", "page.css"):
        text = (folder / name).read_text()
        assert len(text) < 12_000
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
