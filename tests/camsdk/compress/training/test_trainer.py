"""The training loop: what it learns, that it repeats itself, and that nothing can stop it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from camsdk.compress.options import DistillOptions, TrainOptions
from camsdk.compress.training.checkpoint import state_digest
from camsdk.compress.training.optimizers import Optimizer
from camsdk.compress.training.trainer import Progress, learning_rate, train
from camsdk.errors import Conflict, DataCorrupted, InvalidInput
from support import training_child
from support.rounding import Rounding
from support.training_child import network, task

OPTIONS = TrainOptions(epochs=2, batch_size=16, learning_rate=0.1)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def digest(module: nn.Module) -> str:
    return state_digest(module.state_dict())


def test_it_learns() -> None:
    net, learned = network(), task(400)
    before = learned.metric(net)
    done = train(net, learned, None, replace(OPTIONS, epochs=6))
    assert done.module is net
    assert learned.metric(net) > max(0.9, before)
    assert len(done.history) == 6
    assert done.history[-1] < done.history[0] / 2
    assert not net.training


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    results = [digest(train(network(), task(), None, replace(OPTIONS, seed=seed)).module)
               for seed in (3, 3, 4)]  # fmt: skip
    assert results[0] == results[1] != results[2]


def test_what_the_caller_draws_at_random_is_not_touched_and_does_not_matter() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    first = digest(train(_seeded(5), task(), None, OPTIONS).module)
    second = digest(train(_seeded(5, drawn=17), task(), None, OPTIONS).module)
    assert first == second
    torch.manual_seed(5)
    net = network()
    torch.manual_seed(5)
    train(net, task(), None, OPTIONS)
    assert torch.equal(torch.rand(1), expected)


def _seeded(seed: int, drawn: int = 0) -> nn.Module:
    net = network(seed)
    torch.rand(drawn)
    return net


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    options = TrainOptions(learning_rate=0.5, warm_up=0.1)
    rates = [learning_rate(step / 1000, options) for step in range(1001)]
    assert rates[100] == max(rates) == 0.5
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert 0 < rates[0] < 0.1
    assert rates[-1] < 1e-9


def test_norms_and_biases_do_not_decay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=True), nn.BatchNorm2d(4))
    with torch.no_grad():
        net[0].bias.fill_(1.0)
        net[0].weight.fill_(1.0)

    class NoGradient:
        """All that moves the weights is their decay."""

        def __len__(self) -> int:
            return 16

        def digest(self) -> str:
            return ""

        def batch(self, indices: Tensor, generator: object) -> tuple[Tensor, ...]:
            return (torch.zeros(len(indices), 1, 5, 5),)

        def loss(self, outputs: Tensor, batch: object) -> Tensor:
            return outputs.sum() * 0

        def metric(self, module: nn.Module) -> float:
            return 0.0

    train(net, NoGradient(), None, TrainOptions(epochs=4, batch_size=8, weight_decay=0.5))
    assert float(net[0].weight.detach().max()) < 1.0
    assert torch.equal(net[0].bias.detach(), torch.ones(4))
    assert torch.equal(net[1].weight.detach(), torch.ones(4))


def test_progress_counts_every_step() -> None:
    seen: list[Progress] = []
    train(network(), task(), None, replace(OPTIONS, epochs=1.5), on_progress=seen.append)
    assert [p.step for p in seen] == list(range(1, 10))
    assert {p.steps for p in seen} == {9}
    assert [p.epoch for p in seen] == [0] * 6 + [1] * 3
    assert seen[-1].remaining_s == 0.0 < seen[0].remaining_s


def test_a_method_is_asked_in_order_and_finished_once() -> None:
    asked: list[str] = []

    class Watched(Rounding):
        def attach(self, module: nn.Module, example: Tensor) -> None:
            asked.append(f"attach {tuple(example.shape)}")
            super().attach(module, example)

        def after_backward(self, progress: float) -> None:
            asked.append(f"gradients {progress:g}")
            super().after_backward(progress)

        def after_step(self, progress: float) -> None:
            asked.append(f"stepped {progress:g}")
            super().after_step(progress)

        def finish(self) -> None:
            asked.append("finish")
            super().finish()

    train(network(), task(32), Watched(), replace(OPTIONS, epochs=1))
    assert asked == [
        "attach (16, 1, 12, 12)",
        "gradients 0", "stepped 0.5",
        "gradients 0.5", "stepped 1",
        "finish",
    ]  # fmt: skip


def test_extragradient_steps_from_where_it_was_with_the_gradient_from_ahead() -> None:
    """One plain step on w^2 / 2: w - r (w - r w)."""

    class Square:
        def __len__(self) -> int:
            return 1

        def digest(self) -> str:
            return ""

        def batch(self, indices: Tensor, generator: object) -> tuple[Tensor, ...]:
            return (torch.ones(1, 1),)

        def loss(self, outputs: Tensor, batch: object) -> Tensor:
            return outputs.square().sum() / 2

        def metric(self, module: nn.Module) -> float:
            return 0.0

    class Nothing(Rounding):
        def attach(self, module: nn.Module, example: Tensor) -> None:
            pass

    for extra, expected in ((False, 1 - 0.4), (True, 1 - 0.4 * (1 - 0.4))):
        net = nn.Linear(1, 1, bias=False)
        nn.init.ones_(net.weight)
        options = TrainOptions(epochs=1, learning_rate=0.4, momentum=0, weight_decay=0, warm_up=0)
        train(net, Square(), Nothing(extra=extra), options)
        assert float(net.weight.detach()) == pytest.approx(expected)


def test_a_loss_that_is_no_number_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="learning rate below 1e"):
        train(network(), task(), None, replace(OPTIONS, learning_rate=1e30))


def test_nothing_to_train_on_is_refused() -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

    with pytest.raises(InvalidInput, match="nothing to train on"):
        train(network(), Empty(), None, OPTIONS)  # type: ignore[arg-type] # only its length counts


def test_distillation_brings_the_student_to_the_teacher() -> None:
    teacher, learned = network(7), task(400)
    train(teacher, learned, None, replace(OPTIONS, epochs=6))
    state = digest(teacher)

    class Unlabelled(type(learned)):
        def loss(self, outputs: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
            return outputs.sum() * 0

    images = task(400)
    images.__class__ = Unlabelled
    student = network(8)
    train(student, images, None, replace(OPTIONS, epochs=6), teacher=teacher,
          distill=DistillOptions())  # fmt: skip
    assert learned.metric(student) > 0.9
    assert digest(teacher) == state


# --- what happens when it is stopped


class _Stop(Exception):
    pass


def _stopped_at(step: int):
    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise _Stop

    return stop


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_goes_on_from_its_checkpoint_to_the_same_bits(
    optimizer: Optimizer, tmp_path: Path
) -> None:
    whole = training_child.run(None, optimizer=optimizer)
    path = tmp_path / "training.ckpt"
    for step in (1, 9, 10):
        with pytest.raises(_Stop):
            training_child.run(path, on_progress=_stopped_at(step), optimizer=optimizer)
    resumed = training_child.run(path, optimizer=optimizer)
    assert digest(resumed.module) == digest(whole.module)
    assert resumed.history == whole.history
    again = training_child.run(path, optimizer=optimizer)
    assert digest(again.module) == digest(whole.module)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change", ["options", "data", "method", "network", "distillation", "optimizer"]
)
def test_a_checkpoint_of_another_training_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    options = replace(OPTIONS, epochs=1, checkpoint_every_s=0)
    train(network(), task(), Rounding(4), options, checkpoint=path)
    kept = path.read_bytes()
    given = {"module": network(), "task": task(), "method": Rounding(4), "options": options}
    given |= {
        "options": {"options": replace(options, learning_rate=0.2)},
        "data": {"task": task(seed=2)},
        "method": {"method": Rounding(3)},
        "network": {"module": network(1)},
        "distillation": {"distill": DistillOptions()},
        "optimizer": {"optimizer": "adam"},
    }[change]
    with pytest.raises(Conflict, match=f"{path}.*delete the file"):
        train(**given, checkpoint=path)
    assert path.read_bytes() == kept


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    training_child.run(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), b"", bytes(content[:100]), b"something else"):
        path.write_bytes(damaged)
        with pytest.raises(DataCorrupted, match="damaged"):
            training_child.run(path)


def test_ctrl_c_leaves_a_checkpoint_of_whole_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "training.ckpt"
    options = replace(training_child.OPTIONS, checkpoint_every_s=1000)

    def interrupt(progress: Progress) -> None:
        if progress.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    previous = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training_child.run(path, options, on_progress=interrupt)
    assert caplog.messages == ["stopping after this step; Ctrl-C once more stops at once"]
    assert signal.getsignal(signal.SIGINT) is previous
    seen: list[int] = []
    resumed = training_child.run(path, options, on_progress=lambda p: seen.append(p.step))
    assert seen[0] == 9
    assert digest(resumed.module) == digest(training_child.run(None, options).module)


@pytest.mark.slow
def test_a_training_that_is_killed_at_any_moment_ends_in_the_same_bits(tmp_path: Path) -> None:
    expected = digest(training_child.run(None).module)
    path = tmp_path / "training.ckpt"
    random = Random(0)
    command = [sys.executable, str(Path(training_child.__file__)), str(path)]
    for _ in range(3):  # 24 steps in all: every child is killed before it has finished
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(random.randint(1, 6)):
            assert child.stdout.readline().startswith("step")
        time.sleep(random.random() * 0.003)  # in the middle of a step, or of writing
        child.send_signal(signal.SIGKILL)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == expected
