"""The streamed pass is the model's own, layer by layer, from every kind of folder; what is wrong is refused."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from v3bench.model_ref import BadInput, load_pretrained
from v3bench.model_ref.checkpoint_export import described, quantize
from v3bench.model_ref.stream import Pass
from v3bench.model_ref.stream_weights import Source

T = 12


def windows(config, n=5, seed=3):
    return torch.randint(0, config["vocab_size"], (n, T + 1), generator=torch.Generator().manual_seed(seed))


def finish(one):
    while not one.finished:
        one.step()
    return one.outcome()


def streamed(folder, ids, **options):
    with Source(folder) as source, Pass(source, ids, **options) as one:
        return finish(one)


@torch.no_grad()
def in_memory(folder, ids):
    """(losses, said, drafts, losses of drafts) of the loaded model's own forward pass."""
    model = load_pretrained(folder)
    h = model.hidden(ids[:, :T])
    logits = [model.logits(h), *(model.logits(state) for state in model.further(h, ids))]
    losses = [F.cross_entropy(each.flatten(0, 1), ids[:, k + 1 :].flatten(), reduction="none").view(len(ids), -1)
              for k, each in enumerate(logits)]  # fmt: skip
    tops = [each.argmax(-1) for each in logits]
    return losses[0], tops[0], tops[1:], losses[1:]


