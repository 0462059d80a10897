"""Threads that run models at the same time compute what each would alone, bit for bit."""

import threading

import pytest
import torch

import lite
from lite.tests.test_many import PAIRS, trace
from lite.tests.toys import CONFIGS, adapted, attach, each_config, inputs, net, snapshot

TIMES = 10


def together(*works):
    """What each work gives, TIMES times in a thread of its own; all start at once."""
    gate, results, errors = threading.Barrier(len(works)), [[] for _ in works], []

    def run(work, result):
        try:
            gate.wait(timeout=60)
            result.extend(work() for _ in range(TIMES))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each) for each in zip(works, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return results


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_on_two_models(one, other):
    x, models = inputs(), [adapted(CONFIGS[name](r=2)) for name in (one, other)]
    alone = [trace(model, x) for model in models]
    works = [lambda model=model: trace(model, x) for model in models]
    assert together(*works) == [[expected] * TIMES for expected in alone]


@each_config
def test_on_one_model(make):
    """Each thread has an input of its own; one runs without gradients."""
    model, xs = adapted(make(r=2)), [inputs(seed=seed) for seed in range(3)]
    alone = [trace(model, x) for x in xs]

    def output():
        with torch.no_grad():
            return model(xs[0])

    expected = output()
    outputs, *traces = together(output, *(lambda x=x: trace(model, x) for x in xs))
    assert traces == [[each] * TIMES for each in alone]
    assert all(torch.equal(y, expected) and not y.requires_grad for y in outputs)


@each_config
def test_attaching_and_loading_while_another_model_runs(make, tmp_path):
    x, config = inputs(), make(r=2)
    running, changing = adapted(config), net()
    lite.save(running, tmp_path / "file")
    before, alone = snapshot(changing), trace(running, x)

    def change():
        attach(changing, config)
        lite.detach(changing)
        found = trace(lite.load(changing, tmp_path / "file"), x)
        lite.detach(changing)
        return found

    traces, changes = together(lambda: trace(running, x), change)
    assert traces == changes == [alone] * TIMES
    assert snapshot(changing) == before
