"""metrics.jsonl and TensorBoard, and the clock of the training itself (no compilation, no validation)."""

import json
import math
import pathlib
import time

import jax
import numpy as np
import tensorboardX

from qsnet_jax import UserError, storage


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
            self._events = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'), purge_step=start + 1)

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
                f'{" and ".join(bad)} not finite between steps {step - len(steps) + 1} and {step}. The last checkpoint '
                'is from before. Lower --config.train.learning_rate, or look for broken images.'
            )
        means['learning_rate'] = float(steps[-1]['learning_rate'])
        means |= {'images_per_second': batch * len(steps) / seconds, 'seconds': round(self.elapsed, 3)}
        self._write(step, 'train', means)
        return {'loss': f'{means["total"]:.4f}', 'psnr': f'{means["psnr"]:.2f}'}

    def validated(self, step: int, scores: dict[str, float]) -> float:
        """Writes the PSNR of every set that was watched and returns their mean; the clock starts again."""
        psnr = sum(scores.values()) / len(scores)
        by_set = {f'validation_psnr/{name}': score for name, score in scores.items()} if len(scores) > 1 else {}
        self._write(step, 'validation', {'validation_psnr': psnr, **by_set, 'seconds': round(self.elapsed, 3)})
        self.resume_clock()
        return psnr

    def close(self) -> None:
        """Flushes TensorBoard's queue."""
        if self._is_writer:
            self._events.close()

    def _write(self, step: int, group: str, values: dict[str, float]) -> None:
        if not self._is_writer:
            return
        with self._path.open('a') as file:
            file.write(json.dumps({'step': step, **values}) + '\n')
        for name, value in values.items():
            self._events.add_scalar(f'{group}/{name}', value, step)


def lines_up_to(path: pathlib.Path, step: int) -> list[dict[str, float]]:
    """Lines of metrics.jsonl that a run going on from `step` keeps; what a kill or a bad drive left is dropped."""
    if not path.exists():
        if step:
            print(f'{path} is missing: what the first {step} steps logged is lost, and the clock starts at 0')
        return []
    lines, lost = storage.read_json_lines(path)
    good = [
        line for line in lines if isinstance(line.get('step'), int) and isinstance(line.get('seconds'), int | float)
    ]
    lost += len(lines) - len(good)
    if lost > 1:  # one is what a kill leaves
        print(f'{path}: {lost} lines cannot be read and are dropped')
    return [line for line in good if line['step'] <= step]
