"""Prefill, decoding and a training step of small models, side by side: dense partners, and the transformers package."""

from functools import partial

import torch
from v3bench.suite import models
from v3bench.suite.bench.contestants import SEED, enter
from v3bench.suite.meter.closeness import scale_error

# float32 results of the same sums in another order; a wrong mask, weight or position is off by orders of magnitude.
CLOSE = 1e-4


def tokens(case, device, extra):
    """Random ids of the case's batch, its tokens and a few more; of the smallest vocabulary among the subjects."""
    words = min(models.load(subject)[1].vocab_size for subject in case.subjects)
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(words, (case.shape["batch"], case.shape["tokens"] + extra), generator=generator).to(device)


def agree(players, ids, context):
    """Each subject's implementations give the same logits, and cached decoding gives those of the full forward."""
    with torch.inference_mode():
        for name, player in players.items():
            want = players[f"{name.split('/')[0]}/torch"].logits(ids)
            start, cache = player.prefill(ids[:, :context])
            rest = player.continuation(ids[:, context:], cache)
            for got in (player.logits(ids), torch.cat((start, rest), dim=1)):
                error = scale_error(got, want)
                assert error <= CLOSE, f"logits of {name} are off by {error:.1e} of their scale"


def test_prefill(timed, gate, case, series, device):
    """Logits of every position of a prompt, and the filled cache."""

    def build():
        players, ids = enter(case.series, device), tokens(case, device, extra=4)
        gate(lambda: agree(players, ids, case.shape["tokens"]))
        prompt = ids[:, :-4]
        return {name: torch.inference_mode()(partial(player.prefill, prompt)) for name, player in players.items()}

    timed(build, precision="float32")


def test_decode(timed, gate, case, series, device):
    """One token after another over a filled cache: seconds per token."""

    def build():
        players, ids = enter(case.series, device), tokens(case, device, extra=case.shape["steps"])
        prompt, rest = ids.split([case.shape["tokens"], case.shape["steps"]], dim=1)
        gate(lambda: agree(players, ids, case.shape["tokens"]))
        with torch.inference_mode():
            caches = {name: player.prefill(prompt)[1] for name, player in players.items()}
        return {name: partial(player.continuation, rest, caches[name]) for name, player in players.items()}

    timed(build, precision="float32", per=case.shape["steps"])


def test_train_step(timed, gate, case, series, device):
    """Forward, next-token loss and backward."""

    def build():
        players, ids = enter(case.series, device), tokens(case, device, extra=1)
        # The check decodes a few tokens only: it is about agreement, not about time.
        gate(lambda: agree(players, ids, case.shape["tokens"] - 3))
        return {name: partial(player.train_step, ids) for name, player in players.items()}

    timed(build, precision="float32")
