"""Training runs as measurements: each run is kept as it ends, and a campaign that is resumed makes only what it lacks.

A run's record of ``run_loss`` has a sample for each step, another its loss on held-out text; the convention says which
run it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from v3bench.model_ref.errors import BadInput
from v3bench.suite.meter.recorder import Recorder
from v3bench.suite.train import corpus, pool, proxies
from v3bench.suite.train.pairs import base_of, gaps, late, seeded
from v3bench.suite.train.plan import FP32, Plan
from v3bench.suite.train.proxies import PREFIX
from v3bench.suite.train.trainer import Outcome, Trainer

METRIC = "run_loss"
HELD_OUT = "held out, "
ALIKE = 0.01  # of the first loss, that of a model which knows nothing; a wrong product moves it by more
# What a case's shape may say of a plan.
OPTIONS = frozenset({"shared", "batch", "length", "rate", "warmup", "last", "corpus", "held_out"})


class Kept(NamedTuple):
    """A run that is on record: nats per token of every step, and of held-out text."""

    losses: tuple[float, ...]
    held_out: float | None


def plan_of(shape: Mapping[str, Any], device: str, model: str = "") -> Plan:
    """The plan of a case's shape: its ``model`` is a proxy, unless another is named. Raises BadInput.

    Its ``steps`` come after the ``shared`` ones.
    """
    proxy, shared = proxies.read(model or shape["model"]), shape.get("shared", 0)
    options = {key: shape[key] for key in OPTIONS & shape.keys()} | {"steps": shared + shape["steps"]}
    return Plan(model=proxy.preset, change=proxy.change, device=device, **options)


@dataclass
class Campaign:
    """The runs of one case: for each of its ``seeds``, all that it tries."""

    record: Recorder
    device: str

    def gaps(self, recipe: str) -> list[float]:
        """The recipe's late gap of each seed against its pair."""
        shape, base = self.record.case.shape, base_of(recipe)
        plan = plan_of(shape, self.device)
        runs = self.runs({name: replace(plan, recipe=name) for name in (base, recipe)})
        pairs = zip(runs[recipe], runs[base], strict=True)
        first, window = plan.shared, shape["window"]
        found = [late(gaps(mine.losses[first:], other.losses[first:], window)) for mine, other in pairs]
        behind = f" behind {first} shared ones" if first else ""
        about = f"against {base}, second half of {plan.steps - first} steps{behind}; {self.common(plan)}"
        self.record(found, convention=about, precision=precision_of(replace(plan, recipe=recipe)))
        return found

    def held_out(self, model: str) -> list[float]:
        """The held-out loss of each seed of a model."""
        plan = plan_of(self.record.case.shape, self.device, model)
        found = [run.held_out for run in self.runs({model: plan})[model] if run.held_out is not None]
        about = f"{plan.tokens} tokens trained; {self.common(plan)}"
        self.record(found, convention=about, precision=precision_of(plan))
        return found

    def runs(self, tried: Mapping[str, Plan]) -> dict[str, list[Kept]]:
        """The runs of every plan, seed by seed; those that are not there yet are made, side by side, and kept.

        A run that diverges fails the benchmark.
        """
        seeds = self.record.case.shape["seeds"]
        wanted = [(name, one) for name, plan in tried.items() for one in seeded(plan, seeds)]
        for name, one in wanted:
            self.refuse(name, one)
        lacking = {one: name for name, one in wanted if self.kept(name, one) is None}
        # The quick ones last, so that all children are busy to the end.
        for plan, outcome in pool.completed(sorted(lacking, key=lambda plan: plan.recipe == FP32)):
            self.keep(lacking[plan], plan, outcome)
        found: dict[str, list[Kept]] = {name: [] for name in tried}
        for name, one in wanted:
            run = self.kept(name, one)
            assert run is not None
            found[name].append(run)
        return found

    def keep(self, name: str, plan: Plan, outcome: Outcome) -> None:
        """Put a run on record, and with it the list of what it was trained on."""
        session, text = self.record.session, corpus.load(plan.corpus)
        if outcome.corpus != text.sha256:
            raise BadInput("changed while runs were made", where=f"corpus {plan.corpus}", right="one text for all runs")
        about: dict[str, Any] = {"metric": METRIC, "convention": self.name(plan), "precision": precision_of(plan)}
        if outcome.why:
            session.keep(self.record.blank(self.series(name), status="failed", why=outcome.why, **about))
            self.diverged(name, plan, outcome.why)
        session.list_corpus(text)
        records = [self.record.blank(self.series(name), samples=outcome.losses, **about)]
        if outcome.held_out is not None:
            about["convention"] = HELD_OUT + self.name(plan)
            records.append(self.record.blank(self.series(name), samples=(outcome.held_out,), **about))
        session.keep(*records)

    def kept(self, name: str, plan: Plan) -> Kept | None:
        """A run that was made in this session, or by the run that is resumed."""
        losses = self.stored(self.series(name), self.name(plan))
        held_out = self.stored(self.series(name), HELD_OUT + self.name(plan))
        if losses is None or (plan.held_out and held_out is None):
            return None
        return Kept(losses, held_out[0] if held_out else None)

    def refuse(self, name: str, plan: Plan) -> None:
        """Fail where this run has diverged in this session, for another series: it would again."""
        wanted = (self.record.case.name, self.series(name), METRIC, "failed", self.name(plan))
        for m in self.record.session.records:
            if (m.case, f"{m.subject}/{m.impl}", m.metric, m.status, m.convention) == wanted:
                self.diverged(name, plan, m.why)

    def diverged(self, name: str, plan: Plan, why: str) -> None:
        """Fail the benchmark for a run."""
        self.record.end(("failed", f"{name}, {self.name(plan)}: {why}"))

    def stored(self, series: str, convention: str) -> tuple[float, ...] | None:
        """The samples of one record."""
        session, case = self.record.session, self.record.case
        folder = session.plan.folder
        resumed = folder.found if folder is not None and session.plan.resume else []
        wanted = (case.name, case.version, METRIC, series, convention, self.device, "ok")
        for m in (*session.records, *resumed):
            if (m.case, m.case_version, m.metric, f"{m.subject}/{m.impl}", m.convention, m.device, m.status) == wanted:
                return m.samples
        return None

    def series(self, name: str) -> str:
        """Whose record a run is; what a recipe is held against need not be a series of the case."""
        return f"{PREFIX}{name}/{self.record.case.impls[0]}"

    def name(self, plan: Plan) -> str:
        """Which run of the case it is."""
        return f"seed {plan.init}; {self.common(plan)}"

    def common(self, plan: Plan) -> str:
        """What results have to share to be compared, beside their case."""
        return f"corpus {corpus.load(plan.corpus).sha256[:12]}"


def begin_alike(trainers: Sequence[Trainer]) -> None:
    """Raise AssertionError unless runs that differ in arithmetic alone begin with nearly the same loss, and not equal.

    Each makes its first step.
    """
    for trainer in trainers:
        trainer.step()
    losses = [trainer.losses[0].item() for trainer in trainers]
    assert len(set(losses)) == len(losses), f"different arithmetic gives one loss, {losses[0]}"
    apart = max(losses) / min(losses) - 1
    assert apart <= ALIKE, f"first losses {losses} lie {apart:.1e} apart"


def precision_of(plan: Plan) -> str:
    """The arithmetic of a run, in words."""
    if plan.recipe in PLAIN:
        return PLAIN[plan.recipe]
    return f"{plan.recipe}, {'kernels' if plan.device == 'cuda' and plan.recipe == 'fp8' else 'emulated'}"


PLAIN = {FP32: "float32", "bf16": "bfloat16"}
