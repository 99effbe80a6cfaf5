"""Multi-token prediction on small models trained here: what their drafts are worth, and what they save."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from v3bench.model_ref.config import Config
from v3bench.model_ref.crew import one_thread
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.suite import models
from v3bench.suite.meter.clock import name_for
from v3bench.suite.meter.scale import granted, of_weights, published
from v3bench.suite.mtp import conventions as named
from v3bench.suite.mtp import drafters, part_times, parts, proxy, speed, streamed, streaming
from v3bench.suite.mtp.acceptance import scores
from v3bench.suite.mtp.balance import loads_of, max_violation
from v3bench.suite.mtp.files import by_file, windows
from v3bench.suite.mtp.ngram import NGram
from v3bench.suite.mtp.part_source import agree
from v3bench.suite.mtp.saved import begin
from v3bench.suite.mtp.steps import steps
from v3bench.suite.train import corpus
from v3bench.suite.train.campaign import precision_of
from v3bench.suite.trials.trial import Missing

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def drafting(model):
    """A model that has MTP modules: what proxies of this area are."""
    assert isinstance(model, Model)
    return model


def text_of(one, shape):
    """Equal windows of the held-out files of what a proxy was trained on."""
    return windows(one.corpus, shape["per_file"], shape["window"], shape["files"])


def longer_of(one, shape):
    """Up to ``bits_per_file`` windows a file, of the files that have them: at least half as many. Raises BadInput."""
    few, per_file = text_of(one, shape), shape["bits_per_file"]
    while per_file > shape["per_file"]:
        with suppress(BadInput):  # every file is too short
            text = text_of(one, shape | {"per_file": per_file})
            if 2 * len(text.names) >= len(few.names):
                return text
        per_file //= 2
    return few


def bits_of(one, text, bits):
    """(samples, convention) of the bits of tokens (N, P): per byte, a mean by file."""
    files, per_file, read = text.ids.shape
    return averaged(per_byte(bits, text), text), named.held_out(named.windowed(files, per_file, read - 1, one.about))


def prompts_of(one, shape):
    """The beginnings of so many held-out files, or more of each, ids (prompts, context + 1). Raises BadInput."""
    most = 0
    for per_file in range(1, shape["prompts"] + 1):  # of few files, several beginnings of each
        with suppress(BadInput):  # too short for so many
            ids = text_of(one, {"files": shape["prompts"], "per_file": per_file, "window": shape["context"]}).ids
            most = max(most, len(ids) * per_file)
        if most >= shape["prompts"]:
            return ids.transpose(0, 1).flatten(0, 1)[: shape["prompts"]]
    what = f"{most} prompts of {shape['context']} tokens in held-out files"
    raise BadInput(what, where=f"corpus {one.corpus.name}", right=f"text for {shape['prompts']}")


def averaged(values, text, kind=named.ALL_TEXT):
    """Mean by file of values (N, P): those of the last P tokens of each window."""
    values = values.unflatten(0, text.ids.shape[:2])
    return by_file(values, text.kinds[kind][..., -values.shape[-1] :])


def per_byte(bits, text):
    """Bits of tokens (N, P) over the mean bytes per token of their file."""
    return bits / text.bytes_per_token.repeat_interleave(text.ids.shape[1])[:, None]


def test_learning(record, case, series, device):
    """A course: what a proxy's first draft is worth, and its bits per byte, at steps on the way and at the end."""
    impl = series.split("/")[1]

    def seen(subject, one):
        text = text_of(one, case.shape)
        found = scores(drafting(one.model), text.ids.flatten(0, 1), 1)
        about = {"convention": named.after(one.steps, one.about), "precision": precision_of(one.plan)}
        bits = per_byte(found.bits, text)
        for metric, values in {"acceptance_rate": found.accepted[:, 0], "bits_per_byte": bits}.items():
            samples = tuple(averaged(values, text))
            record.session.keep(record.blank(f"{subject}/{impl}", metric=metric, samples=samples, **about))

    subject = series.split("/")[0]
    one = proxy.trained(record.session, case, subject, seen)
    seen(subject, one)
    record(one.losses, convention=one.about, precision=precision_of(one.plan))


