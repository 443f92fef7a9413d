"""What each verb takes: one torch-free dataclass per verb, from which the command line is built.

A field without default, or marked POSITIONAL, is a positional argument.
The verb's function takes the same names with the same defaults;
tests/test_public.py proves it. The class docstring is the verb's help.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

POSITIONAL: Any = field(default=None, metadata={"positional": True})  # one that may be left out


@dataclass(frozen=True)
class Train:
    """Fine-tune as a recipe says. Run it again on the same folder to continue."""

    recipe: Annotated[str, "a recipe file, e.g. recipe.yaml"]
    set: Annotated[tuple[str, ...], "override a recipe key: --set optim.epochs=2 (may be repeated)"] = ()
    out: Annotated[str | None, "the run folder, in place of the recipe's"] = None
    allow_changes: Annotated[bool, "continue a run whose recipe or data changed"] = False


@dataclass(frozen=True)
class Preview:
    """Show the exact tokens that would be trained, and check them."""

    recipe: Annotated[str, "a recipe file"]
    set: Annotated[tuple[str, ...], "override a recipe key: --set optim.epochs=2 (may be repeated)"] = ()
    rows: Annotated[int, "how many examples to show"] = 3


@dataclass(frozen=True)
class Estimate:
    """Tell what a run will take before it: memory by part, time, disk. Exit code 1 where it cannot fit, with what would."""

    recipe: Annotated[str, "a recipe file; where its data are not here, rows of max_tokens are assumed"]
    set: Annotated[tuple[str, ...], "override a recipe key: --set method=full (may be repeated)"] = ()
    machine: Annotated[str | None, "for another machine: 16gb-laptop, 24gb-gpu, 80gb-gpu, ... (docs/estimate.md)"] = (
        None
    )
    probe: Annotated[bool, "also run two steps on the fullest batch here, and measure them"] = False


@dataclass(frozen=True)
class Quickstart:
    """Go the whole way on a small model and shipped data. It takes minutes on a CPU."""

    out: Annotated[str, "the run folder"] = "runs/quickstart"


@dataclass(frozen=True)
class ModelsList:
    """List the models that have a name here."""


@dataclass(frozen=True)
class ModelsDescribe:
    """Tell a model's size and shape without loading its weights."""

    model: Annotated[str, "catalogue name, hub id[@revision], or folder"]


@dataclass(frozen=True)
class ModelsGet:
    """Fetch a model to this machine and print where it is."""

    model: Annotated[str, "catalogue name, hub id[@revision], or folder"]


@dataclass(frozen=True)
class Chat:
    """Talk to a model or a run in the terminal. By default the likeliest token is taken: same question, same answer. A model that
    labels, marks entities or rewrites answers each text alone."""

    model: Annotated[str, "a run folder, a model folder or a name"]
    prompt: Annotated[str | None, "answer this and leave, instead of a conversation"] = None
    system: Annotated[str | None, "the system prompt"] = None
    temperature: Annotated[float, "0: always the likeliest token; 0.7: varied answers"] = 0.0
    top_p: Annotated[float, "sample from the likeliest tokens with this much probability together"] = 1.0
    top_k: Annotated[int, "sample from this many of the likeliest tokens; 0: all"] = 0
    max_tokens: Annotated[int, "the longest answer in tokens"] = 512
    seed: Annotated[int, "of the sampling"] = 0
    base: Annotated[bool, "talk to the untouched model of a run"] = False


@dataclass(frozen=True)
class Compare:
    """Score two models or runs on the same rows, and say of each metric whether the second is better, worse or cannot be told."""

    first: Annotated[str, "a run folder, a model folder or a name"]
    second: Annotated[str, "the other one"]
    data: Annotated[str | None, "a file or folder of labelled rows; by default the held-out rows of the second run"] = (
        None
    )
    task: Annotated[str | None, "what is evaluated; by default the run's task, else chat"] = None
    metrics: Annotated[str | None, "further metrics beside the task's, e.g. chrf,rouge_l (docs/metrics.md)"] = None
    group: Annotated[str | None, "the column that names a row's document: its rows are resampled together"] = None
    rows: Annotated[int, "score at most so many rows, evenly spread; 0: all"] = 0
    max_tokens: Annotated[int, "the longest answer in tokens"] = 256
    skip_forgetting: Annotated[bool, "do not probe general text, knowledge, common sense and instructions"] = False
    probes: Annotated[str | None, "a folder with further probes (docs/evaluation.md)"] = None
    slice: Annotated[str | None, "compare them on parts of the rows too: `length`, or any column"] = None
    judge: Annotated[str | None, "the address of an OpenAI-compatible API: a model there compares the answers too"] = (
        None
    )
    judge_model: Annotated[str | None, "the judging model's name there"] = None
    seed: Annotated[int, "of the resampling, and of the sampled answers that the divergence is measured on"] = 0
    out: Annotated[str | None, "where predictions and result are written"] = None


