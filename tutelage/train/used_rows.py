"""The rows of an input embedding that training can change: with Adam and no weight decay, those of ids that occur.

A row that never has a gradient has moments of zero and stays what it is, so leaving it out changes nothing but memory and
time: two thirds of MiniLM's 22.7 million parameters are an embedding of which 5,000 short texts touch a tenth.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.encode.types import Encoded

MOST = 0.5  # of the rows; above that a gather and a scatter cost what they save


def used_rows(
    model: Any, parameters: Mapping[str, nn.Parameter], rows: Iterable[Encoded], weight_decay: float
) -> dict[str, Tensor]:
    """{name of the embedding: its rows [R] that occur}; empty where every row may change.

    A head that is tied to the embedding has a gradient in every row, and weight decay moves rows without one.
    """
    module = model.get_input_embeddings()
    name = next((n for n, p in parameters.items() if p is getattr(module, "weight", None)), None)
    users = [each for each in model.modules() if getattr(each, "weight", None) is getattr(module, "weight", None)]
    if name is None or weight_decay or type(module) is not nn.Embedding or len(users) != 1:
        return {}
    occurs = np.zeros(module.num_embeddings, np.bool_)
    for row in rows:
        if row.source is not None:
            return {}
        occurs[row.ids] = True
    if occurs.mean() > MOST:
        return {}
    module.sparse = True  # its gradient comes as ids and their rows
    return {name: torch.from_numpy(np.flatnonzero(occurs)).to(module.weight.device)}
