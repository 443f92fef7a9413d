"""The data report as HTML: whatever the data holds, nothing in it becomes markup."""

import json
from html.parser import HTMLParser
from pathlib import Path

import tutelage

PAYLOADS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</title><script>alert(1)</script>",
    "<svg/onload=alert(1)>", "\"><iframe src=javascript:alert(1)>", "'><a href=javascript:alert(1)>x</a>",
    "</style><script>alert(1)</script>", "<body onload=alert(1)>", "{{ 7*7 }}", "{% raw %}<script>1</script>",
    "<!--<script>alert(1)//-->", "<link rel=stylesheet href=http://example.com/x.css>",
    "<style>@import 'http://example.com'</style>", "<base href=http://example.com/>", "<form action=http://example.com>",
    "<input autofocus onfocus=alert(1)>", "<details open ontoggle=alert(1)>", "<video src=http://example.com/x>",
    "<object data=http://example.com>", "<embed src=http://example.com>", "<meta http-equiv=refresh content=0;url=//x>",
    "<math><mi xlink:href=javascript:alert(1)>", "<template><script>1</script></template>", "&lt;script&gt;alert(1)",
    "\u202e<script>", "<scr\x00ipt>", "<<script>alert(1)//<</script>", "<script\n>alert(1)</script\n>",
    "<SCRIPT SRC=//example.com/x.js>", "<a onmouseover=alert(1)>x", "<p style=background:url(//example.com)>",
    "<marquee onstart=alert(1)>", "<bdi onclick=alert(1)>", "</bdi><script>alert(1)</script>", "]]><script>1</script>",
    "javascript:alert(1)", "data:text/html,<script>1</script>", "<noscript><img src=x onerror=1></noscript>",
    "<isindex action=javascript:1>", "<object><param name=x value=//example.com></object>",
]  # fmt: skip
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "p", "h1", "h2", "h3", "bdi", "dl", "div", "dt", "dd",
    "main", "section", "details", "summary", "table", "tbody", "thead", "tr", "td", "th", "span", "br", "code", "svg",
    "rect", "footer",
}  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def page_of(tmp_path: Path) -> str:
    rows = []
    for i, payload in enumerate(PAYLOADS):
        clean = payload.replace("\x00", "")
        rows += [{"prompt": clean, "response": f"{clean} {i}", clean: clean}] * 2  # a repeat, and markup in a column
    name = tmp_path / "<img src=x onerror=alert(1)>.jsonl"
    name.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        "".join(json.dumps({"text": f"t {i}", "label": p}) + "\n" for i, p in enumerate(PAYLOADS)), encoding="utf-8"
    )
    html = tmp_path / "out" / "report.html"
    result = tutelage.data_check([str(name), str(labels)], html=str(html))
    assert result["html"] == html
    return html.read_text(encoding="utf-8")


def test_no_payload_becomes_markup_and_nothing_is_asked_for(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    tags = Tags()
    tags.feed(page)
    assert tags.tags <= ALLOWED
    assert not [
        name for name, _ in tags.attributes if name.startswith("on") or name in ("src", "href", "action", "data")
    ]
    assert "default-src 'none'" in page
    assert page.count("&lt;script&gt;") > 5
    assert ">49<" not in page


def test_it_shows_findings_places_and_plots(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "rows that repeat an earlier row" in page
    assert "labels.jsonl" in page
    assert "Characters in a prompt" in page
    assert '<rect class="on"' in page
