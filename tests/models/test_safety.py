import json
import pickle
import struct
from pathlib import Path

import pytest

from tutelage.errors import MissingInputError, ModelError
from tutelage.models.describe import describe
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.safety import check_folder


def put(folder: Path, file: str, keys: dict[str, object]) -> None:
    path = folder / file
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**value, **keys}))


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    return value


# file, keys put into it, what the refusal must say
HOSTILE = [
    ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "names its own code"),
    ("config.json", {"auto_map": {"AutoConfig": "other/repo--evil.Config"}}, "names its own code"),
    ("config.json", {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}}, "text_config.auto_map"),
    ("config.json", {"layers": [[{"deep": [{"auto_map": {"x": "y"}}]}]]}, "auto_map"),
    ("config.json", {"_attn_implementation_internal": "evil/kernels"}, "_attn_implementation_internal"),
    ("config.json", {"_attn_implementation": "evil/kernels:forward"}, "_attn_implementation"),
    ("config.json", {"attn_implementation": "evil/kernels"}, "attn_implementation"),
    ("config.json", {"attn_implementation": {"": "evil/kernels"}}, "attn_implementation"),
    ("config.json", {"text_config": {"_attn_implementation_internal": "evil/kernels"}}, "text_config._attn"),
    ("config.json", {"experts_implementation": "evil/kernels"}, "experts_implementation"),
    ("config.json", {"use_kernels": True}, "use_kernels"),
    ("config.json", {"kernel_config": {"kernel_mapping": {"RMSNorm": "evil/kernels:Norm"}}}, "kernel_config"),
    ("config.json", {"kernels": ["evil/kernels"]}, "`kernels`"),
    ("config.json", {"allow_all_kernels": True}, "allow_all_kernels"),
    ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ("config.json", {"keypoint_detector_config": {"trust_remote_code": True}}, "keypoint_detector_config.trust_remote"),
    ("config.json", {"Trust_Remote_Code ": True}, "trust_remote_code"),
    ("config.json", {"custom_pipelines": {"x": {"impl": "evil.Pipe"}}}, "custom_pipelines"),
    ("config.json", {"model_type": "my_own_model"}, "'my_own_model' is not one that transformers has"),
    ("config.json", {"model_type": None}, "is not one that transformers has"),
    ("config.json", {"model_type": ["llama"]}, "is not one that transformers has"),
    ("config.json", {"vision_config": {"model_type": "evil"}}, "vision_config.model_type"),
    ("config.json", {"vocab_file": "/etc/passwd"}, "leads out of the model folder"),
    ("config.json", {"extra": {"weights_path": "../../secret.bin"}}, "leads out of the model folder"),
    ("config.json", {"mapping_file": "https://evil.example/map.json"}, "leads out of the model folder"),
    ("config.json", {"sample_files": ["fine.txt", "..\\..\\x"]}, "leads out of the model folder"),
    ("config.json", {"num_hidden_layers": 10**9}, "`num_hidden_layers` is not a size"),
    ("config.json", {"hidden_size": -1}, "`hidden_size` is not a size"),
    ("config.json", {"vocab_size": "many"}, "`vocab_size` is not a size"),
    ("config.json", {"sliding_window": {}}, "`sliding_window` is not a size"),
    ("config.json", {"deep": nested(40)}, "nested too deeply"),
    ("config.json", {"long": "x" * (5 << 20)}, "this file is too large"),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}}, "names its own code"),
    ("tokenizer_config.json", {"tokenizer_file": "/root/.ssh/id_rsa"}, "leads out of the model folder"),
    ("tokenizer_config.json", {"vocab_file": "~/secret"}, "leads out of the model folder"),
    ("tokenizer_config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ("tokenizer_config.json", {"chat_template": "x" * 70_000}, "the chat template is too long"),
    ("generation_config.json", {"custom_generate": "evil/generate"}, "custom_generate"),
    ("generation_config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ("adapter_config.json", {"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "parent_library"),
    ("adapter_config.json", {"megatron_core": "evil.core"}, "megatron_core"),
    ("adapter_config.json", {"megatron_config": {"x": 1}}, "megatron_config"),
    ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.P"}}, "names its own code"),
]