def test_acceptance(record, case, series, device):
    """On held-out files: each draft against the main head, the text and at temperatures; bits per byte."""
    shape, subject = case.shape, series.split("/")[0]
    one = proxy.trained(record.session, case, subject)
    text = text_of(one, shape)
    found = scores(drafting(one.model), text.ids.flatten(0, 1), shape["drafts"], shape["temperatures"])
    longer = longer_of(one, shape)
    bits, convention = bits_of(one, longer, scores(drafting(one.model), longer.ids.flatten(0, 1), 0).bits)
    record(bits, metric="bits_per_byte", convention=convention)
    for d in range(shape["drafts"]):
        for kind in text.kinds:
            accepted, accurate = (averaged(v[:, d], text, kind) for v in (found.accepted, found.accurate))
            if accepted:  # a few windows may hold no comment
                record(accepted, convention=named.teacher_forced(d + 1, one.about, text=kind))
                record(accurate, metric="draft_accuracy", convention=named.accuracy(d + 1, one.about, text=kind))
        for temperature, chance in found.expected.items():
            convention = named.teacher_forced(d + 1, one.about, temperature=temperature)
            record(averaged(chance[:, d], text), convention=convention)


def test_floor(record, case, series, device):
    """Drafters without a network against the same main head, on the same text; an n-gram model's bits per byte."""
    shape, (subject, impl) = case.shape, series.split("/")
    one = proxy.trained(record.session, case, subject)
    text = text_of(one, shape)
    ids, skipped = text.ids.flatten(0, 1), shape["drafts"] + 1
    if impl == named.NGRAM:
        grams = NGram.of(one.read(), vocab=one.model.config.vocab_size)
        drafted = grams.likeliest(ids)
        longer = longer_of(one, shape)
        bits, convention = bits_of(one, longer, grams.bits(longer.ids.flatten(0, 1))[:, 1:])
        record(bits, metric="bits_per_byte", convention=convention)
    else:
        most = drafters.most_frequent(one.read())
        drafted = torch.full_like(ids, most) if impl == named.MOST_FREQUENT else drafters.look_up(ids, most)
    accepted = drafted[:, skipped:] == scores(drafting(one.model), ids, 0).said[:, skipped - 1 :]
    record(averaged(accepted, text), convention=named.teacher_forced(1, one.about))


def test_balance(record, case, series, device):
    """How unevenly experts are loaded after the first steps of a course, with the balancing bias and without."""
    for bias in (True, False):
        one = proxy.begun(record.session, case, series.split("/")[0], bias=bias)
        loads = loads_of(drafting(one.model), text_of(one, case.shape).ids.flatten(0, 1))
        for layer, violation in zip(proxy.moe_layers(one.model.config), max_violation(loads).tolist(), strict=True):
            record([violation], convention=named.balance(layer, one.about, bias=bias))


def test_speculation(record, case, series, device):
    """Generation with drafts beside plain generation of the same prompts, in turns; and the steps it is made of."""
    shape, (subject, impl) = case.shape, series.split("/")
    one = proxy.trained(record.session, case, subject)
    model, B, counts = drafting(one.rebuilt(one.plan.ops(), DTYPES[impl])), shape["batch"], shape["drafts"]
    text = prompts_of(one, shape)
    starts = [group.tolist() for group in text[:, : shape["prompt"]].split(B)]
    told = {}
    with one_thread():  # two would wait for each other at every small product
        found = speed.race(model, starts, shape["new"], counts, shape["rounds"], device)
        record.gate(lambda: told.update({D: speed.parted(model, starts, found, D) for D in counts}))
        costs = steps(model, text[:B].to(device), 1, shape["steps"], device)
    for D in counts:
        record([len(told[D]) / len(text)], metric="parted_rows", convention=named.drafting(D, B), precision=impl)
        if told[D]:
            apart = [row.distance / row.bound for row in told[D]]
            record(apart, metric="parted_by", convention=named.drafting(D, B), precision=impl)
        for row in told[D]:
            record.session.plan.say(f"    {impl}, {D} drafts: {row.told}")
    for metric, convention, samples in speed.figures(found, costs):
        clock = "host" if metric == "tokens_per_second" else "none"
        record(samples, metric=metric, convention=convention, precision=impl, clock=clock)