@dataclass(frozen=True)
class Evaluate:
    """Score a run or a model on labelled rows, with intervals. Of a run, the untouched model is scored first by the same code."""

    model: Annotated[str, "a run folder, a model folder or a name"]
    data: Annotated[str | None, "a file or folder of labelled rows; by default the held-out rows of the run"] = None
    task: Annotated[str | None, "what is evaluated; by default the run's task, else chat"] = None
    metrics: Annotated[str | None, "further metrics beside the task's, e.g. chrf,rouge_l (docs/metrics.md)"] = None
    slice: Annotated[str | None, "score parts of the rows: `length`, or any column"] = None
    group: Annotated[str | None, "the column that names a row's document: its rows are resampled together"] = None
    rows: Annotated[int, "score at most so many rows, evenly spread; 0: all"] = 0
    max_tokens: Annotated[int, "the longest answer in tokens"] = 256
    skip_forgetting: Annotated[bool, "do not measure what a run forgot"] = False
    probes: Annotated[str | None, "a folder with further probes (docs/evaluation.md)"] = None
    label_next: Annotated[
        str | None,
        "unlabelled rows (`text`, `tokens`, or `question` and `context`): write them, those it is least sure of first",
    ] = None
    learning_curve: Annotated[bool, "train on 25 and 50 % of a run's rows too: would more labels help?"] = False
    seed: Annotated[int, "of the resampling, and of the sampled answers that the divergence is measured on"] = 0
    out: Annotated[str | None, "where predictions and result are written; by default into the run"] = None


@dataclass(frozen=True)
class Export:
    """Write a tuned model for other programs, and prove that it still is the same model."""

    model: Annotated[str, "a run folder, an adapter or model folder, or a name"]
    to: Annotated[str, "peft, merged[:fp32|bf16|fp16], gguf[:f16|f32|bf16|q8_0|q4_0|...], ollama[:...] or onnx"] = (
        "merged"
    )
    out: Annotated[str | None, "the folder of the export; by default exports/ in the run folder"] = None
    data: Annotated[str | None, "a file of rows to replay; by default the run's held-out ones"] = None
    prompts: Annotated[int, "how many held-out prompts the parity gate replays; onnx: 25 times as many rows"] = 20
    max_tokens: Annotated[int, "the longest replayed answer in tokens"] = 64
    texts: Annotated[int, "how many hard texts are tokenised both ways"] = 2000


@dataclass(frozen=True)
class Push:
    """Upload a finished export to a model hub, into a private repository unless told otherwise."""

    export: Annotated[str, "the folder of an export"]
    repository: Annotated[str, "org/name"]
    base: Annotated[str | None, "the hub id of an adapter's base model; by default the one that its card names"] = None
    public: Annotated[bool, "everybody may read it"] = False
    message: Annotated[str, "of the commit"] = "Add the model and its parity figures"


@dataclass(frozen=True)
class Report:
    """Write the report of a run. It is one HTML file that needs nothing else."""

    run: Annotated[str, "a run folder, or its name below runs/"]


@dataclass(frozen=True)
class Runs:
    """List the runs, the newest first."""

    folder: Annotated[str, "where the run folders are"] = "runs"


@dataclass(frozen=True)
class Doctor:
    """Check this machine: versions, processor, memory, disk, caches."""


@dataclass(frozen=True)
class DataCheck:
    """Look for what is wrong with data files, and describe them. Changes nothing; exit code 1 where it finds an error."""

    files: Annotated[tuple[str, ...], "files, folders or patterns (train.jsonl data/ 'parts/*.csv.gz')"]
    test: Annotated[
        tuple[str, ...], "a held-out file: what it shares with the others is reported (may be repeated)"
    ] = ()
    format: Annotated[str | None, "the format of all files; detected where not given"] = None
    near: Annotated[float, "the Jaccard similarity from which rows are near-duplicates"] = 0.8
    labels: Annotated[
        bool, "also look for labels that are likely wrong and answers that fit no prompt, with a model"
    ] = False
    encoder: Annotated[str, "the model that judges labels and tags: a catalogue name, a hub id or a folder"] = (
        "minilm-l6"
    )
    chat_model: Annotated[str, "the model that judges the answers of conversations: likewise"] = "smollm2-135m"
    html: Annotated[str | None, "also write the report into this HTML file"] = None
    processes: Annotated[int, "how many processes look at the rows; 0: as many as there are cores"] = 0
    shard: Annotated[str | None, "only the rows of this shard (2/8: the second of eight), for data merge"] = None
    partial: Annotated[str | None, "the file that a shard's result goes to"] = None