@pytest.mark.parametrize(("file", "keys", "says"), HOSTILE)
def test_hostile_files_are_refused_before_any_loader(tiny_copy, file, keys, says):
    put(tiny_copy, file, keys)
    for entry in (check_folder, load_tokenizer, lambda path: load_model(path, dtype=None)):
        with pytest.raises(ModelError) as caught:
            entry(tiny_copy)
        assert says in str(caught.value)
        assert str(tiny_copy / file) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("config.json", {"_name_or_path": "/fsx/someone/checkpoint-1000"}),
        ("config.json", {"conv_kernel": 4, "kernel_size": [1, 2], "merge_kernel_size": 2, "use_mamba_kernels": True}),
        ("config.json", {"attn_implementation": None, "auto_map": None}),
        ("config.json", {"text_config": {"model_type": "llama"}, "quant_config": {"a": 1}}),
        ("tokenizer_config.json", {"name_or_path": "/admin/home/x", "special_tokens_map_file": "/content/map.json"}),
        ("tokenizer_config.json", {"vocab_file": "vocab.json", "extra": "see ../README"}),
        ("adapter_config.json", {"base_model_name_or_path": "/models/base", "megatron_core": "megatron.core"}),
        (
            "adapter_config.json",
            {"auto_mapping": {"base_model_class": "A", "parent_library": "transformers.models.llama"}},
        ),
    ],
)
def test_honest_files_pass(tiny_copy, file, keys):
    put(tiny_copy, file, keys)
    check_folder(tiny_copy)


def test_all_problems_come_at_once(tiny_copy):
    put(tiny_copy, "config.json", {"auto_map": {"x": "y"}, "use_kernels": True, "vocab_file": "/x"})
    put(tiny_copy, "generation_config.json", {"custom_generate": "evil"})
    (tiny_copy / "chat_template.jinja").write_text("x" * 70_000)
    (tiny_copy / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError) as caught:
        check_folder(tiny_copy)
    assert caught.value.total == 6


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt", "model.pkl", "training_args.bin"]
)
def test_pickles_are_never_opened(tiny_copy, tmp_path, name):
    canary = tmp_path / "canary"
    (tiny_copy / name).write_bytes(pickle.dumps(Bomb(canary)))
    load_tokenizer(tiny_copy)  # beside safetensors a pickle is ignored
    (tiny_copy / "model.safetensors").unlink()
    for entry in (check_folder, load_tokenizer, describe, lambda path: load_model(path, dtype=None)):
        with pytest.raises(ModelError) as caught:
            entry(tiny_copy)
        assert "safetensors" in str(caught.value)
    with pytest.raises(ModelError, match=f"only weights here are pickled: {name}"):
        check_folder(tiny_copy)
    assert not canary.exists()


def write_weights(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + data)


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "data", "length", "says"),
    [
        ({"a": F4}, b"\0" * 4, 2**62, "header is too long"),
        (b"{not json", b"", None, "not JSON"),
        (b"[" * 100_000, b"", None, "not JSON"),
        (b'{"a": {}, "a": {}}', b"", None, "stands twice"),
        ([], b"", None, "not an object"),
        ({"a": {**F4, "dtype": "PICKLE"}}, b"\0" * 4, None, "no known dtype"),
        ({"a": {**F4, "shape": [2**40, 2**40]}}, b"\0" * 4, None, "another size than its shape"),
        ({"a": {**F4, "shape": [-1]}}, b"\0" * 4, None, "no usable shape"),
        ({"a": {**F4, "shape": [True]}}, b"\0" * 4, None, "no usable shape"),
        ({"a": {**F4, "data_offsets": [4, 8]}}, b"\0" * 8, None, "overlaps or leaves a gap"),
        ({"a": F4, "b": F4}, b"\0" * 4, None, "overlaps or leaves a gap"),
        ({"a": F4}, b"\0" * 3, None, "another length"),
        ({"a": F4}, b"\0" * 5, None, "another length"),
    ],
)
def test_unsound_safetensors_are_refused(tiny_copy, header, data, length, says):
    write_weights(tiny_copy, header, data, length)
    with pytest.raises(ModelError) as caught:
        check_folder(tiny_copy)
    assert says in str(caught.value)
    assert "model.safetensors:byte" in caught.value.problems[0].where


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/x.safetensors", "model.bin", "gone.safetensors", 3, None])
def test_a_shard_index_stays_in_its_folder(tiny_copy, shard):
    (tiny_copy / "model.safetensors").unlink()
    (tiny_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match="shard"):
        check_folder(tiny_copy)


def test_missing_folders_and_configs(tmp_path):
    with pytest.raises(MissingInputError):
        check_folder(tmp_path / "none")
    with pytest.raises(ModelError, match="this is not a model folder"):
        check_folder(tmp_path)
    for content, says in (("[]", "not a JSON object"), ("{", "not JSON"), ("[" * 100_000, "not JSON")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=says):
            check_folder(tmp_path)


def test_an_adapter_folder_needs_its_safetensors(tmp_path):
    put(tmp_path, "adapter_config.json", {"peft_type": "LORA"})
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pickled: adapter_model\.bin"):
        check_folder(tmp_path)
    write_weights(tmp_path, {"a": F4}, b"\0" * 4)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    check_folder(tmp_path)
