"""Small tokenizer.json files: a byte-level BPE, and one of whole words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def bpe(
    folder: Path,
    texts: Sequence[str] = ("def f(x): return x",),
    size: int = 280,
    special: Sequence[str] = ("<s>", "</s>"),
    start: str = "",
) -> Path:
    """One that loses no text, trained on ``texts``; it puts ``start`` before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)  # as in released ones
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(list(texts) * 9, trainer)
    while made.get_vocab_size() < size:  # of few texts
        made.add_tokens([f"<more {made.get_vocab_size()}>"])
    if start:
        pair = [(start, made.token_to_id(start))]
        made.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=pair)
    return saved(made, folder)


def words(folder: Path, known: Sequence[str], unknown: str | None = None) -> Path:
    """One that knows these words, and loses the blanks between them; ``unknown`` stands for all others."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(known)}, unk_token=unknown or "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return saved(made, folder)


def saved(made: object, folder: Path) -> Path:
    """Its file in that folder."""
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path
