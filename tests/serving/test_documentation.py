"""docs/serving.md has every limit, with its default, and every code of an error."""

import re
from dataclasses import fields

from repository import ROOT

from mlx_simul.serving.options import ServingLimits

PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")


def flags_of_limits():
    rows = re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)
    return {
        flag: default.replace(",", "")
        for row in rows
        for flag, default in re.findall(r"`--([\w-]+)` \(([^)]*)\)", row)
    }


def test_the_table_of_limits_has_the_defaults():
    defaults = {item.name.replace("_", "-"): item.default for item in fields(ServingLimits)}
    assert flags_of_limits().keys() == defaults.keys()
    words = {"memory-mb": "half of the machine's", "max-words-per-s": "none"}
    for flag, said in flags_of_limits().items():
        assert said == words.get(flag) or float(said) == defaults[flag], flag


def test_every_code_of_an_error_is_on_the_page():
    sources = [path.read_text("utf-8") for path in (ROOT / "mlx_simul" / "serving").glob("*.py")]
    made = r'(?:(?:ProtocolError|refuse)\(\s*|return )"([a-z_]+)",'
    codes = {code for text in sources for code in re.findall(made, text)}
    assert len(codes) > 20  # else the expression finds nothing any more
    assert sorted(code for code in codes if f"`{code}`" not in PAGE) == []
