"""What one side writes the other reads: every convention is parsed back, and by no other parser."""

import pytest
from v3bench.suite.mtp import conventions as said

ABOUT = "1200 steps of 8 x 128; half the rate; corpus abc"
MADE = {
    said.teacher_forced(1, ABOUT): said.Forced(1, 0.0, said.ALL_TEXT, ABOUT),
    said.teacher_forced(3, ABOUT, temperature=0.7, text="code"): said.Forced(3, 0.7, "code", ABOUT),
    said.accuracy(2, ABOUT, text=said.KINDS[1]): said.Forced(2, None, said.KINDS[1], ABOUT),
    said.held_out(ABOUT): ABOUT,
    said.held_out(said.windowed(18, 16, 128, ABOUT)): f"18 files, 16 windows of 128 tokens of each; {ABOUT}",
    said.after(300, ABOUT): said.Learning(300, ABOUT),
    said.balance(4, ABOUT, bias=False): said.Balance(False, 4, ABOUT),
    said.in_generation(2, 8): said.Generated(2, 8),
    said.two_over_one(8, 4096): said.OfPart(2, 8, 4096, 0),
    said.two_over_one(1, 4096, said.ep_share(144)): said.OfPart(2, 1, 4096, 144),
    said.step_of(1, 32, 128, said.split(4)): said.OfPart(1, 32, 128, 0),
}
PARSERS = (
    said.parse_forced, said.parse_held_out, said.parse_learning, said.parse_balance, said.parse_generation,
    said.parse_part,
)  # fmt: skip


@pytest.mark.parametrize("convention", MADE)
def test_each_is_read_back_by_its_own_parser_alone(convention):
    assert [found for parser in PARSERS if (found := parser(convention)) is not None] == [MADE[convention]]


def test_the_words_are_those_agreed_on():
    assert said.teacher_forced(1, "x") == "teacher-forced; draft 1; temperature 0; all text; x"
    assert said.accuracy(1, "x") == "teacher-forced; draft 1; all text; x"
    assert said.after(100, "x") == "teacher-forced; draft 1; after 100 steps; x"
    assert said.balance(3, "x", bias=True) == "with bias; layer 3; x"
    assert said.in_generation(1, 2) == "in generation; draft 1; temperature 0; batch 2"
    share = said.ep_share(144)
    assert said.two_over_one(1, 4096, share) == "two tokens over one; batch 1; 4096 tokens of context; EP144 share"
    assert said.step_of(2, 1, 4096, said.split(1)) == "two tokens; batch 1; 4096 tokens of context"


def test_what_decoding_records_is_read_back():
    assert said.parse_batched(said.batched(said.TWO_TOKEN_STEP, 8)) == said.Batched("two-token step", 8)
    assert said.parse_batched(said.plain(1)) == said.Batched("plain", 1)
    assert said.parse_batched(said.generated(4)) == said.Batched("", 4)
    assert said.parse_batched(ABOUT) is None
    assert (said.parse_drafting(said.drafting(3, 8)), said.parse_drafting(said.plain(8))) == (3, 0)
    assert said.parse_drafting(said.generated(4)) is None


@pytest.mark.parametrize("text", ["", "teacher-forced", "teacher-forced; draft x; temperature 0; all text; a"])
def test_other_text_is_nobody_s(text):
    assert all(parser(text) is None for parser in PARSERS)
