"""What a person sees of rows with targets before training: the contract's counts and checks, and examples."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tutelage.encode.contract import Contract, Fitted
from tutelage.encode.examined import Check
from tutelage.encode.pairs import PairTokens
from tutelage.encode.template import ROLES
from tutelage.encode.tokens import Tokens
from tutelage.encode.types import Encoded
from tutelage.errors import Problem


def examine_targets(tokens: Tokens, fitted: Fitted) -> Contract:
    """Counts over rows with targets, and the checks that hold for all of them."""
    rows = fitted.rows
    roles: Counter[str] = Counter()
    for row in rows:
        roles.update({ROLES[i]: int(n) for i, n in enumerate(np.bincount(row.roles, minlength=len(ROLES))) if n})
    checks = (_has_target(rows), _inside(rows), _known_words(tokens, rows))
    return Contract(
        rows=len(rows), tokens=sum(len(row.ids) for row in rows),
        target_tokens=sum(int(np.count_nonzero(row.targets.weights)) for row in rows if row.targets is not None),
        roles=dict(sorted(roles.items())), over_length=fitted.over_length,
        over_length_share=fitted.over_length / max(1, fitted.encoded), truncated=fitted.cut,
        longest=max((len(row.ids) for row in rows), default=0), added_by_template="", checks=checks,
    )  # fmt: skip


def examine_tokens(fitted: Fitted, end: int | None) -> Contract:
    """The same for rows whose next tokens are trained; with `end` every target that was not cut must end in it."""
    rows = fitted.rows
    roles: Counter[str] = Counter()
    for row in rows:
        roles.update({ROLES[i]: int(n) for i, n in enumerate(np.bincount(row.roles, minlength=len(ROLES))) if n})
        roles["user"] += 0 if row.source is None else len(row.source)
    missing = [
        Problem("the target of this row does not end in the end-of-sequence token", str(row.at),
                "a model trained so never learns to stop", "use the tokenizer that belongs to the model")
        for row in rows
        if end is not None and not row.cut and int(row.ids[-1]) != end
    ]  # fmt: skip
    empty = [
        Problem("this row has no target token", str(row.at), fix="remove the row")
        for row in rows
        if not row.weights[1:].any()
    ]
    lengths = [len(row.ids) + (0 if row.source is None else len(row.source)) for row in rows]
    return Contract(
        rows=len(rows), tokens=sum(lengths), target_tokens=sum(int(np.count_nonzero(row.weights[1:])) for row in rows),
        roles=dict(sorted(roles.items())), over_length=fitted.over_length,
        over_length_share=fitted.over_length / max(1, fitted.encoded), truncated=fitted.cut, longest=max(lengths, default=0),
        added_by_template="",
        checks=(
            _check("has_target", "no row without a target", len(rows), empty),
            _check("ends", "every target that was not cut ends in the end-of-sequence token", len(rows), missing),
        ),
    )  # fmt: skip


def _check(name: str, meaning: str, count: int, problems: list[Problem]) -> Check:
    return Check(name, meaning, count, tuple(problems[:20]), len(problems))


def _has_target(rows: Sequence[Encoded]) -> Check:
    problems = [
        Problem("this row has no target", str(row.at), "nothing in it is trained", "remove the row")
        for row in rows
        if row.targets is None or not row.targets.weights.any()
    ]
    return _check("has_target", "no row without a target", len(rows), problems)


def _inside(rows: Sequence[Encoded]) -> Check:
    problems = [
        Problem("a target of this row lies behind its last token", str(row.at), "the row was cut", "raise max_tokens")
        for row in rows
        if row.targets is not None and len(row.targets.sources) and int(row.targets.sources.max()) >= len(row.ids)
    ]
    return _check("targets_inside", "every target is scored at a token of its row", len(rows), problems)


def _known_words(tokens: Tokens, rows: Sequence[Encoded]) -> Check:
    """Rows that are mostly unknown tokens: another script, or the tokenizer of another model."""
    unknown = tokens.tokenizer.unk_token_id
    problems = [
        Problem(
            "more than half of this row's tokens are unknown to the tokenizer",
            str(row.at),
            "the model cannot tell such words apart",
            "choose a model for this language",
        )
        for row in rows
        if unknown is not None and len(row.ids) > 2 and (row.ids == unknown).sum() * 2 > len(row.ids)
    ]
    return _check("known_words", "texts are made of tokens that the model knows", len(rows), problems)


def labelled_examples(
    tokenizer: Any, fitted: Fitted, first: int, shown: Callable[[Encoded], str]
) -> list[dict[str, Any]]:
    """The first rows, the longest and the most shortened one, each as its text and what is learnt of it."""
    rows = fitted.rows
    if not rows:
        return []
    chosen = [(f"row {i + 1}", row) for i, row in enumerate(rows[:first])]
    chosen.append(("the longest", max(rows, key=lambda row: len(row.ids))))
    chosen += [("cut", row) for row in rows if row.cut][:1]
    return [
        {"at": str(row.at), "title": title, "tokens": len(row.ids),
         "targets": 0 if row.targets is None else int(np.count_nonzero(row.targets.weights)),
         "pieces": [*_pieces(tokenizer, row), [f" → {shown(row)}", 1.0, "assistant"]]}
        for title, row in chosen
    ]  # fmt: skip


def _pieces(tokenizer: Any, row: Encoded) -> list[list[Any]]:
    """[text, 0, role] of each stretch of one role: nothing of the text itself is trained."""
    edges = [0, *(np.flatnonzero(np.diff(row.roles.astype(np.int16)) != 0) + 1).tolist(), len(row.ids)]
    return [
        [tokenizer.decode(row.ids[a:b].tolist()), 0.0, ROLES[row.roles[a]]]
        for a, b in itertools.pairwise(edges)
        if b > a
    ]


def token_examples(tokenizer: Any, fitted: Fitted, first: int) -> list[dict[str, Any]]:
    """Texts of which all tokens are trained."""
    return [
        {"at": str(row.at), "title": f"row {i + 1}", "tokens": len(row.ids), "targets": int(np.count_nonzero(row.weights)),
         "pieces": [[tokenizer.decode(row.ids.tolist()), 1.0, "user"]]}
        for i, row in enumerate(fitted.rows[:first])
    ]  # fmt: skip


def paired_examples(tokens: PairTokens, fitted: Fitted, first: int) -> list[dict[str, Any]]:
    """Sources, which are read, and targets, which are trained."""
    return [
        {"at": str(row.at), "title": f"row {i + 1}", "tokens": len(row.ids) + len(row.source), "targets": len(row.ids) - 1,
         "pieces": [[tokens.shown(row.source.tolist()), 0.0, "user"], ["\n→ ", 0.0, "template"],
                    [tokens.tokenizer.decode(row.ids[1:].tolist()), 1.0, "assistant"]]}
        for i, row in enumerate(fitted.rows[:first])
        if row.source is not None
    ]  # fmt: skip
