"""Proxies as data, and that those which a GPU trains and decodes have sizes that its kernels take."""

from __future__ import annotations

import pytest
from v3bench.suite.laws import params
from v3bench.suite.train import proxies

from ..there import there

THERE = """
from v3bench.model_ref import precision
from v3bench.suite import models
from v3bench.suite.train import proxies

config = proxies.read(NAME).config
made = models.build(config, device="meta", dtype=torch.bfloat16, ops=precision.on_kernels(precision.BF16), mtp=True)
model, found = moved(made), {}
rows, prompt, most = 32, 100, 4
with standin.present(), standin.compiling(lambda key: False) as asked:
    ids = torch.zeros(rows, 129, dtype=torch.int64, device="cuda")
    with torch.no_grad():
        loss = model.loss(ids)
        assert loss.total.is_cuda
        model.update_biases(loss.loads, 1e-3)
        found["loss"] = sorted({one.name for one in asked})
        h, cache = model.hidden(ids[:, :prompt]), model.new_cache(rows, prompt + most)
        model.run(ids[:, :prompt], cache)
        modules = model.new_mtp_caches(rows, prompt + most)
        for k, module in enumerate(modules, 1):
            model.run_mtp(k, h[:, :-1], ids[:, 1:prompt], module)
        for uneven in (0, 1):
            for tokens in range(1, most + 1):
                before = len(asked)
                cache.truncate([prompt - row % 2 * uneven for row in range(rows)])
                assert model.logits(model.run(ids[:, :tokens], cache)).argmax(-1).is_cuda
                for k, module in enumerate(modules, 1):
                    module.truncate([prompt - 1 - row % 2 * uneven for row in range(rows)])
                    model.run_mtp(k, h[:, :tokens], ids[:, :tokens], module)
                found[f"{tokens} {uneven}"] = sorted({one.name for one in asked[before:]})
print(json.dumps(found))
"""


@pytest.mark.parametrize("name", [pytest.param("v3-300m", marks=pytest.mark.slow), "mtp-v3-300m"])
def test_a_gpu_s_proxies_run_on_its_launchers(name):
    """On a GPU that is not there: a loss, a prompt, and steps of one token to four, of rows that differ in length."""
    pytest.importorskip("triton")
    found = there(f"NAME = {name!r}\n{THERE}")
    assert "kernel_forward" in found.pop("loss")
    assert len(found) == 8
    assert all("kernel_few" in names for names in found.values()), "a cache is read by this project's own kernel"


def test_mtp_s_proxy_for_a_gpu_is_the_other_with_a_module():
    plain, drafting = (proxies.read(name).config for name in ("v3-300m", "mtp-v3-300m"))
    assert drafting.replace(num_nextn_predict_layers=0) == plain
    counted = params.count(drafting)
    assert counted.total == params.count(plain).total
    assert (round(counted.total / 1e6), round(counted.mtp / 1e6)) == (306, 153)
