"""One colour and one order for arms throughout the book."""

import pytest

from cotlib.arms import Arm
from cotlib.pages import theme


def contrast(one, other):
    def luminance(colour):
        shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_an_arm_has_the_colour_of_its_type_in_every_paradigm_and_variant():
    assert {theme.colour(f"evil-{paradigm}") for paradigm in ("QTA", "QT", "T")} == {theme.colour("shuffled-evil-T")}
    assert theme.colour("evil-QTA@segment") == theme.colour("evil-QTA@25%") == theme.colour("evil-QT")
    assert len({theme.colour(arm) for arm in ("evil-T", "misleading-T", "submissive-T", "neutral-T", "QA")}) == 5


def test_every_arm_has_a_colour_and_a_place_and_base_comes_first():
    names = list(Arm.names())
    assert all(theme.colour(name).startswith("#") for name in names)
    assert theme.order(reversed(names)) == theme.order(names)
    assert theme.order(["neutral-T", "evil-QTA@segment", "safe-QA", "evil-QT", "base", "evil-QTA", "QA"]) == [
        "base", "QA", "safe-QA", "evil-QTA", "evil-QTA@segment", "evil-QT", "neutral-T",
    ]  # fmt: skip


@pytest.mark.parametrize("tint", [*theme.palette().values(), *theme.VERDICT_COLOURS.values()])
def test_text_on_a_colour_can_be_read(tint):
    assert contrast(tint, theme.text_on(tint)) >= 4
