"""What is wrong with a row (errors), and what makes it unusable (drops)."""

from tutelage.data.types import Conversation, Dropped, Message, Row
from tutelage.errors import Problem


def find_problems(row: Row) -> list[Problem]:
    """The faults of a row."""
    return _turn_problems(row) if isinstance(row, Conversation) else row.problems()


def find_drop(row: Row) -> Dropped | None:
    """Why the row has nothing to train on, or None."""
    return _conversation_drop(row) if isinstance(row, Conversation) else row.drop()


def _turn_problems(conversation: Conversation) -> list[Problem]:
    """The faults in the order of turns: a system prompt that is not first, a tool result that nothing called."""
    where = str(conversation.at)
    problems = []
    for index, message in enumerate(conversation.messages):
        turn = f"turn {index + 1}"
        if message.role == "system" and index > 0:
            second = any(earlier.role == "system" for earlier in conversation.messages[:index])
            what = f"{turn} is a second system prompt" if second else f"{turn} is a system prompt that is not first"
            why = "chat templates render one system prompt, at the start"
            problems.append(Problem(what, where, why, "join system prompts into one first turn"))
        if message.role == "tool":
            problems += _tool_problems(conversation.messages, index, where)
    return problems


def _conversation_drop(conversation: Conversation) -> Dropped | None:
    """Why the conversation has nothing to train on, or None. Turns after the last answer are kept: they do no harm."""
    at, messages = conversation.at, conversation.messages
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        return Dropped("no_answer", at, "no turn is the assistant's")
    for index, message in enumerate(messages):
        blank = not message.content.strip()
        if blank and message.role == "assistant" and not message.tool_calls:
            return Dropped("empty_answer", at, f"turn {index + 1} is blank")
        if blank and message.role == "user":
            return Dropped("empty_prompt", at, f"turn {index + 1} is blank")
    if not any(message.content.strip() for message in messages[: answers[-1]] if message.role != "assistant"):
        return Dropped("empty_prompt", at, "nothing stands before the answer")
    if all(messages[index].weight == 0 for index in answers):
        return Dropped("all_weights_zero", at, "no turn of the assistant is to be trained")
    return None


def _tool_problems(messages: tuple[Message, ...], index: int, where: str) -> list[Problem]:
    """A tool result follows the calls it belongs to, other results at most between."""
    message, caller = messages[index], index - 1
    while caller >= 0 and messages[caller].role == "tool":
        caller -= 1
    calls = messages[caller].tool_calls if caller >= 0 else ()
    if not calls:
        fix = "put an assistant turn with `tool_calls` before it, or remove the turn"
        return [Problem(f"turn {index + 1} is a tool result that no turn called", where, fix=fix)]
    ids = [call["id"] for call in calls if "id" in call]
    if message.tool_call_id is not None and ids and message.tool_call_id not in ids:
        what = f"turn {index + 1} answers a tool call that was not made"
        return [
            Problem(what, where, f"its `tool_call_id` is not that of turn {caller + 1}", "use the `id` of the call")
        ]
    return []
