"""The claims as data: complete, consistent, and every typo told in one line."""

import re

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import claims, derivations, metrics
from v3bench.suite.ledger.verdict import accepts
from v3bench.suite.meter.measurement import AREAS

LEDGER = claims.load()


def test_the_ledger_holds_well_over_a_hundred_claims():
    assert len(LEDGER) > 250
    assert len({claim.id for claim in LEDGER}) == len(LEDGER)


@pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: claim.id)
def test_every_claim_can_be_tested(claim):
    low, high = accepts(claim)
    assert low < high
    assert claim.area in AREAS
    assert re.fullmatch(r"[a-z0-9-]+", claim.id)
    assert claim.id.startswith(claim.area.replace("_", "-"))
    assert claim.statement.endswith(".")
    if claim.decides.basis == "measured":
        assert claim.needs
    elif not claim.needs:
        assert any(decides(claim, evidence) for evidence in claim.evidence), "nothing can decide it"


def decides(claim, evidence):
    if evidence.derivation:
        derivation = derivations.load()[evidence.derivation]
        variant = derivation.variants[evidence.variant].label if evidence.variant else ""
        return derivation.basis == claim.decides.basis and claim.decides.convention in (
            "",
            evidence.convention or variant,
        )
    return evidence.pick is not None and evidence.pick.basis == claim.decides.basis


def test_the_printed_text_holds_the_printed_number():
    """The number in the file is the number in the text as printed, digit by digit, wherever the text has just one."""
    for claim in LEDGER:
        number = claim.published.number
        found = re.findall(r"\d[\d,]*\.?\d*", claim.published.printed)
        if claim.published.read_as is None and len(found) == 1 and not isinstance(number, tuple):
            assert float(found[0].replace(",", "").rstrip(".")) == pytest.approx(number), claim.id


@pytest.mark.parametrize(
    "name, digit",
    [
        ("kv-cache-deepseek-v3", 0.001),
        ("tpot-ib", 0.01),
        ("tpot-ib-rate", 1),
        ("deployment-tokens-per-day-mpft", 0.01),
        ("deployment-1f1b-mrft", 0.01),
    ],
)
def test_the_last_printed_digit_is_kept(name, digit):
    assert claims.read(name).published.last_digit == pytest.approx(digit)


def test_a_published_value_as_an_input_elsewhere():
    value, unit, source = claims.published("deployment-step-time-mpft")
    assert (value, unit, source.document) == (19.926, "s", "isca")
    with pytest.raises(BadInput, match="prints a range"):
        claims.published("mtp-acceptance-isca")


