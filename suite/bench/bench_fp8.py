"""FP8 against higher precision, level by level: a quantiser, a product of matrices, sums in few bits."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from v3bench.model_ref.crew import one_thread
from v3bench.model_ref.precision import RECIPES
from v3bench.suite import models
from v3bench.suite.budget import accumulation, answers, cache, layers, retrieval, tensor_core, transport
from v3bench.suite.budget.distributions import draw
from v3bench.suite.budget.gemm import BOTH, NEVER, PROMOTED, oriented, sources
from v3bench.suite.budget.logits import shift
from v3bench.suite.budget.quantisers import QUANTISERS, Quantised
from v3bench.suite.budget.recorded import recorded
from v3bench.suite.budget.weight_budget import CODES, EXPORT, total
from v3bench.suite.budget.weights import measure
from v3bench.suite.meter.scale import granted
from v3bench.suite.train.campaign import Campaign, begin_alike, plan_of
from v3bench.suite.train.corpus import load
from v3bench.suite.train.proxies import tried
from v3bench.suite.train.trained import trained
from v3bench.suite.train.trainer import Trainer

TRAINING = ("steps", "batch", "length")
ROOT_MEAN_SQUARE = "root mean square"
LEARNT = 0.8  # share of questions that a model answers over a cache in bfloat16, if it is to judge others
# What is recorded of a checkpoint's weights: metric -> figure.
WEIGHTS = {
    EXPORT: {"relative_error": "relative_error", "cosine": "cosine", "flushed": "flushed"},
    CODES: {"rounding_bound": "bound", "range_used": "range_used"},
}


@pytest.fixture
def hopper(device):
    """What the claims about tensor cores are about."""
    if torch.cuda.get_device_capability(device)[0] != 9:
        pytest.skip("needs a CUDA device of compute capability 9.0, Hopper")


def test_quantiser(record, case, series, device):
    """What one quantiser does to samples of a distribution, one after the other."""
    shape, name = case.shape, series.split("/")[0].removeprefix("quantiser.")
    found = [
        Quantised.of(QUANTISERS[name], draw(shape["distribution"], shape["rows"], shape["columns"], number).to(device))
        for number in range(shape["samples"])
    ]
    record([one.error.relative for one in found], convention=ROOT_MEAN_SQUARE, precision=name)
    for metric, samples in {
        "signal_to_noise": [one.snr for one in found],
        "cosine": [one.error.cosine for one in found],
        "flushed": [one.flushed for one in found],
        "clipped": [one.clipped for one in found],
    }.items():
        record(samples, metric=metric, precision=name)


def test_gemm_error(record, case, series, device):
    """A product of quantised operands against float64 of the unquantised ones, by what causes the error."""
    shape, name = case.shape, series.split("/")[0].removeprefix("gemm.")
    operands, M, N, K = oriented(RECIPES[name], shape["product"]), shape["M"], shape["N"], shape["K"]
    found = defaultdict(list)
    for number in range(shape["samples"]):
        a, b = draw(shape["distribution"], M, K, 2 * number), draw("gaussian", N, K, 2 * number + 1)
        for source, error in sources(operands, a.to(device), b.to(device), shape["rows"]).items():
            found[source].append(error)
    for source, errors in found.items():
        record([one.relative for one in errors], convention=f"{ROOT_MEAN_SQUARE}; {source}", precision=name)
        if source not in (BOTH, PROMOTED, NEVER):
            continue
        record([one.worst_row for one in errors], metric="worst_row_error", convention=source, precision=name)
        record([one.cosine for one in errors], metric="cosine", convention=source, precision=name)


def test_recorded(record, case, series, device):
    """What one quantiser does to the activations of a trained proxy: the inputs of every product of its layers."""
    shape, name = case.shape, series.split("/")[0].removeprefix("quantiser.")
    for proxy in shape["proxies"]:
        one = trained(proxy, *(shape[key] for key in TRAINING), device)
        products = recorded(one.model, one.held_out(shape["rows"], shape["tokens"]))
        found = [Quantised.of(QUANTISERS[name], product.x) for product in products.values()]
        about = f"{ROOT_MEAN_SQUARE}; activations of {proxy}, {one.about}"
        record([entry.error.relative for entry in found], convention=about, precision=name)
        record([entry.flushed for entry in found], metric="flushed", convention=about, precision=name)


def test_layers(record, case, series, device):
    """One step of a trained proxy: the error of each product of each layer, and of the states behind each layer."""
    shape, (subject, name) = case.shape, series.split("/")
    one = trained(tried(subject), *(shape[key] for key in TRAINING), device)
    ids = one.held_out(shape["rows"], shape["tokens"] + 1)
    found = {
        f"{weight}; {gemm}": error for (weight, gemm), error in layers.products(one.rebuilt, RECIPES[name], ids).items()
    }
    drift = layers.states(one.by(name), one.model, ids[:, :-1])
    found |= {f"states; behind layer {i}": error for i, error in enumerate(drift[:-1])}
    for place, error in (found | {"states; behind the final norm": drift[-1]}).items():
        record([error.relative], convention=f"{place}; {one.about}", precision=name)
        record([error.cosine], metric="cosine", convention=f"{place}; {one.about}", precision=name)


def test_logits(record, case, series, device):
    """Predictions of a trained proxy on text it has not seen, against its own in float32."""
    shape, (subject, name) = case.shape, series.split("/")
    one = trained(tried(subject), *(shape[key] for key in TRAINING), device)
    ids = one.held_out(shape["rows"], shape["tokens"] + 1)
    with torch.no_grad():
        got, want = (model(ids[:, :-1]) for model in (one.by(name), one.model))
    found = shift(got, want, ids[:, 1:])
    about = {"convention": one.about, "precision": name}
    record([found.kl], **about)
    record([found.top1_flips], metric="top1_flips", **about)
    record([found.perplexity_ratio], metric="perplexity_ratio", **about)
    record([found.perplexity_exact], metric="perplexity", convention=f"float32; {one.about}", precision="float32")


def test_weights(record, case, series, checkpoint):
    """A checkpoint's FP8 weights: the error of its export, or, of one that is in FP8, range and bound; by kind too."""
    if checkpoint is None:
        pytest.skip("no checkpoint given: --checkpoint DIR")
    found = measure(checkpoint)
    assert not found.not_finite, f"{found.not_finite[0].matrix.name} holds values that are not finite"
    named, config = models.load(checkpoint)
    scale = granted(config)
    for name, rows in {"all matrices": found.clean, **found.by_kind()}.items():
        figures = total(rows).as_json()
        for metric, figure in WEIGHTS[found.measure].items():
            if figures[figure] is not None:
                record([figures[figure]], metric=metric, convention=f"{name}; {named}", precision="fp8", scale=scale)