def test_parts(record, case, series, device):
    """A part of a released model's decode step at its own sizes: two tokens of each request over one, in turns."""
    shape, (name, impl) = case.shape, series.split("/")
    shares = {named.EXPERTS: named.ep_share(shape["ep"]), named.HEAD: named.split(shape["ways"])}
    config = models.load(name)[1]
    assert isinstance(config, Config)
    try:
        part = parts.build(impl, config, device, ep=shape["ep"], ways=shape["ways"])
    except Missing as missing:
        pytest.skip(str(missing))
    told = {"scale": of_weights(name, part.shapes), "precision": "float32" if device == "cpu" else "bfloat16"}
    for B in shape["batches"]:
        step, where = part.at(B, shape["context"]), (B, shape["context"], shares.get(impl, ""))
        record.gate(lambda step=step: agree(step))
        seconds = part_times.taken(step, record, shape["rounds"])
        record(part_times.cost(seconds), convention=named.two_over_one(*where), **told)
        for n in seconds:
            rates = part_times.rate(step, seconds, n)
            record(rates, metric="byte_rate", convention=named.step_of(n, *where), clock=name_for(device), **told)


def test_released(record, case, series, device, checkpoint):
    """A released checkpoint, streamed: its loss on held-out text, and its own MTP module's drafts."""
    if checkpoint is None:
        pytest.skip("no checkpoint given: --checkpoint DIR")
    (name, config), shape, plan = models.load(checkpoint), case.shape, record.session.plan
    if not isinstance(config, Config):
        pytest.skip(f"{name} is a {config.model_type}, which has no MTP modules")
    text = corpus.load(plan.corpus or shape["corpus"])
    work = begin(plan.folder.path, plan.resume) if plan.folder else None
    options = {"count": shape["windows"], "length": shape["length"], "device": device, "work": work, "say": plan.say}
    found = streamed.of_checkpoint(checkpoint, config, text, **options)
    about = f"{len(found.loss)} files in windows of {shape['length']} tokens; corpus {text.sha256[:12]}; {name}"
    told = {"scale": granted(config), "precision": "float32" if device == "cpu" else "bfloat16"}
    record(found.bits_per_byte, convention=named.held_out(about), **told)
    record(found.loss, metric="text_loss", convention=named.held_out(about), **told)
    record([found.rate], metric="read_rate", convention=about, **told)
    # Claims are about the released model by name: what has its config and is called so is recorded as that model.
    for d, (accepted, accurate) in enumerate(zip(found.accepted, found.accurate, strict=True), 1):
        whose = f"{published(config, name) or series.split('/')[0]}/{named.MODEL}"
        rows = {"acceptance_rate": (accepted, named.teacher_forced(d, about))}
        rows["draft_accuracy"] = (accurate, named.accuracy(d, about))
        for metric, (samples, convention) in rows.items():
            record(samples, series=whose, metric=metric, convention=convention, **told)
    if not found.accepted:
        plan.say(f"    {name} holds no MTP tensors: its loss is measured, and no acceptance")


def test_streaming(record, case, series, device):
    """A generated checkpoint in V3's layout: a streamed pass beside a plain read of its files, each from disk."""
    shape, plan = case.shape, record.session.plan
    raw = streaming.reduced(shape)
    windows, length, beside = shape["windows"], shape["length"], Path(plan.folder.path) if plan.folder else None
    if lacking := streaming.no_room(raw, beside):
        pytest.skip(lacking)
    with streaming.folder(raw, beside, plan.say) as path:
        if not streaming.cold(path):
            pytest.skip("the page cache of this file system cannot be emptied")
        turns = (bool(n % 2) for n in range(shape["rounds"]))
        found = [streaming.one_round(path, windows, length, last=last, device=device) for last in turns]
        law = [streaming.predicted(path, windows, length, one.plain).seconds for one in found]
    record([one.share for one in found])
    record([one.plain for one in found], metric="read_rate", convention="plain sequential read, cold")
    record([one.streamed for one in found], metric="read_rate", convention="streamed, cold")
    record([one.peak for one in found], metric="peak_memory", convention="anonymous")
    record([one.peak / one.allowed for one in found], metric="of_allowed", convention="two layers as stored and states")
    record([one.seconds / s for one, s in zip(found, law, strict=True)], metric="of_predicted")
