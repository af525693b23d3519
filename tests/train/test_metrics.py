import io
import json

from rich.console import Console
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format that the reader below parses)

from biomedgpt_jax.train.metrics import jsonl_writer, tensorboard_writer, terminal_writer


def _steps(file):
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_jsonl_holds_each_step_once_after_a_resume(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with jsonl_writer(file, restored_step=None) as write:
        write([{"step": step, "loss": 1 / 3} for step in range(1, 8)])
    with open(file, "a") as stream:
        stream.write('{"step": 3, "lo')  # torn by a kill
    with jsonl_writer(file, restored_step=5) as write:
        assert _steps(file) == [1, 2, 3, 4, 5]
        write([{"step": 6, "loss": 2.0}])
    assert _steps(file) == [1, 2, 3, 4, 5, 6]
    assert json.loads(file.read_text().splitlines()[0])["loss"] == 1 / 3  # every bit of the number
    with jsonl_writer(file, restored_step=None):
        assert _steps(file) == []


def _events(folder):
    """Scalars of all event files in order: (step, tag, value), purged ones left out."""
    scalars = []
    for file in sorted(folder.glob("events.*")):
        data, place = file.read_bytes(), 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            if event.HasField("session_log"):
                scalars = [scalar for scalar in scalars if scalar[0] < event.step]
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return scalars


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    with tensorboard_writer(tmp_path, restored_step=None) as write:
        write([{"step": step, "loss": float(step)} for step in (1, 2, 3)])
    with tensorboard_writer(tmp_path, restored_step=1) as write:
        write([{"step": 2, "loss": 20.0}])
    assert _events(tmp_path) == [(1, "loss", 1.0), (2, "loss", 20.0)]


def test_terminal_prints_plain_lines_where_there_is_no_terminal():
    text = io.StringIO()
    with terminal_writer(
        total_steps=10, restored_step=4, console=Console(file=text, force_terminal=False, width=200)
    ) as write:
        write([{"step": 5, "loss": 1.0}, {"step": 6, "loss": 0.5, "tokens_per_second": 12345.0}])
        write([{"step": 6, "heldout/loss": 0.25}])
    lines = [line for line in text.getvalue().splitlines() if line.strip()]
    assert lines[0].startswith("step 6/10  loss 0.5000  12,345 tokens/s") and lines[0].endswith("left")
    assert lines[1].startswith("step 6/10  heldout/loss 0.25")
    assert len(lines) == 2
