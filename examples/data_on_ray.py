"""Prepare a recipe's data on a Ray cluster: one shard a task, then one merge.

    python examples/data_on_ray.py RECIPE SHARED_FOLDER [--shards 16] [--address auto]

Every machine must see the recipe's files and SHARED_FOLDER under the same paths (a network file system). Without
--address it runs on this machine. The prepared folder is the same in every byte as that of `tutelage data prepare`.
Needs `pip install 'ray[data]'`.
"""

import argparse
from pathlib import Path

import ray

from tutelage import data_merge, data_prepare


def work(row):
    """Clean and look at one shard's rows; a shard that is there already is not made again."""
    if not Path(row["partial"]).is_file():
        data_prepare(row["recipe"], shard=row["shard"], partial=row["partial"], processes=1)
    return {"partial": row["partial"]}


def prepare(recipe, folder, shards, address=None):
    """The result of `tutelage.data_prepare(recipe)`, worked out by a cluster."""
    ray.init(address=address, ignore_reinit_error=True)
    rows = [
        {"recipe": recipe, "shard": f"{i}/{shards}", "partial": str(Path(folder) / f"{i:05}-of-{shards:05}.shard")}
        for i in range(1, shards + 1)
    ]
    done = ray.data.from_items(rows, override_num_blocks=shards).map(work).take_all()
    return data_merge(sorted(row["partial"] for row in done))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("folder")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--address")
    asked = parser.parse_args()
    print(prepare(asked.recipe, str(Path(asked.folder).resolve()), asked.shards, asked.address))
