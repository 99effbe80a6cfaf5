"""The trained proxies that MTP is measured on: each trained once a run, kept in its folder, gone on with after a kill.

A case of bench "learning" says how its subjects are trained; the other cases name it as their ``course``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from threading import Event, Lock
from typing import Any

import torch
from v3bench.model_ref.config import Config
from v3bench.model_ref.crew import one_thread
from v3bench.suite import tokens
from v3bench.suite.ledger.cases import Case
from v3bench.suite.ledger.claims import published
from v3bench.suite.meter.progress import Training
from v3bench.suite.meter.session import Session
from v3bench.suite.models import AnyConfig
from v3bench.suite.train import checkpoint, proxies, tokenised
from v3bench.suite.train.plan import Plan
from v3bench.suite.train.trained import CONFIG, Trained
from v3bench.suite.train.trainer import Trainer

TRAINING = (
    "mtp-loss-weight-first", "mtp-loss-weight-later", "mtp-loss-weight-switch", "deployment-training-tokens",
)  # fmt: skip
FOLDER = "trained"  # within the run folder; states of training, which are not committed
OPTIONS = frozenset({"recipe", "steps", "batch", "length", "rate", "warmup", "last", "bias_until", "corpus"})
EVERY = 50  # steps between two saved states, where a course does not say it
KEPT: dict[Plan, Trained] = {}  # of this process
FAILED: dict[Plan, Exception] = {}

Visit = Callable[[str, Trained], None]


def course(session: Session, case: Case, subject: str) -> Plan:
    """How a subject is trained, by its case or by the one that is its course; weights of losses change as V3's did."""
    shape = session.plan.cases[case.shape["course"]].shape if "course" in case.shape else case.shape
    proxy = proxies.read(proxies.tried(subject))
    options = {key: shape[key] for key in OPTIONS & shape.keys()}
    options["steps"] = shape.get("steps_of", {}).get(subject, shape["steps"])
    if session.plan.corpus is not None:
        options["corpus"] = session.plan.corpus
    change = proxy.change | vocabulary(session.plan.tokenizer)
    return Plan(
        model=proxy.preset, change=change, device=session.plan.device, mtp=True, tokenizer=session.plan.tokenizer,
        **over_time(), **options,
    )  # fmt: skip


def vocabulary(tokenizer: str | None) -> dict[str, Any]:
    """What a tokenizer changes in a proxy's config. Raises BadInput."""
    if tokenizer is None:
        return {}
    # None of its tokens ends a text here, and those that the preset names mean something else.
    return {"vocab_size": tokens.read(tokenizer).size, "bos_token_id": None, "eos_token_id": None}


def over_time() -> dict[str, Any]:
    """The paper's lambda, first and last, and the share of the training behind which it changes."""
    first, last, switch, tokens = (published(name)[0] for name in TRAINING)
    return {"mtp_weight": first, "mtp_weight_last": last, "mtp_switch": switch / tokens}


def trained(session: Session, case: Case, subject: str, visit: Visit | None = None) -> Trained:
    """A subject at the end of its course, with all of whose subjects it is trained.

    ``visit(subject, trained)`` sees each of them on the way, behind the steps that the course's ``visits`` name. Their
    states go into the run folder, and their weights as checkpoints. Raises ArithmeticError where a loss is no number.
    """
    plan = course(session, case, subject)
    if plan in FAILED:
        raise FAILED[plan]
    if plan not in KEPT:
        whole = session.plan.cases[case.shape["course"]] if "course" in case.shape else case
        train(session, whole, visit or (lambda subject, one: None))
    return KEPT[plan]


def train(session: Session, whole: Case, visit: Visit) -> None:
    """Train all subjects of a course: on a CPU side by side, a thread each, which outruns one after another on all."""
    stop, alone = Event(), Lock()
    first = course(session, whole, whole.subjects[0])
    session.list_corpus(tokenised.load(first.corpus, first.tokenizer))

    def run(subject: str) -> None:
        torch.set_num_threads(1)
        plan, name, folder = course(session, whole, subject), proxies.tried(subject), session.plan.folder
        told = Training(name, plan.steps, plan.batch * plan.length, session.plan.say)

        def after(trainer: Trainer) -> None:
            if stop.is_set():
                raise InterruptedError
            told(trainer.done, lambda: float(trainer.losses[trainer.done - 1]))
            if trainer.done in whole.shape["visits"]:
                with alone:
                    visit(subject, Trained(trainer))

        stem = None if folder is None else folder.path / FOLDER / f"{whole.name}-{name}"
        state = None if stem is None else stem.with_suffix(".safetensors")
        trainer = checkpoint.trained(plan, path=state, every=whole.shape.get("every", EVERY), after=after)
        if why := trainer.trouble():
            raise ArithmeticError(f"training of {name} broke off: {why}")
        KEPT[plan] = one = Trained(trainer)
        if stem is not None and not (stem / CONFIG).exists():
            one.write(stem)

    with one_thread(), ThreadPoolExecutor(len(whole.subjects) if session.plan.device == "cpu" else 1) as pool:
        runs = [pool.submit(run, subject) for subject in whole.subjects]
        try:
            for one in as_completed(runs):
                one.result()
        except BaseException as error:
            stop.set()
            if isinstance(error, Exception):  # it would fail again in every case of the course
                FAILED.update({course(session, whole, subject): error for subject in whole.subjects})
            raise


def begun(session: Session, case: Case, subject: str, *, bias: bool) -> Trained:
    """A subject after the ``first`` steps of its course, with its balancing biases updated or left at zero."""
    plan = course(session, case, subject)
    plan = plan if bias else replace(plan, bias_speed=0.0)
    trainer = Trainer(plan, tokenised.load(plan.corpus, plan.tokenizer))
    with one_thread():
        while trainer.done < case.shape["first"]:
            trainer.step()
    return Trained(trainer)


def moe_layers(config: AnyConfig) -> list[int]:
    """The number of each layer with experts, as checkpoints count them: the MTP modules follow the last."""
    assert isinstance(config, Config)
    assert config.num_moe_layers
    return [*range(config.first_k_dense_replace, config.num_hidden_layers + config.num_nextn_predict_layers)]