TYPOS = [
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        'convention = "bf16", stronger',
        'convention = "bf61", stronger',
        "convention 'bf61'",
        "one of bf16",
    ),
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        'subject = "deepseek-v3"',
        'subject = "deepsek-v3"',
        "subject 'deepsek-v3'",
        "deepseek-v3",
    ),
    ("kv_cache.toml", "kv-cache-deepseek-v3", 'place = "Table 1"', 'place = ""', "no place", "section, table"),
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        'statement = "DeepSeek-V3',
        'statment = "DeepSeek-V3',
        "key 'statment'",
        "statement",
    ),
    ("kv_cache.toml", "kv-cache-deepseek-v3", 'test = "equal"', 'test = "equals"', "value 'equals'", "equal"),
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        'derivation = "kv-mla"',
        'derivation = "kv-mlaa"',
        "derivation 'kv-mlaa'",
        "kv-mla",
    ),
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        'step = "per_token"',
        'step = "per_tokens"',
        "step 'per_tokens'",
        "per_token",
    ),
    (
        "kv_cache.toml",
        "kv-cache-qwen2-5-72b",
        'variant = "qwen2-5-72b"',
        'variant = "qwen2-72b"',
        "variant 'qwen2-72b'",
        "qwen2-5-72b",
    ),
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        'metric = "kv_bytes_per_token"',
        'metric = "kv_bytes"',
        "metric 'kv_bytes'",
        "kv_bytes_per_token",
    ),
    ("kv_cache.toml", "kv-cache-deepseek-v3", 'basis = "counted"', 'basis = "count"', "value 'count'", "counted"),
    ("kv_cache.toml", "kv-cache-deepseek-v3", 'unit = "kB"', 'unit = "GFLOP"', "its unit is 'B'", "in GFLOP"),
    ("kv_cache.toml", "kv-cache-deepseek-v3", 'unit = "kB"', 'unit = "kiB"', "unit 'kiB'", "such as B"),
    ("kv_cache.toml", "kv-cache-deepseek-v3", "value = 70.272", 'value = "70.272"', "is a phrase", "read_as"),
    ("kv_cache.toml", "kv-cache-deepseek-v3", "value = 70.272", "value = true", "is no number", "a number"),
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        "value = 70.272",
        "value = [70, 71]",
        "test equal does not fit",
        "between",
    ),
    ("kv_cache.toml", "kv-cache-deepseek-v3", 'document = "isca"', 'document = "icsa"', "document 'icsa'", "isca"),
    (
        "kv_cache.toml",
        "kv-cache-deepseek-v3",
        "decides = {",
        "tolerance = 0.1\ndecides = {",
        "test equal and tolerance",
        "none for the others",
    ),
    ("kv_cache.toml", "kv-cache-deepseek-v3", 'printed = "70.272 KB"', 'printed = ""', "is empty", ""),
    (
        "mtp.toml",
        "mtp-acceptance-isca",
        'needs = "the released 671B weights"\n',
        "",
        "lacks 'needs'",
        "what a measurement would take",
    ),
    ("mtp.toml", "mtp-acceptance-isca", "value = [80, 90]", "value = [90, 80]", "upside down", "[low, high]"),
    ("mtp.toml", "mtp-acceptance-isca", "value = [80, 90]", "value = 85", "test between does not fit", "another test"),
    (
        "mtp.toml",
        "mtp-acceptance-isca",
        'claim = "mtp-acceptance-report"',
        'claim = "mtp-report"',
        "claim 'mtp-report'",
        "mtp-",
    ),
    ("mtp.toml", "mtp-speed-up", "tolerance = 0.05\n", "tolerance = 5\n", "tolerance is 5", "between 0 and 1"),
    ("mtp.toml", "mtp-speed-up", "tolerance = 0.05\n", 'tolerance = "5%"\n', "is '5%'", "a number"),
    ("mtp.toml", "mtp-speed-up", 'interval = ["low", "high"]', 'interval = ["low"]', "names not two steps", "low step"),
    ("mtp.toml", "mtp-depth", "[mtp-depth]", "[depth]", "does not begin with its area", "mtp-"),
    ("mtp.toml", "mtp-depth", "[mtp-depth]", "[mtp-depth]\nid = 3", "is not written out", "name"),
    ("mtp.toml", "mtp-depth", '{ basis = "formula" }', '{ basis = "published" }', "value 'published'", "formula"),
    ("mtp.toml", "mtp-depth", "[mtp-depth]", "[mtp-2.5]", "2", "is"),
]


@pytest.mark.parametrize("name, claim, old, new, what, right", TYPOS)
def test_a_typo_is_one_clear_line(spoiled, name, claim, old, new, what, right):
    folder = spoiled("claims", name)
    path = folder / name
    text = (claims.FOLDER / name).read_text(encoding="utf-8")
    head, tail = text.split(f"[{claim}]", 1)
    body = f"[{claim}]" + tail
    assert old in body
    path.write_text(head + body.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        claims.load(folder)
    line = str(caught.value)
    assert name in line
    assert what in line
    assert right in line
    assert "\n" not in line


def test_an_id_given_twice_names_both_files(spoiled):
    text = (claims.FOLDER / "mtp.toml").read_text(encoding="utf-8")
    folder = spoiled("claims", "mtp.toml")
    (folder / "mtp.more.toml").write_text(
        "[mtp-depth]" + text.split("[mtp-depth]")[1].split("\n[")[0], encoding="utf-8"
    )
    with pytest.raises(BadInput, match=r"mtp\.toml: mtp-depth: is defined twice, here and in mtp\.more\.toml"):
        claims.load(folder)


def test_a_file_of_no_area(spoiled):
    folder = spoiled("claims", "mtp.toml")
    (folder / "mtp.toml").rename(folder / "mpt.toml")
    with pytest.raises(BadInput, match=r"mpt\.toml: area 'mpt' is unknown; expected one of mtp"):
        claims.load(folder)


def test_every_metric_is_whole():
    for name, metric in metrics.load().items():
        assert metric.factor > 0, name
        assert metric.meaning.endswith("."), name
        assert metric.show, name