def test_cache_error(record, case, series, device):
    """One layer's attention over a cache in a format, by context length: of drawn tokens, or of a trained proxy's."""
    shape, (subject, name) = case.shape, series.split("/")
    if "steps" in shape:
        one = trained(tried(subject), *(shape[key] for key in TRAINING), device)
        config, ids = one.model.config, one.held_out(shape["rows"], shape["tokens"])
        found = {
            f"{len(ids[0])} tokens; layer {i}; {one.about}": [x] for i, x in enumerate(answers.cached(one.model, ids))
        }
    else:
        config = models.load(subject)[1]
        drawn = [
            cache.synthetic(subject, shape["distribution"], max(shape["lengths"]), n).to(device)
            for n in range(shape["samples"])
        ]
        found = {
            f"{L} tokens; {shape['distribution']}": [cache.shortened(one, L) for one in drawn] for L in shape["lengths"]
        }
    for about, rows in found.items():
        costs = [cache.cost(one, cache.storages_of(config, name)) for one in rows]
        for metric, field, which in cache.FIGURES:
            if metric != "attention_lost" or name.startswith("window"):
                convention = f"{which}; {about}" if which else about
                samples = [getattr(one, field) for one in costs]
                # A released shape's bytes are its own; what attention makes of drawn tokens is nobody's.
                scale = cache.granted(subject) if metric == cache.BYTES else "proxy"
                record(samples, metric=metric, convention=convention, precision=name, scale=scale)


