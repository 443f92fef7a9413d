"""Mentions of groups of people, and labels that go with them.

It can tell that rows which name a group have one label unusually often. It cannot tell whether that is unfair: the texts
may be about exactly that. The words are English, and a group that is not in the list is not seen.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

WORDS = {
    "women": "woman women girl girls she her female mother wife",
    "men": "man men boy boys he him male father husband",
    "black people": "african-american blacks",
    "asian people": "asian asians chinese indian japanese",
    "hispanic people": "hispanic latino latina mexican",
    "muslims": "muslim muslims islam islamic",
    "christians": "christian christians christianity",
    "jews": "jew jews jewish judaism",
    "gay and transgender people": "gay lesbian bisexual transgender queer lgbt",
    "disabled people": "disabled disability wheelchair blind deaf autistic",
    "old people": "elderly seniors pensioner pensioners",
    "immigrants": "immigrant immigrants migrant migrants refugee refugees",
}
_GROUP = {word: group for group, words in WORDS.items() for word in words.split()}
_PATTERN = re.compile(rf"\b(?:{'|'.join(sorted(_GROUP, key=len, reverse=True))})\b", re.IGNORECASE)
LOOKED_AT = 2000  # characters of a text
FEWEST = 20  # rows that mention a group, below which nothing is said
UNLIKELY = 4.0  # standard deviations from the share among all rows


def mentioned(text: str) -> set[str]:
    """The groups that `text` names."""
    return {_GROUP[word.lower()] for word in _PATTERN.findall(text[:LOOKED_AT])}


def connections(
    labels: Counter[str], mentions: dict[str, Counter[str]]
) -> Iterator[tuple[str, str, float, float, int]]:
    """(group, label, its share among rows that name the group, its share among all, rows) where they differ much."""
    total = labels.total()
    for group, counts in sorted(mentions.items()):
        rows = counts.total()
        for label in sorted(labels) if rows >= FEWEST else ():
            expected, share = labels[label] / total, counts[label] / rows
            deviation = math.sqrt(expected * (1 - expected) / rows)
            if deviation and abs(share - expected) > UNLIKELY * deviation and abs(share - expected) > 0.1:
                yield group, label, share, expected, rows
