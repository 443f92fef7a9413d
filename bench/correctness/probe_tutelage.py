"""The checks of run.py in tutelage: `tutelage.train` with its defaults, in fp32."""

from watch import BATCH, LONG, SAVE_EVERY, SHORT, STEPS, Watch, parse, rows_file

options = parse()

from importlib.metadata import version  # noqa: E402

import tutelage  # noqa: E402
from tutelage.recipe import make_recipe  # noqa: E402
from tutelage.train.material import gather  # noqa: E402

case, watch = options.case, Watch(options.die_at)
resumable = case in ("whole", "killed", "resumed")
tokens = {"accumulated": 1, "packed": 8 * LONG}.get(case, "auto")  # a row that is longer than the budget stands alone
recipe = make_recipe(
    {
        "model": str(options.work / "model"), "data": {"train": str(options.work / rows_file(case))},
        "method": options.method, "max_tokens": SHORT if case == "long" else LONG, "precision": "fp32",
        "optim": {"batch_size": BATCH, "steps": STEPS if resumable else 1, "max_grad_norm": 1e9},
        "save": {"every": SAVE_EVERY}, "batch": {"tokens": tokens},
    }
)  # fmt: skip
material = gather(recipe, print)
for row in material.train.rows:
    watch.row(row.ids, [int(i) if w else -100 for i, w in zip(row.ids, row.weights)])
out = options.out.parent / f"tutelage-{options.method}-{'killed' if case == 'resumed' else case}" / "run"
summary = tutelage.train(recipe, out=str(out), say=print)
dropped = [str(row) for row in material.dropped]
watch.write(options.out, losses=[], version=version("tutelage"), dropped=dropped, resumed_from=summary["resumed_from"])
