"""Tasks, one file each; importing this package registers them."""

from tutelage.tasks import chat, classify, extract, seq2seq, tag, text
from tutelage.tasks.types import TASKS, Bound, Opening, Task

__all__ = ["TASKS", "Bound", "Opening", "Task", "chat", "classify", "extract", "seq2seq", "tag", "text"]
