"""Orbax checkpoints of a training run's state."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from qsnet_jax import UserError


def open_manager(directory: pathlib.Path, keep: int = 3, read_only: bool = False) -> ocp.CheckpointManager:
    """Checkpoints under `directory`: the latest `keep` and the best by the metric 'psnr', written asynchronously.

    One that was being written when the process died is not listed and is removed at the next start.
    """
    policy = checkpoint_managers.AnyPreservationPolicy(
        [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(get_metric_fn=_psnr, n=1, keep_checkpoints_without_metrics=False),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        best_fn=_psnr,
        preservation_policy=None if read_only else policy,
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
    )
    return ocp.CheckpointManager(directory.resolve(), options=options)


def _psnr(metrics: dict[str, float]) -> float:
    """What 'best' means; a checkpoint saved without a validation is never the best."""
    return metrics.get('psnr', -1.0)


def save(manager: ocp.CheckpointManager, step: int, state: Any, psnr: float | None = None) -> None:
    """Starts to write `state` as checkpoint `step`; `manager.wait_until_finished` returns when it is on disk."""
    metrics = {} if psnr is None else {'psnr': psnr}
    manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)


def restore(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """The state saved as `step`, with the shapes, types and shardings of `like`."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return manager.restore(step, args=ocp.args.StandardRestore(abstract))


def find_step(manager: ocp.CheckpointManager, which: str) -> int:
    """Step of the checkpoint called 'latest' or 'best', or of a number as text. Raises UserError where it is absent."""
    steps = sorted(manager.all_steps())
    if not steps:
        raise UserError(f'No checkpoint under {manager.directory}. Train first (--mode=train) or name --workdir.')
    if which == 'latest':
        return steps[-1]
    if which == 'best':
        best = manager.best_step()
        return steps[-1] if best is None else best
    if which.isdecimal() and int(which) in steps:
        return int(which)
    raise UserError(f"--checkpoint={which} is not there; there are 'latest', 'best' and the steps {steps}.")
