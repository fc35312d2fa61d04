"""The demonstrations in the prompts of a whole Self-Instruct run: 6 human and 2 machine tasks."""

from __future__ import annotations

from collections import Counter

from selfinstruct.engine.run_state import RunState
from tests.property.test_scheduler import plan, reply


def test_prompts_show_six_human_and_two_machine_tasks_once_there_are_machine_tasks() -> None:
    the_plan = plan("self-instruct", lag=256, n=300)
    available: dict[int, int] = {}
    state = RunState(the_plan, 300)
    shown: Counter[tuple[int, int]] = Counter()
    human = {seed.id for seed in the_plan.seeds}
    while not state.done:
        for number, request in state.scheduler.open.items():
            if number not in available and request.stage == "instructions":
                available[number] = len(state.scheduler.pool.tasks)
                demonstrations = request.demonstrations
                from_seeds = sum(name in human for name in demonstrations)
                machine = len(demonstrations) - from_seeds
                shown[from_seeds, machine] += 1
                assert len(set(demonstrations)) == 8
                assert machine == min(2, available[number]), "as many machine tasks as there are, up to two"
        number = state.scheduler.decided
        state.receive(number, reply(state.scheduler.open[number]))
    total = sum(shown.values())
    share = sum(machine * count for (_, machine), count in shown.items()) / (8 * total)
    print(f"{len(state.rows)} rows, {total} prompts; (human, machine) shown: {dict(shown)}; machine share {share:.1%}")
    assert shown[8, 0] == 8, "the first window is proposed before anything is accepted"
    assert shown[6, 2] == total - 8 - shown[7, 1]