def assert_same(folder, ids):
    got, (losses, said, drafts, draft_losses) = streamed(folder, ids), in_memory(folder, ids)
    torch.testing.assert_close(got.loss.float(), losses, rtol=2e-5, atol=2e-5)
    assert torch.equal(got.said, said)
    assert len(got.drafts) == len(drafts)
    for mine, theirs in zip(got.drafts, drafts, strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(got.draft_losses, draft_losses, strict=True):
        torch.testing.assert_close(mine.float(), theirs, rtol=2e-5, atol=2e-5)


CASES = {
    "V3 with MTP": {"mtp": True},
    "V3 without MTP": {},
    "two MTP modules": {"mtp": True, "num_nextn_predict_layers": 2},
    "bfloat16": {"mtp": True, "dtype": torch.bfloat16},
    "float16": {"mtp": True, "dtype": torch.float16},
    "dense first, two of three": {"mtp": True, "num_hidden_layers": 3, "first_k_dense_replace": 2},
    "all dense": {"first_k_dense_replace": 2},
    "all sparse": {"first_k_dense_replace": 0},
    "rotary halves": {"rope_interleave": False, "mtp": True},
    "without shared experts": {"n_shared_experts": 0},
}


def small(made):
    """Weights of the size that training gives, so that logits stay where float32 is exact enough to compare."""
    made.tensors = {name: one * (1.0 if "norm" in name else 0.25) for name, one in made.tensors.items()}
    return made


@pytest.mark.parametrize("name", CASES)
def test_equals_the_model_in_memory(released, name):
    made = small(released(**CASES[name]))
    if made.config.get("n_shared_experts") == 0:
        made.tensors = {name: one for name, one in made.tensors.items() if "shared_experts" not in name}
    assert_same(made.write(3), windows(made.config))


def in_fp8(made, block=(8, 6)):
    """The layers' matrices as codes with block scales, the rest as they were."""
    made.config["quantization_config"] = described() | {"weight_block_size": list(block)}
    for name, w in list(made.tensors.items()):
        if "_proj.weight" not in name or "eh_proj" in name:
            continue
        rows, columns = (-(-size // side) for size, side in zip(w.shape, block, strict=True))
        made.tensors[name] = (w * 100).to(torch.float8_e4m3fn)
        made.tensors[name + "_scale_inv"] = torch.rand(rows, columns) * 0.01 + 0.005
    return made


def test_equals_the_model_in_memory_from_fp8(released):
    made = in_fp8(small(released(mtp=True)))
    assert sum(tensor.dtype == torch.float8_e4m3fn for tensor in made.tensors.values()) > 30
    assert_same(made.write(2), windows(made.config))


def test_v3s_own_quantiser(released):
    made = small(released(mtp=True, hidden_size=136, moe_intermediate_size=130))
    made.config["quantization_config"] = described()
    for name, w in list(made.tensors.items()):
        if "_proj.weight" in name and "eh_proj" not in name:
            made.tensors[name], made.tensors[name + "_scale_inv"] = quantize(w)
    assert_same(made.write(), windows(made.config))


def test_tied_embeddings(released):
    made = small(released(tie_word_embeddings=True))
    made.tensors["lm_head.weight"] = made.tensors["model.embed_tokens.weight"].clone()
    assert_same(made.write(), windows(made.config))
    made.tensors["lm_head.weight"][3, 3] += 1
    with pytest.raises(BadInput, match=r"differs from 'model.embed_tokens.weight'"):
        streamed(made.write(), windows(made.config))


def test_stacked_experts(released):
    made = small(released(mtp=True))
    c, per = made.config, {}
    for name in [name for name in made.tensors if ".mlp.experts." in name]:
        prefix, _, rest = name.partition(".mlp.experts.")
        e, kind, _ = rest.split(".")
        per.setdefault(prefix, {})[kind, int(e)] = made.tensors.pop(name)
    for prefix, found in per.items():
        E = range(c["n_routed_experts"])
        gate_up = [torch.cat((found["gate_proj", e], found["up_proj", e])) for e in E]
        made.tensors[f"{prefix}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
        made.tensors[f"{prefix}.mlp.experts.down_proj"] = torch.stack([found["down_proj", e] for e in E])
    assert_same(made.write(), windows(c))


@pytest.mark.parametrize("changes", [
    {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "scoring_func": "softmax"},
    {"model_type": "deepseek_v2", "topk_method": "greedy", "scoring_func": "softmax", "n_group": 1},
])  # fmt: skip
def test_v2(released, changes):
    made = small(released(**changes))
    made.config.pop("num_nextn_predict_layers"), made.config.pop("architectures")
    made.tensors = {name: one for name, one in made.tensors.items() if "e_score_correction_bias" not in name}
    assert_same(made.write(), windows(made.config))


def test_tokens_are_worked_on_in_parts(released, monkeypatch):
    """Fewer rows at a time than a window, than an expert gets, than the head has; few bytes ahead."""
    made = small(released(mtp=True))
    folder, ids = made.write(3), windows(made.config, 7)
    whole = streamed(folder, ids)
    monkeypatch.setattr("v3bench.model_ref.stream.ROWS", {"cpu": 5})
    monkeypatch.setattr("v3bench.model_ref.stream_weights.BAND", 100)
    parts = streamed(folder, ids, ahead=1, keep=False)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-5, atol=1e-5)
    assert torch.equal(parts.said, whole.said)
    assert torch.equal(parts.drafts[0], whole.drafts[0])


def test_several_threads_give_the_same_bits(released):
    made = small(released(mtp=True))
    folder, ids = made.write(), windows(made.config)
    alone, before = streamed(folder, ids), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = [streamed(folder, ids) for _ in range(3)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one.loss, together[0].loss) for one in together)
    torch.testing.assert_close(alone.loss, together[0].loss, rtol=1e-6, atol=1e-6)


def test_goes_on_from_the_states_of_any_step(released):
    made = small(released(mtp=True, num_nextn_predict_layers=2))
    folder, ids = made.write(), windows(made.config)
    whole = streamed(folder, ids)
    with Source(folder) as source, Pass(source, ids) as one:
        for done in range(1, len(source.steps)):
            one.step()
            kept = {name: state.clone() for name, state in one.states().items()}
            again = streamed(folder, ids, done=done, states=kept)
            assert torch.equal(again.loss, whole.loss), source.steps[done]
            assert all(torch.equal(a, b) for a, b in zip(again.drafts, whole.drafts, strict=True))


def test_reads_every_tensor_once_and_the_embedding_again_for_mtp(released):
    made = in_fp8(small(released(mtp=True)))
    folder = made.write(3)
    stored = sum(tensor.nbytes for tensor in made.tensors.values())
    with Source(folder) as source, Pass(source, windows(made.config)) as one:
        while not one.finished:
            one.step()
        assert one.reader.read == stored + made.tensors["model.embed_tokens.weight"].nbytes
        assert one.reader.read == sum(map(source.bytes, source.steps))
        layers = [sum(t.nbytes for name, t in made.tensors.items() if name.startswith(f"model.layers.{i}."))
                  for i in range(3)]  # fmt: skip
        assert source.largest_layer == max(layers)


def test_a_whole_folder_is_judged_before_a_value_is_read(released):
    made = released(mtp=True)
    made.tensors["model.layers.0.input_layernorm.weight"].fill_(torch.nan)
    made.tensors["lm_head.weight"] = made.tensors["lm_head.weight"][1:]
    with pytest.raises(BadInput, match=r"lm_head.weight': has shape \[36, 24\]"):
        Source(made.write())


def test_some_mtp_tensors_are_an_error(released):
    made = released(mtp=True)
    del made.tensors["model.layers.2.enorm.weight"]
    with pytest.raises(BadInput, match="every tensor of the MTP modules, or none"):
        Source(made.write())


@pytest.mark.parametrize("name", [
    "model.layers.0.self_attn.o_proj.weight", "model.layers.1.mlp.experts.2.up_proj.weight", "lm_head.weight",
    "model.layers.2.eh_proj.weight", "model.embed_tokens.weight", "model.norm.weight",
])  # fmt: skip
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused_by_name(released, name, value):
    made = released(mtp=True)
    made.tensors[name].view(-1)[1] = value
    with pytest.raises(BadInput, match=rf"{name}'.*finite weights"):
        streamed(made.write(), windows(made.config, 1)[:, :4])  # few tokens: some experts nobody chooses


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_a_code_that_is_no_number_is_refused_by_name(released, code):
    made = in_fp8(released())
    name = "model.layers.1.mlp.experts.1.down_proj.weight"
    made.tensors[name].view(torch.uint8)[2, 3] = code
    with pytest.raises(BadInput, match=rf"{name}'.*NaN"):
        streamed(made.write(), windows(made.config, 1)[:, :4])


def test_a_scale_that_is_not_finite_or_too_large_is_refused(released):
    made = in_fp8(released())
    name = "model.layers.1.mlp.experts.1.down_proj.weight_scale_inv"
    for value in (torch.inf, 3e38):
        made.tensors[name][0, 0] = value
        with pytest.raises(BadInput, match=r"down_proj.weight.*infinite"):
            streamed(made.write(), windows(made.config, 20))


def test_a_copy_that_differs_is_refused(released):
    made = released(mtp=True)
    pairs = ("embed_tokens.weight", "model.embed_tokens.weight"), ("shared_head.head.weight", "lm_head.weight")
    for copy, original in pairs:
        made.tensors[f"model.layers.2.{copy}"] = made.tensors[original].clone()
    assert_same(small(made).write(), windows(made.config))
    for copy in ("embed_tokens.weight", "shared_head.head.weight"):
        own = made.tensors[f"model.layers.2.{copy}"]
        made.tensors[f"model.layers.2.{copy}"] = own + (torch.arange(own.numel()).view_as(own) == 9)
        with pytest.raises(BadInput, match=f"{copy}': differs from"):
            streamed(made.write(), windows(made.config))
        made.tensors[f"model.layers.2.{copy}"] = own


def test_a_file_that_is_cut_off_meanwhile_is_one_line(released):
    made = released(mtp=True)
    folder = made.write()
    with Source(folder) as source:
        os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 100)
        with Pass(source, windows(made.config)) as one, pytest.raises(BadInput, match="is cut off"):
            finish(one)


@pytest.mark.parametrize("ids, what", [
    (torch.zeros(2, 2, dtype=torch.int64), r"tokens of shape \(2, 2\); expected windows .* at least 3"),
    (torch.zeros(0, 9, dtype=torch.int64), r"tokens of shape"),
    (torch.full((1, 9), 37), "token 37; expected 0 to 36"),
    (torch.full((1, 9), -1), "token -1"),
])  # fmt: skip
def test_windows_that_cannot_be_read_are_refused(released, ids, what):
    with Source(released(mtp=True).write()) as source, pytest.raises(BadInput, match=what):
        Pass(source, ids)


def test_no_thread_is_left_when_a_pass_ends_early(released):
    import threading

    made = released(mtp=True)
    with Source(made.write()) as source, Pass(source, windows(made.config)) as one:
        one.step()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "crew"))]