@dataclass(frozen=True)
class DataPrepare:
    """Clean, deduplicate and split a recipe's data into a folder to train from, and list every dropped row."""

    recipe: Annotated[str, "a recipe file; only its `data` part is needed"]
    set: Annotated[tuple[str, ...], "override a recipe key: --set data.dedupe.near=0.9 (may be repeated)"] = ()
    out: Annotated[str | None, "the prepared folder, in place of the recipe's data.prepared"] = None
    processes: Annotated[int, "how many processes look at the rows; 0: as many as there are cores"] = 0
    shard: Annotated[str | None, "only the rows of this shard (2/8: the second of eight), for data merge"] = None
    partial: Annotated[str | None, "the file that a shard's result goes to"] = None


@dataclass(frozen=True)
class DataMerge:
    """Put the results of all shards together, to what the single check or prepare makes, the same in every byte."""

    files: Annotated[tuple[str, ...], "the files that --shard --partial wrote, all of one job"]
    out: Annotated[str | None, "the prepared folder, in place of the recipe's data.prepared"] = None
    html: Annotated[str | None, "also write the report of a check into this HTML file"] = None
    processes: Annotated[int, "how many processes look at the rows; 0: as many as there are cores"] = 0


@dataclass(frozen=True)
class DataReview:
    """Decide about flagged rows (keep, fix, drop, relabel), or label rows that have none. `data prepare` obeys."""

    file: Annotated[str, "a data file"]
    decisions: Annotated[str, "the file the decisions go to; name it in the recipe as data.decisions"] = (
        "decisions.jsonl"
    )
    labels: Annotated[
        str | None, "the labels to choose from, with commas; rows without a label are then asked about"
    ] = None
    kinds: Annotated[str | None, "only these kinds of findings, with commas (contradiction,near_duplicate)"] = None
    flagged: Annotated[str | None, "a list of rows to look at: what data check --labels --json printed"] = None
    most: Annotated[int, "look at no more rows than this"] = 1000
    to_csv: Annotated[str | None, "write the list into this CSV file instead of asking"] = None
    from_csv: Annotated[str | None, "take the decisions from this CSV file instead of asking"] = None


@dataclass(frozen=True)
class Selftest:
    """Prove on your model and data that speed changes nothing: every fast path against the plain one, gradients included."""

    recipe: Annotated[str | None, "a recipe file; none: tiny random models of the usual families"] = POSITIONAL
    set: Annotated[tuple[str, ...], "override a recipe key: --set model=FOLDER (may be repeated)"] = ()


@dataclass(frozen=True)
class Serve:
    """Answer OpenAI's API with tuned models, and a chat page. Several runs may be named; so may `name=run`."""

    models: Annotated[tuple[str, ...], "run folders, adapter or model folders, or names; NAME=RUN names one yourself"]
    host: Annotated[str, "the address to listen on; any but loopback needs a key"] = "127.0.0.1"
    port: Annotated[int, "the port; 0: any free one"] = 8000
    api_key: Annotated[str | None, "the key that clients must send; made up where one is needed and none given"] = None
    allow_host: Annotated[tuple[str, ...], "another name that clients call this server by (may be repeated)"] = ()
    engine: Annotated[str, "torch; llama.cpp or vllm: exported and checked first, then run by that program"] = "torch"
    precision: Annotated[
        str, "torch, vllm: auto (measured; with labels: the run's), fp32 or bf16; llama.cpp: auto (q8_0), ..."
    ] = "auto"
    base: Annotated[bool, "load the untouched model of a fully tuned run too (that of an adapter is always there)"] = (
        False
    )
    skip_parity: Annotated[
        bool, "do not prove first that a run is served as it was trained (torch; once for each run)"
    ] = False
    slots: Annotated[int, "streams that run at a time"] = 8
    queue: Annotated[int, "streams that may wait; beyond them clients are told to come again"] = 64
    max_tokens: Annotated[int, "the longest answer in tokens"] = 4096
    seconds: Annotated[float, "the longest request"] = 300.0
    keep: Annotated[int, "tokens of finished streams kept, for prompts that begin like them"] = 8192
    threads: Annotated[int, "processor threads; 0: all that this process may use"] = 0
    log_prompts: Annotated[bool, "write prompts and answers to stderr"] = False
    vllm_flags: Annotated[str, "more flags for vLLM's command, in quotes"] = ""


# Public function → its options; the part before `_` is a group on the command line.
VERBS: dict[str, type] = {
    "chat": Chat,
    "compare": Compare,
    "data_check": DataCheck,
    "data_merge": DataMerge,
    "data_prepare": DataPrepare,
    "data_review": DataReview,
    "doctor": Doctor,
    "estimate": Estimate,
    "evaluate": Evaluate,
    "export": Export,
    "models_describe": ModelsDescribe,
    "models_get": ModelsGet,
    "models_list": ModelsList,
    "preview": Preview,
    "push": Push,
    "quickstart": Quickstart,
    "report": Report,
    "runs": Runs,
    "selftest": Selftest,
    "serve": Serve,
    "train": Train,
}
