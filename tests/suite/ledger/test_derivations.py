"""Derivations as data: what a file may say, and what it is told when it says something else."""

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import derivations


def test_every_input_has_one_origin_and_every_number_a_source():
    for derivation in derivations.load().values():
        for given in [
            *derivation.inputs.values(),
            *(g for v in derivation.variants.values() for g in v.inputs.values()),
        ]:
            origins = [given.value is not None, *map(bool, (given.config, given.hardware, given.claim, given.step))]
            assert sum(origins) == 1
            assert given.value is None or (given.source and given.unit)


TYPOS = [
    (
        'title = "KV cache of one token with multi-head',
        'titel = "KV cache of one token with multi-head',
        "key 'titel'",
        "title",
    ),
    (
        '["elements", "latent + decoupled_key", "1"]',
        '["elements", "latent + decoupled", "1"]',
        "name 'decoupled'",
        "decoupled_key",
    ),
    ('["elements", "latent + decoupled_key", "1"]', '["elements", "latents(2)", "1"]', "function 'latents'", "one of"),
    ('["elements", "latent + decoupled_key", "1"]', '["elements", "latent.real", "1"]', "Attribute", "numbers, names"),
    ('["elements", "latent + decoupled_key", "1"]', '["latent", "latent + 1", "1"]', "defined twice", ""),
    ('"per_layer * layers", "B"]', '"per_layer * layers", "bytes"]', "unit 'bytes'", "such as B"),
    ('"per_layer * layers", "B"]', '"per_layer * layers"]', "has 2 parts", "3"),
    (
        'latent = { config = "kv_lora_rank" }',
        'latent = { config = "kv_lora_rank", value = 3 }',
        "no single origin",
        "one of value",
    ),
    ('latent = { config = "kv_lora_rank" }', 'latent = { value = 512, unit = "1" }', "no unit or no source", "source"),
    (
        'latent = { config = "kv_lora_rank" }',
        'latent = { value = "512", unit = "1", source = "x" }',
        "value is '512'",
        "a number",
    ),
    ('latent = { config = "kv_lora_rank" }', 'latent = { hardware = "h800.nic" }', "hardware 'h800'", "h800-sxm"),
    ('model = "deepseek-v2" }', 'model = "deepseek-v2.5" }', "model 'deepseek-v2.5'", "deepseek-v2"),
]


@pytest.mark.parametrize("old, new, what, right", TYPOS)
def test_a_typo_is_one_clear_line(spoiled, old, new, what, right):
    folder = spoiled("derivations", "kv_cache.toml", old, new)
    with pytest.raises(BadInput) as caught:
        derivations.load(folder)
    line = str(caught.value)
    assert "kv_cache.toml: kv-mla" in line
    assert what in line
    assert right in line
    assert "\n" not in line


def test_a_name_given_twice(spoiled):
    folder = spoiled("derivations", "mtp.toml", "[mtp-config]", "[kv-mla]")
    folder_text = (folder / "mtp.toml").read_text().replace("[mtp-config.inputs]", "[kv-mla.inputs]")
    (folder / "mtp.toml").write_text(folder_text)
    with pytest.raises(BadInput, match=r"mtp\.toml: kv-mla: is defined twice"):
        derivations.load(folder)


def test_text_that_is_no_toml(spoiled):
    folder = spoiled("derivations", "mtp.toml", "[mtp-config]", "[mtp-config")
    with pytest.raises(BadInput, match=r"mtp\.toml: is not TOML"):
        derivations.load(folder)


def test_a_folder_without_files(tmp_path):
    with pytest.raises(BadInput, match=r"holds no \.toml"):
        derivations.load(tmp_path)
