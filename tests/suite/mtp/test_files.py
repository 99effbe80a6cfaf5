"""Windows of held-out files, and the kinds of their text."""

from dataclasses import replace

import pytest
import torch
from v3bench.model_ref.errors import BadInput
from v3bench.suite import tokens
from v3bench.suite.mtp.conventions import ALL_TEXT
from v3bench.suite.mtp.files import CODE, PROSE, by_file, cut, held_out, prose_of, windows
from v3bench.suite.train import corpus, tokenised

from ..vocabularies import words

SOURCE = '''#!/usr/bin/env python
"""Says é.

Twice."""
x = "# not a comment"  # é: a comment

class A:
    'One line.'
    def f(self):
        r"""Raw \\d."""
        "not a docstring"
        return """no # comment
"""

    async def g(self): "also"; return 1  # é, again
y = 'é'  # last'''


def tokens_of(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def prose(data):
    """What is marked, each run as text."""
    mask, runs, open_ = prose_of(tokens_of(data)).tolist(), [], False
    for byte, marked in zip(data, mask, strict=True):
        if marked and not open_:
            runs.append(b"")
        if marked:
            runs[-1] += bytes([byte])
        open_ = marked
    return [run.decode() for run in runs]


@pytest.fixture
def mixed(tmp_path):
    """Files of Python and of other text, of different lengths; all of them are held out but one."""
    for n in range(6):
        (tmp_path / f"{n}.py").write_text(f"a{n} = 1  # comment {n}\n" * (n + 1))
        (tmp_path / f"{n}.txt").write_text(f"# text {n}\n" * (n + 3))
    return tmp_path


@pytest.fixture
def held(mixed, monkeypatch):
    """The corpus of them, half of it held out."""
    monkeypatch.setattr(corpus, "HELD_OUT", 2)
    return corpus.of("mixed", corpus.folder(mixed))


def test_comments_and_docstrings_of_every_kind():
    assert prose(SOURCE.encode()) == [
        "#!/usr/bin/env python", '"""Says é.\n\nTwice."""', "# é: a comment", "'One line.'", 'r"""Raw \\d."""',
        '"also"',
        "# é, again", "# last",
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["\r\n", "\n\n"])
def test_line_ends(end):
    source = f'"""Doc."""{end}x = 1  # one{end}{end}y = 2  # two{end}'
    assert prose(source.encode()) == ['"""Doc."""', "# one", "# two"]


def test_byte_order_mark():
    assert prose(b"\xef\xbb\xbf# first\nx = 1\n") == ["# first"]


@pytest.mark.parametrize(
    "source", ["x = (  # open\n", "print 'old'  # two\n", "if x:\n# c\ny\n", "'''never closed # c\n"]
)
def test_what_does_not_parse_is_code(source):
    assert prose(source.encode()) == []


def test_standard_library_has_both_kinds():
    found = windows(corpus.load("stdlib"), per_file=2, length=256)
    assert found.ids.shape[1:] == (2, 257)
    assert len(found.names) == len(found.ids) > 15
    assert torch.equal(found.kinds[CODE], ~found.kinds[PROSE])
    assert 0.1 < found.kinds[PROSE].double().mean() < 0.6


def test_windows_lie_within_their_files(held):
    found = windows(held, per_file=2, length=10)
    texts = dict(held_out(held))
    for name, rows in zip(found.names, found.ids, strict=True):
        text = bytes(texts[name].tolist())
        assert len(text) >= 21
        assert bytes(rows[0].tolist()) == text[:11]
        assert bytes(rows[1].tolist()) == text[-11:]
    assert found.left_out == len(texts) - len(found.names)


def test_held_out_files_are_read_back(held, mixed):
    for name, text in held_out(held):
        assert bytes(text.tolist()) == (mixed / name).read_bytes()
    assert [name for name, _ in held_out(held)] == [source.name for source in held.sources if source.held_out]


def test_files_too_short_are_left_out(held):
    sizes = [source.size for source in held.sources if source.held_out]
    length = sorted(sizes)[len(sizes) // 2]
    found = windows(held, per_file=1, length=length)  # needs length + 1 tokens
    assert found.left_out == sum(size <= length for size in sizes) > 0
    with pytest.raises(BadInput, match=f"corpus mixed: none of {len(sizes)} held-out files has 2001 tokens"):
        windows(held, per_file=2, length=1000)
    with pytest.raises(BadInput, match="0 windows of 8 tokens"):
        windows(held, per_file=0, length=8)


def test_kinds_are_those_of_their_tokens(held):
    found = windows(held, per_file=1, length=16)
    python = [name.endswith(".py") for name in found.names]
    assert True in python
    assert False in python
    assert found.kinds[ALL_TEXT].all()
    for is_python, ids, code, comment in zip(python, found.ids, found.kinds[CODE], found.kinds[PROSE], strict=True):
        line = bytes(ids[0].tolist())
        if is_python:  # a0 = 1  # comment
            assert [bytes(ids[0][mask[0]].tolist()) for mask in (code, comment)] == [line[:8], line[8:]]
        else:
            assert not code.any()
            assert not comment.any()


def test_a_token_is_of_the_kind_of_its_first_byte(tmp_path):
    texts = {"a.py": 'é = "日" #é\n', "b.py": "b # y\n", "c.py": "# c\n", "d.py": "b\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    of_bytes = corpus.of("c", corpus.folder(tmp_path))
    sources = tuple(replace(source, held_out=source.name != "d.py") for source in of_bytes.sources)
    train, held = (tokens_of("\0".join(list(texts.values())[part] + [""]).encode()) for part in (slice(3, 4), slice(3)))
    of_bytes = replace(of_bytes, sources=sources, train=train, held_out=held)
    read = tokens.read(str(words(tmp_path, ["é", "=", '"日"', "#é", "b", "#", "y", "c"])))
    found = windows(tokenised.tokenised(of_bytes, read), per_file=1, length=2)
    assert found.names == ("a.py", "b.py")
    assert found.ids.tolist() == [[[0, 1, 2]], [[4, 5, 6]]]
    assert found.kinds[PROSE].tolist() == [[[False] * 3], [[False, True, True]]]
    assert torch.equal(found.kinds[CODE], ~found.kinds[PROSE])
    assert found.bytes_per_token.tolist() == [15 / 4, 6 / 3]
    (last,) = windows(tokenised.tokenised(of_bytes, read), per_file=1, length=3).kinds[PROSE].tolist()
    assert last == [[False, False, False, True]]  # by characters it would begin within the string
    assert windows(of_bytes, per_file=1, length=2).bytes_per_token.tolist() == [1.0] * 3


def test_other_text_has_one_kind(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text(f"# text {n}\n" * 9)
    text = corpus.of("text", corpus.folder(tmp_path))
    assert list(windows(text, per_file=2, length=20).kinds) == [ALL_TEXT]


def test_so_many_files_at_most(held):
    every = windows(held, per_file=1, length=8)
    some = windows(held, per_file=1, length=8, most=2)
    assert len(some.names) == 2
    assert some.left_out == every.left_out
    for name, ids in zip(some.names, some.ids, strict=True):
        assert torch.equal(ids, every.ids[every.names.index(name)])
    assert windows(held, per_file=1, length=8, most=99).names == every.names


@pytest.mark.parametrize("size", [22, 23, 31, 100])
def test_no_token_is_predicted_twice(size):
    rows = cut(torch.arange(size), per_file=3, length=7)
    assert rows[0, 0] == 0
    assert rows[-1, -1] == size - 1
    assert (rows[:, 1:] - rows[:, :-1] == 1).all()
    assert len(rows[:, 1:].unique()) == 21


def test_mean_of_each_file():
    values = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [1, 0]], [[1, 1], [1, 1]]], dtype=torch.bool)
    mask = torch.tensor([[[1, 1], [0, 1]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]], dtype=torch.bool)
    assert by_file(values, mask) == [pytest.approx(2 / 3), 0.25]  # the third has no such text
