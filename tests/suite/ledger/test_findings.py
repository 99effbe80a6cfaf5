"""Findings: their references hold, their words carry no number that the ledger does not give."""

import re

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import claims, findings


def test_every_disagreement_is_there():
    assert len(findings.load()) >= 13
    assert findings.load()[0].status == "inference"


def known(finding):
    """Every number a finding may print: its figures, and its claims' published values, ranges and statements."""
    values = [
        number for figure in finding.figures for number in (figure.worked.shown, figure.worked.value.quantity.value)
    ]
    words = [f"{figure.says} {figure.worked.filled}" for figure in finding.figures]
    for name in finding.claims:
        claim = claims.read(name)
        number = claim.published.number
        values += number if isinstance(number, tuple) else (number,)
        words += [claim.statement, claim.published.printed, claim.note]
    return values + [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", " ".join(words)) if n.strip(",.")]


@pytest.mark.parametrize("finding", findings.load(), ids=lambda finding: finding.name)
def test_the_words_carry_no_number_of_their_own(finding):
    statement = re.sub(r"72 L h\^2 \+ 6 V h|Table \d|" + findings.SLOT, "", finding.statement)
    for text in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", statement):
        number = float(text.replace(",", "").rstrip("."))
        digits = len(text.partition(".")[2])
        assert any(abs(value - number) <= 0.5 * 10**-digits * 1.001 for value in known(finding)), text


def test_a_statement_takes_its_numbers_from_its_figures():
    finding = next(one for one in findings.load() if one.name == "mtp-speed-up-depends-on-deployment")
    worked = {name: figure.worked.shown for name, figure in finding.named.items()}
    assert f"two tokens reads {worked['ep1_ratio']:.3g} x" in finding.said
    assert f"an acceptance of {worked['ep8_32']:.1f}% (EP8" in finding.said
    assert "{" in finding.statement
    assert "{" not in finding.said
    assert worked["ep144_32"] > 90, "or the words, that it takes more than most acceptances published, do not hold"
    assert worked["ep144_32_h800"] > 100 > worked["ep8_32_h800"], "or the words, more than there is, do not hold"
    assert worked["ep144_128_h800"] > 100
    assert worked["communication"] < 1, "or the words, that it slows generation down, do not hold"
    assert worked["split"] < 85


def test_no_acceptance_reaches_where_the_finding_says_so():
    finding = next(one for one in findings.load() if one.name == "mtp-speed-up-depends-on-deployment")
    said = {figure.says: figure.worked.shown for figure in finding.figures}
    assert said["acceptance needed, batch 1 on one GPU"] > 100
    assert said["acceptance needed, EP8, batch 8 a GPU"] > 100
    assert 80 < said["acceptance needed, EP32, batch 32 a GPU"] < 100


def test_a_statement_with_an_unknown_figure_is_one_clear_line(tmp_path):
    path = tmp_path / "findings.toml"
    figure = '{ says = "s", name = "a", derivation = "tpot-paper", step = "tpot" }'
    text = '[f]\ntitle = "t"\nstatement = "takes {b}"\nstatus = "sources"\nclaims = ["tpot-ib"]\n'
    path.write_text(f"{text}figures = [{figure}]\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"findings\.toml: f: figure 'b' is unknown"):
        findings.load(path)


def test_a_figure_is_worked_out_live():
    finding = next(one for one in findings.load() if one.name == "kv-multiple-is-7-34")
    assert finding.figures[0].text == "quotient of the two caches: 7.34426 x"


@pytest.mark.parametrize(
    "body, what",
    [
        ('claims = ["tpot-x"]', "claim 'tpot-x' is unknown"),
        ("claims = []", "names no claim"),
        ('claims = ["tpot-ib"]\nfigures = [{ says = "s", derivation = "tpot-paper", step = "tpto" }]', "step 'tpto'"),
        (
            'claims = ["tpot-ib"]\nfigures = [{ says = "s", derivation = "tpot-paper", step = "tpot", variant = "x" }]',
            "variant 'x'",
        ),
        ('claims = ["tpot-ib"]\nfigure = []', "key 'figure' is unknown; expected one of figures"),
    ],
)
def test_a_typo_is_one_clear_line(tmp_path, body, what):
    path = tmp_path / "findings.toml"
    path.write_text(f'[f]\ntitle = "t"\nstatement = "s"\nstatus = "sources"\n{body}\n', encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        findings.load(path)
    assert str(caught.value).startswith("findings.toml: f: ")
    assert what in str(caught.value)
