"""Reading data files strictly: each wrong key or value is one line that says what would be right."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.data import choose, located, read_toml, record, tables


@dataclass(frozen=True, kw_only=True)
class Inner:
    x: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    share: float | None = None
    pair: tuple[str, str, str] = ("", "", "")
    many: tuple[Inner, ...] = ()
    table: dict[str, Inner] | None = None
    yes: bool = False


def test_a_table_becomes_a_record():
    raw = {
        "name": "n",
        "kind": "b",
        "share": Decimal("0.5"),
        "pair": ["1", "2", "3"],
        "many": [{"x": 1}],
        "table": {"k": {"x": 2}},
    }
    assert record(Outer, raw, "here") == Outer(
        name="n", kind="b", share=0.5, pair=("1", "2", "3"), many=(Inner(x=1),), table={"k": Inner(x=2)}
    )


@pytest.mark.parametrize(
    "raw, line",
    [
        ({}, "here: lacks 'name'"),
        ("text", "here: is 'text'; expected a table"),
        ({"name": 1}, "here: name: is 1; expected text"),
        ({"name": "n", "knd": "a"}, "here: key 'knd' is unknown; expected one of kind"),
        ({"name": "n", "kind": "c"}, "here: kind: value 'c' is unknown; expected one of a, b"),
        ({"name": "n", "share": "half"}, "here: share: is 'half'; expected a number"),
        ({"name": "n", "share": True}, "here: share: is True; expected a number"),
        ({"name": "n", "pair": ["1", "2"]}, "here: pair: has 2 parts; expected 3"),
        ({"name": "n", "pair": "123"}, "here: pair: is '123'; expected a list"),
        ({"name": "n", "many": [{"x": 1}, {"x": "1"}]}, "here: many[1]: x: is '1'; expected an integer"),
        ({"name": "n", "table": {"k": {"y": 2}}}, "here: table.k: key 'y' is unknown; expected one of x"),
        ({"name": "n", "yes": 1}, "here: yes: is 1; expected true or false"),
    ],
)
def test_what_is_wrong_is_one_line(raw, line):
    with pytest.raises(BadInput) as caught:
        record(Outer, raw, "here")
    assert str(caught.value) == line


def test_the_nearest_names_are_offered():
    with pytest.raises(BadInput, match="expected one of deepseek-v3"):
        choose("deepseek-v33", ["llama", "deepseek-v3", "qwen"], "model", "here")


def test_an_error_is_given_its_place():
    with pytest.raises(BadInput, match=r"^there: x; expected y$"), located("there"):
        raise BadInput("x", where="here", right="y")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_bytes(b"x = '\xff'")
    with pytest.raises(BadInput, match="is not TOML"):
        tables(tmp_path)
    (tmp_path / "a.toml").write_text("x = 1\nx = 2", encoding="utf-8")
    with pytest.raises(BadInput, match=r"a\.toml: is not TOML: Cannot overwrite a value"):
        read_toml(tmp_path / "a.toml")
