"""metrics.jsonl and TensorBoard, and the clock of the training itself (no compilation, validation or saving)."""

import contextlib
import json
import math
import os
import pathlib
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from qsnet_jax import UserError, spelling, storage

_hides = 'torch' not in sys.modules  # which tensorboardX would load, for seconds
if _hides:
    sys.modules['torch'] = None  # type: ignore[assignment]
try:
    from tensorboardX import record_writer, summary
    from tensorboardX.proto import event_pb2
finally:
    if _hides:
        del sys.modules['torch']


class Diverged(UserError):
    """A loss or gradient that is not finite."""


class Log:
    """What a run says of its steps, from the step on that it goes on from."""

    def __init__(self, workdir: pathlib.Path, start: int):
        self._is_writer = jax.process_index() == 0
        self._pending: list[dict[str, jax.Array]] = []
        self._path = workdir / 'metrics.jsonl'
        lines = lines_up_to(self._path, start)
        self.elapsed = lines[-1]['seconds'] if lines else 0.0
        self._mark = 0.0
        if self._is_writer:
            storage.write_bytes(self._path, ''.join(json.dumps(line) + '\n' for line in lines).encode())
            self._events = Events(workdir / 'tensorboard', start + 1)

    def resume_clock(self) -> None:
        """Time counts from now on."""
        self._mark = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Keeps one step's scalars, still on the device, for the next flush; waits for the step before."""
        if self._pending:  # the device always has a next step to do, and the host never runs farther ahead
            jax.block_until_ready(self._pending[-1])
        self._pending.append(metrics)

    def flush(self, step: int, batch: int) -> dict[str, str]:
        """Writes the means since the last flush; returns what the progress bar shows. Raises Diverged for NaN."""
        steps = jax.device_get(self._pending)
        means = {name: float(np.mean([metrics[name] for metrics in steps])) for name in steps[0]}
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        self.elapsed += seconds
        self._pending = []
        bad = [name for name in ('total', 'gradient_norm') if not math.isfinite(means[name])]
        if bad:
            raise Diverged(
                f'{" and ".join(bad)} not finite between steps {step - len(steps) + 1} and {step}. Checkpoints are '
                'from before. Lower --config.train.learning_rate, or look for broken images.'
            )
        means['learning_rate'] = float(steps[-1]['learning_rate'])
        means |= {'images_per_second': batch * len(steps) / seconds, 'seconds': round(self.elapsed, 3)}
        self._write(step, 'train', means)
        return {'loss': f'{means["total"]:.4f}', 'psnr': f'{means["psnr"]:.2f}'}

    def validated(self, step: int, scores: dict[str, float | None]) -> float | None:
        """Writes the PSNR of every set that was watched and returns the mean of those that have one.

        None where none has, so that no checkpoint is the best by it.
        """
        held = [score for score in scores.values() if score is not None]
        psnr = sum(held) / len(held) if held else None
        by_set = {f'validation_psnr/{name}': score for name, score in scores.items()} if len(scores) > 1 else {}
        self._write(step, 'validation', {'validation_psnr': psnr, **by_set, 'seconds': round(self.elapsed, 3)})
        return psnr

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._is_writer:
            self._events.close()

    def _write(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """One line, and its points for TensorBoard; what is not finite is null there and no point."""
        if not self._is_writer:
            return
        held = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        with self._path.open('a') as file:
            file.write(json.dumps({'step': step, **dict.fromkeys(values), **held}, allow_nan=False) + '\n')
        self._events.add(step, {f'{group}/{name}': value for name, value in held.items()})


class Events:
    """A file of scalars for TensorBoard, which then forgets what other files say of the steps from `start` on.

    Written where it is called, for tensorboardX's writer has a thread, and waits for ever where that died of a full
    drive.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        folder.mkdir(exist_ok=True)
        name = f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}'
        self._file = record_writer.RecordWriter(str(folder / name))
        try:
            self._put(file_version='brain.Event:2')
            self._put(step=start, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
            self._file.flush()
        except OSError:
            self.close()
            raise

    def add(self, step: int, values: dict[str, float]) -> None:
        """Writes values by their tags. Raises OSError where the drive takes nothing."""
        for tag, value in values.items():
            self._put(step=step, summary=summary.scalar(tag, value))
        self._file.flush()

    def close(self) -> None:
        """All that could be written is."""
        with contextlib.suppress(OSError):  # of what `add` has raised before
            self._file.close()

    def _put(self, **fields: Any) -> None:
        self._file.write(event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())


def lines_up_to(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl that a run going on from `step` keeps; what a kill or a bad drive left is dropped."""
    if not path.exists():
        if step:
            missing = f'{path} is missing: what the first {step} steps logged is lost, and the clock starts at 0'
            print(spelling.shown(missing))
        return []
    lines, lost = storage.read_json_lines(path)
    good = [
        line for line in lines if isinstance(line.get('step'), int) and isinstance(line.get('seconds'), int | float)
    ]
    lost += len(lines) - len(good)
    if lost > 1:  # one is what a kill leaves
        print(spelling.shown(f'{path}: {lost} lines cannot be read and are dropped'))
    return [line for line in good if line['step'] <= step]
