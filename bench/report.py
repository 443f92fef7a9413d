"""bench/results/*.json → bench/RESULTS.md and bench/speed.svg: python bench/report.py"""

from harness.contenders import BENCH
from harness.plot import speed_svg
from harness.results import load
from harness.tables import correctness_section, first_section, length_section, quality_section, speed_section
from harness.task_tables import tasks_section

SECTIONS = {
    "speed-lora.json": speed_section,
    "speed-lora-amx.json": speed_section,
    "speed-full.json": speed_section,
    "speed-qlora.json": speed_section,
    "speed-qlora-amx.json": speed_section,
    "speed-first.json": first_section,
    "quality-lora.json": quality_section,
    "quality-full.json": quality_section,
    "quality-qlora.json": quality_section,
    "quality-qlora-calibrated.json": quality_section,
    "quality-qlora-int4.json": quality_section,
    "length.json": length_section,
    "correctness.json": correctness_section,
}


def main() -> None:
    """Write both from whatever results there are; what was not measured is said."""
    lines = [
        "# Results",
        "",
        "Written by `python bench/report.py` from `bench/results/*.json`. How: `bench/README.md`.",
        "",
    ]
    for name, section in SECTIONS.items():
        found = load(name)
        title, *rest = section(found) if found else [f"## {name.removesuffix('.json')}", "", "Not measured yet.", ""]
        lines += [f"{title}, on a processor with AMX" if found and "-amx" in name else title, *rest]
    lines += tasks_section()
    (BENCH / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    speeds = {method: load(f"speed-{method}.json") for method in ("lora", "full")}
    known = {method: result for method, result in speeds.items() if result}
    if known:
        (BENCH / "speed.svg").write_text(speed_svg(known), encoding="utf-8")


if __name__ == "__main__":
    main()
