"""Whether TRL trains the same tokens: its rows (train_trl.py --dump-tokens) against ours, one JSON document on stdout."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.rows import encoded_rows

from tutelage.encode.types import Encoded
from tutelage.train.material import open_template

IGNORED = -100


def compare(ours: Encoded, theirs: dict[str, list[int]], newline: list[int]) -> tuple[bool, bool, bool]:
    """(ids equal, targets equal but for the line break behind the end of turn, that line break is trained by TRL only)."""
    ids = theirs["ids"] == ours.ids.tolist()
    if not ids:
        return False, False, False
    trained = {int(i) for i in np.flatnonzero(ours.weights)}
    labelled = {i for i, label in enumerate(theirs["labels"]) if label != IGNORED}
    extra = labelled - trained
    last = len(theirs["ids"]) - 1
    only_newline = extra == {last} and theirs["ids"][last:] == newline
    return ids, not (trained - labelled) and (not extra or only_newline), only_newline


def main() -> None:
    """Count the rows that agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--trl-tokens", required=True, type=Path, help="what train_trl.py --dump-tokens wrote")
    options = parser.parse_args()
    theirs = json.loads(options.trl_tokens.read_text(encoding="utf-8"))
    ours = encoded_rows(options.model, options.train)
    newline = open_template(options.model).tokenizer.encode("\n", add_special_tokens=False)
    found = [compare(*pair, newline) for pair in zip(ours, theirs)]
    counts = [sum(row[i] for row in found) for i in range(3)]
    result = {"rows": len(theirs), "rows_ours": len(ours), "cut": sum(row.cut for row in ours)}
    print(
        json.dumps({**result, "same_ids": counts[0], "same_targets": counts[1], "trl_also_trains_newline": counts[2]})
    )


if __name__ == "__main__":
    main()
