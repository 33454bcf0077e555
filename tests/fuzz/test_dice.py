"""The random numbers of a campaign: the same on every machine."""

from __future__ import annotations

from harness.fuzz.dice import Dice


def test_a_sequence_is_pinned() -> None:
    dice = Dice(7, 1234)

    assert [dice.below(1000) for _ in range(4)] == [706, 753, 99, 443]
    assert Dice(7, 1234).bits(64) == 0xB4D8_4F4F_C104_7396
    assert Dice(8, 1234).bits(64) != Dice(7, 1234).bits(64) != Dice(7, 1235).bits(64)


def test_numbers_stay_in_their_range() -> None:
    dice = Dice(1, 1)

    assert {dice.below(3) for _ in range(200)} == {0, 1, 2}
    assert {dice.pick("abc") for _ in range(200)} == set("abc")
    assert not any(dice.chance(0.0) for _ in range(200))
    assert all(dice.chance(1.0) for _ in range(200))
    either = [dice.bits(64) for _ in range(300)]
    both = 0
    for value in either:
        assert 0 <= value < 1 << 64
        both |= value
    assert both == (1 << 64) - 1, "every bit comes up"
    assert all(dice.bits(5) < 32 for _ in range(200))
