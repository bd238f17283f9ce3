from __future__ import annotations

from scripts.bench.fan_out_ratios import Costs, Key, growth, ratios

COSTS: Costs = {
    Key("ours", 100, 300, "single"): [2.0, 4.0],
    Key("ours", 100, 300, "burst"): [1.0],
    Key("ours", 200, 300, "single"): [3.0, 4.0],
    Key("bare", 100, 300, "single"): [1.0, 4.0],
    Key("bare", 200, 300, "single"): [1.5, 1.0],
    Key("other", 200, 300, "single"): [6.0, 8.0],
}


def test_ratios_are_of_the_same_round_beside_all_others() -> None:
    assert ratios(COSTS, "single", ("ours",), ("bare", "other", "absent")) == {
        "ours, 200 of 300 B": {"of bare": [2.0, 4.0], "of other": [0.5, 0.5]}
    }
    assert list(ratios(COSTS, "single", ("ours",), ("bare",))) == ["ours, 100 of 300 B", "ours, 200 of 300 B"]


def test_there_are_no_ratios_without_others() -> None:
    assert ratios(COSTS, "burst", ("ours",), ("bare",)) == {}


def test_growth_is_the_most_over_the_least() -> None:
    assert growth(COSTS, 100, 200, "bare") == {
        "ours, 300 B": {"single, 100 → 200": [1.5, 1.0], "single, over bare": [1.0, 4.0]},
        "bare, 300 B": {"single, 100 → 200": [1.5, 0.25]},
    }
    assert growth(COSTS, 100, 100, "bare") == {}
