"""A training run on disk: tensors only, written whole or not at all: a kill at any moment leaves the last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.suite.run_folder import write_whole
from v3bench.suite.train.corpus import Corpus
from v3bench.suite.train.plan import FP32, Plan
from v3bench.suite.train.tokenised import load
from v3bench.suite.train.trainer import Outcome, Trainer

LOOK = 32  # steps after which a run is asked whether its losses still are numbers
STARTS = 8  # states that are kept for the runs that begin from them; 15 MB each for a proxy of 1M parameters


def train(plan: Plan, *, corpus: Corpus | None = None) -> Outcome:
    """Run a plan to its end. Raises BadInput where the corpus is too short."""
    return trained(plan, corpus=corpus).outcome()


def trained(
    plan: Plan,
    *,
    corpus: Corpus | None = None,
    path: Path | None = None,
    every: int = LOOK,
    after: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """The trainer behind a plan's last step, or behind the one whose loss is no number.

    With ``path`` the run is saved every so many steps and at its end, and goes on from what is saved there. ``after``
    is called behind every step, before it is saved; for a step that is saved, never again. Raises BadInput where the
    file is of another plan or corpus, where it cannot be written, and where the corpus is too short.
    """
    corpus = corpus or load(plan.corpus, plan.tokenizer)
    saved = path is not None and path.exists()
    start = begun(replace(plan, recipe=FP32, held_out=0), corpus) if plan.shared and not saved else None
    trainer = Trainer(plan, corpus, start)
    if path is not None and saved:
        resume(trainer, path)
    while trainer.done < plan.steps:
        trainer.step()
        if after is not None:
            after(trainer)
        # To look is to wait for a GPU: not at every step.
        if trainer.done % LOOK == 0 and trainer.trouble():
            break
        if path is not None and (trainer.done % every == 0 or trainer.done == plan.steps):
            write(trainer, path)
    return trainer


@lru_cache(STARTS)
def begun(plan: Plan, corpus: Corpus) -> Mapping[str, Tensor]:
    """The state behind the steps that all recipes share: made once for all runs of a seed in this process."""
    trainer = Trainer(plan, corpus)
    while trainer.done < plan.shared:
        trainer.step()
    return trainer.state()


def write(trainer: Trainer, path: Path) -> None:
    """Save the run; what was saved before stays until all of it is written. Raises BadInput, as for a full disk."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trainer.state().items()}
    data = save(tensors, metadata={"plan": trainer.plan.as_json(), "corpus": trainer.corpus.sha256})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        what = f"cannot be written ({error.strerror}); what was saved before stays"
        raise BadInput(what, where=str(path), right=f"a disk with {len(data) / 1e6:.0f} MB of room") from error


def resume(trainer: Trainer, path: Path) -> None:
    """Go on from what is saved. Raises BadInput."""
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            for name, now in (("plan", trainer.plan.as_json()), ("corpus", trainer.corpus.sha256)):
                if told.get(name) != now:
                    raise BadInput(f"is of another {name}", where=str(path), right="another file, or none")
            trainer.restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise BadInput(f"cannot be read ({error})", where=str(path), right="a saved run, or no file") from error
