"""Multi-token prediction on small models trained here: what their drafts are worth, and what they save."""

import torch
from v3bench.suite.mtp import conventions as named
from v3bench.suite.mtp import drafters, proxy, speed
from v3bench.suite.mtp.acceptance import scores
from v3bench.suite.mtp.balance import loads_of, max_violation
from v3bench.suite.mtp.files import by_file, windows
from v3bench.suite.mtp.ngram import NGram
from v3bench.suite.mtp.repetition import distinct

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def text_of(one, shape):
    """Equal windows of the held-out files of what a proxy was trained on."""
    return windows(one.corpus, shape["per_file"], shape["window"], shape["files"])


def averaged(values, text, kind=named.ALL_TEXT):
    """Mean by file of values (N, P): those of the last P tokens of each window."""
    values = values.unflatten(0, text.ids.shape[:2])
    return by_file(values, text.kinds[kind][..., -values.shape[-1] :])


def test_learning(record, case, series, device):
    """A proxy's course: what its first draft is worth, and its bits per byte, at steps on the way and at the end."""

    def seen(one):
        text = text_of(one, case.shape)
        found = scores(one.model, text.ids.flatten(0, 1), 1)
        for metric, values in {"acceptance_rate": found.accepted[:, 0], "bits_per_byte": found.bits}.items():
            about = {"metric": metric, "convention": named.after(one.steps, one.about), "precision": "float32"}
            record.session.keep(record.blank(series, samples=tuple(averaged(values, text)), **about))

    seen(proxy.trained(record.session, case, series.split("/")[0], seen, tuple(case.shape["visits"])))


def test_acceptance(record, case, series, device):
    """On held-out files: each draft against the main head, the text and at temperatures; bits per byte."""
    shape, subject = case.shape, series.split("/")[0]
    one = proxy.trained(record.session, case, subject)
    text = text_of(one, shape)
    found = scores(one.model, text.ids.flatten(0, 1), shape["drafts"], shape["temperatures"])
    record(averaged(found.bits, text), metric="bits_per_byte", convention=named.held_out(one.about))
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
        model = NGram.of(one.read(), vocab=one.model.config.vocab_size)
        drafted = model.likeliest(ids)
        bits = averaged(model.bits(ids)[:, skipped:], text)
        record(bits, metric="bits_per_byte", convention=named.held_out(one.about))
    else:
        most = drafters.most_frequent(one.read())
        drafted = torch.full_like(ids, most) if impl == named.MOST_FREQUENT else drafters.look_up(ids, most)
    accepted = drafted[:, skipped:] == scores(one.model, ids, 1).said[:, skipped - 2 :]
    record(averaged(accepted, text), convention=named.teacher_forced(1, one.about))


def test_balance(record, case, series, device):
    """How unevenly experts are loaded after the first steps of a course, with the balancing bias and without."""
    for bias in (True, False):
        one = proxy.begun(record.session, case, series.split("/")[0], bias=bias)
        loads = loads_of(one.model, text_of(one, case.shape).ids.flatten(0, 1))
        for layer, violation in zip(proxy.moe_layers(one.model.config), max_violation(loads).tolist(), strict=True):
            record([violation], convention=named.balance(layer, one.about, bias=bias))


def test_speculation(record, case, series, device):
    """Generation with drafts beside plain generation of the same prompts, in turns; and the steps it is made of."""
    shape, (subject, impl) = case.shape, series.split("/")
    one = proxy.trained(record.session, case, subject)
    model, B, counts = one.rebuilt(dtype=DTYPES[impl]), shape["batch"], shape["drafts"]
    prompts = text_of(one, {"files": B, "per_file": 1, "window": shape["context"]}).ids[:, 0]
    starts = prompts[:, : shape["prompt"]].tolist()
    record.gate(lambda: speed.agree(model, starts, shape["new"], counts))
    found = speed.race(model, starts, shape["new"], counts, shape["rounds"], device)
    costs = speed.steps(model, prompts.to(device), 1, shape["rounds"], device)

    def keep(samples, metric, convention, clock="none"):
        record(samples, metric=metric, convention=convention, precision=impl, clock=clock)

    keep(found.rates(speed.PLAIN), "tokens_per_second", named.plain(B), "host")
    keep([distinct(row.tokens) for row in found.rows[counts[0]]], "distinct_3grams", named.generated(B))
    for D in counts:
        keep(found.rates(D), "tokens_per_second", named.drafting(D, B), "host")
        keep([found.tokens_per_step(D)], "tokens_per_step", named.drafting(D, B))
    for d, share in enumerate(found.accepted(counts[-1]), 1):
        keep([share], "acceptance_rate", named.in_generation(d, B))
    keep(costs.cost("verify"), "step_cost", named.batched(named.TWO_TOKEN_STEP, B))
    keep(costs.cost("draft"), "step_cost", named.batched(named.DRAFT, B))
    keep([found.tokens_per_step(1)], "speed_up", named.batched(named.BOUND, B))
    keep(speed.from_parts(found.tokens_per_step(1), costs), "speed_up", named.batched(named.FROM_PARTS, B))
    keep(found.speed_up(1), "speed_up", named.batched(named.MEASURED, B))