def test_retrieval(record, case, series):
    """Questions to a small trained model over a cache in a format, by how far back the answer lies."""
    shape, (subject, name) = case.shape, series.split("/")
    task = retrieval.Task(shape["keys"], shape["values"])
    model = retrieval.trained(subject, task, *(shape[key] for key in ("layers", "width", "steps", "rows")))
    known, found = (
        answers.asked(model, task, cache.storages_of(model.config, one), shape["questions"]) for one in ("bf16", name)
    )
    assert known.accuracy() > LEARNT, f"the model answers {known.accuracy():.0%}: no format can be judged by it"
    about = f"chance {task.chance:g}; {shape['layers']} layers after {shape['steps']} steps"
    record([found.accuracy()], convention=f"all pairs; {about}", precision=name)
    record([float(found.loss.mean())], metric="answer_loss", convention=about, precision=name)
    for near, beyond in pairwise((*shape["distances"], task.keys + 1)):
        convention = f"{near} to {beyond - 1} tokens back; {about}"
        record([found.accuracy(near, beyond - 1)], convention=convention, precision=name)


def test_transport(record, case, series, device):
    """What a number format makes of the values that experts are sent and give back: drawn, or a trained proxy's."""
    shape, name, messages = case.shape, series.split("/")[0], {}
    if "steps" in shape:
        one = trained(shape["proxy"], *(shape[key] for key in TRAINING), device)
        taken = transport.sent(one.model, one.held_out(shape["batch"], shape["length"]))
        messages = {f"{stage}; {shape['proxy']} {one.about}": [x] for stage, x in taken.items()}
    for kind in shape.get("distributions", ()):
        stage, size = shape["stage"], (shape["rows"], shape["columns"])
        drawn = [transport.message(stage, kind, *size, n).to(device) for n in range(shape["samples"])]
        messages[f"{stage}; {kind}"] = drawn
    for about, sent in messages.items():
        found = [transport.carried(name, x) for x in sent]
        record([one.error.relative for one in found], convention=f"{ROOT_MEAN_SQUARE}; {about}", precision=name)
        record([one.of_values for one in found], metric="value_error", convention=about, precision=name)
        record([one.bytes_per_value for one in found], metric="bytes_per_value", convention=about, precision=name)


def test_accumulation(record, case, series, device, hopper):
    """On a Hopper GPU: sums of FP8 products against exact ones, over the number of products."""
    kind, name = case.shape["distribution"], series.split("/")[1]
    for k in case.shape["lengths"]:
        error = accumulation.accumulation_error(accumulation.GEMMS[name], k, kind, device)
        record([error], convention=accumulation.convention(name, kind, k), precision="fp8")


def test_tensor_core(record, case, series, device, hopper):
    """On a Hopper GPU: what its FP8 tensor core does with a sum, read off crafted products."""
    gemm = accumulation.GEMMS[series.split("/")[1]]
    bits = tensor_core.fraction_bits(gemm, device)
    below = "the rest cut off" if tensor_core.truncates(gemm, bits, device) else "the rest rounded"
    record([bits], convention=below, precision="fp8")
    record([tensor_core.aligned_products(gemm, device)], metric="aligned_products", precision="fp8")


def test_loss_gap(record, case, series, device):
    """Training by one recipe beside its pair, seed by seed: runs are kept as they end, then the gap of each pair."""
    Campaign(record, device).gaps(tried(series))


def test_train_step_precision(timed, gate, case, series, device):
    """One step of training, optimiser and all, in one arithmetic beside another."""

    def build():
        plan = plan_of(case.shape, device)
        runs = {name: Trainer(replace(plan, recipe=tried(name)), load(plan.corpus)) for name in case.series}
        gate(lambda: begin_alike(list(runs.values())))
        return {name: run.step for name, run in runs.items()}

    with one_thread():  # as runs are made
        timed(build, precision="emulated")
