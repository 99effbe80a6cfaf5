"""A checkpoint given to the benchmarks: loaded by its architecture, its values compared without any name table."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from v3bench.baselines.dense import Dense
from v3bench.suite.bench import checkpoints
from v3bench.suite.run_folder import load_run

WEIGHT = "model.layers.1.mlp.down_proj.weight"


def test_the_loader_is_chosen_by_architecture_and_values_survive(folder):
    model = checkpoints.load(folder, dtype=torch.float32, device="cpu")
    assert isinstance(model, Dense)
    checkpoints.compare(folder, model)


def double(weight):
    weight.mul_(2)


def lose(weight):
    weight[-1].zero_()


def swap_sign(weight):
    weight[0, :2] = -weight[0, :2]


@pytest.mark.parametrize("change", [double, lose, swap_sign])
def test_values_lost_or_changed_are_found(folder, change):
    model = checkpoints.load(folder, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        change(model.layers[1].ffn.w_down)
    with pytest.raises(AssertionError, match="of all values is"):
        checkpoints.compare(folder, model)


def with_nan(folder, tensors):
    tensors[WEIGHT][3, 2] = float("nan")


def absent(folder, tensors):
    del tensors[WEIGHT]


def surplus(folder, tensors):
    tensors["model.layers.1.mlp.odd.weight"] = torch.ones(2)


def wrong_shape(folder, tensors):
    tensors[WEIGHT] = tensors[WEIGHT].T.contiguous()


def untouched(folder, tensors):
    pass


def in_shards(folder, tensors):
    names = {name: f"model-0000{1 + (name == WEIGHT)}-of-00002.safetensors" for name in tensors}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in names if names[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "model.safetensors").unlink()


def truncated(folder, tensors):
    in_shards(folder, tensors)
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def missing(folder, tensors):
    in_shards(folder, tensors)
    (folder / "model-00002-of-00002.safetensors").unlink()


RUN = """
import sys
from pathlib import Path
from v3bench.suite import runner

out, checkpoint, cases = sys.argv[1:]
status = runner.run(profile="smoke", only=["model"], device="cpu", out=out, checkpoint=checkpoint, say=print,
                    cases=Path(cases))[1]
sys.exit(status)
"""
# The benchmark of the checkpoint, and one more whose records must stay.
CASES = """
[published]
area = "model"
bench = "parameters"
metric = "parameters"
basis = "counted"
version = 1
subjects = ["llama-tiny"]
profiles = ["smoke"]
why = "a test"

[given]
area = "model"
bench = "checkpoint"
metric = "parameters"
basis = "counted"
version = 1
subjects = ["checkpoint"]
profiles = ["smoke"]
why = "a test"
"""


# A whole run each; what loading says of them is tested where loading is.
WRONG = [
    (absent, f"weight '{WEIGHT}' is missing; expected it, for layers.1.ffn.w_down"),
    (surplus, "tensor 'model.layers.1.mlp.odd.weight': has no place in this llama; expected only the weights"),
    (wrong_shape, f"tensor '{WEIGHT}': has shape [196, 64]; expected [64, 196] by config.json"),
    (truncated, "model-00002-of-00002.safetensors: is cut off or no safetensors file"),
    (missing, "names model-00002-of-00002.safetensors, which is not there; expected every shard in the folder"),
]


@pytest.mark.parametrize(
    "change, what",
    [
        (untouched, ""),
        pytest.param(in_shards, "", marks=pytest.mark.slow),
        (with_nan, f"model.safetensors, tensor '{WEIGHT}': holds NaN; expected finite weights"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in WRONG),
    ],
)
def test_a_run_names_what_is_wrong_with_a_checkpoint_and_keeps_the_rest(folder, tmp_path, change, what):
    tensors = load_file(folder / "model.safetensors")
    change(folder, tensors)
    if (folder / "model.safetensors").exists():
        save_file(tensors, folder / "model.safetensors")
    (tmp_path / "cases.toml").write_text(CASES)
    arguments = [str(tmp_path / "run"), str(folder), str(tmp_path / "cases.toml")]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == (2 if what else 0), done.stdout + done.stderr
    found = load_run(tmp_path / "run").measurements
    assert {m.status for m in found if m.case == "published"} == {"ok"}
    (given,) = (m for m in found if m.case == "given")
    assert given.status == ("failed" if what else "ok")
    assert what in given.why
    assert f"    failed: {given.why}\n" in done.stdout or not what
    assert "Traceback" not in done.stdout + done.stderr
