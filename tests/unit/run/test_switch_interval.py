import sys

from broker.run.switch_interval import SWITCH_INTERVAL, short_switch_interval


def test_the_interval_is_short_inside_and_as_it_was_outside() -> None:
    before = sys.getswitchinterval()
    with short_switch_interval():
        assert abs(sys.getswitchinterval() - SWITCH_INTERVAL) < 1e-6
    assert sys.getswitchinterval() == before
    assert before > 10 * SWITCH_INTERVAL, "what the process has without the block"
