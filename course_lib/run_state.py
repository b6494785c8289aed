"""What a training run needs to go on after an interruption: saved by orbax after each epoch."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import jax

from course_lib import CourseError, one_line


class RunState:
    """A folder that holds the newest whole epoch of one run: arrays, history, and what the run was started with."""

    def __init__(self, folder: Path, fingerprint: dict):
        """`fingerprint` tells runs apart: model, settings and data. JSON values only."""
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs each step of each save
        self.folder, self.fingerprint, self._ocp = Path(folder).absolute(), fingerprint, ocp

    def save(self, state: dict, history: list[dict]) -> None:
        """Write the state after the last epoch of `history`. The epoch before is removed once this one is complete."""
        about = {"fingerprint": self.fingerprint, "history": history}
        args = self._ocp.args
        needed = sum(array.nbytes for array in jax.tree.leaves(state))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < 1.1 * needed:  # asked first: on a full disk orbax fails with hundreds of lines of its own
                raise CourseError(
                    f"{self.folder}: the state of the run needs {needed / 2**20:.0f} MiB and {free / 2**20:.0f} MiB "
                    "are free; make room, then the same command with --resume goes on after the last saved epoch"
                )
            with self._manager() as manager:
                manager.save(
                    len(history), args=args.Composite(state=args.StandardSave(state), about=args.JsonSave(about))
                )
        except (OSError, ValueError) as error:
            raise CourseError(f"{self.folder}: could not save the state of the run ({error})") from error

    def restore(self, like: dict) -> tuple[dict, list[dict]]:
        """The saved state, with the tree, shapes, dtypes and devices of `like`, and the history; `like` and [] if none.

        Raises CourseError where the folder holds a run of another model, with other settings or other data, and where
        it cannot be read.
        """
        args = self._ocp.args
        try:
            with self._manager() as manager:
                epoch = manager.latest_step()
                if epoch is None:
                    return like, []
                about = manager.restore(epoch, args=args.Composite(about=args.JsonRestore()))["about"]
                self._refuse_another_run(about["fingerprint"])
                abstract = jax.tree.map(
                    lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), like
                )
                state = manager.restore(epoch, args=args.Composite(state=args.StandardRestore(abstract)))["state"]
                return state, about["history"]
        except CourseError:
            raise
        except Exception as error:  # a damaged file may be any: of orbax, of what it is built on, KeyError, OSError
            raise CourseError(
                f"{self.folder}: the saved state of the run cannot be read "
                f"({type(error).__name__}: {one_line(error)}); start again with --overwrite"
            ) from error

    def _refuse_another_run(self, stored: dict) -> None:
        different = [
            f"{name} was {stored.get(name)!r} and is {self.fingerprint.get(name)!r}"
            for name in {**self.fingerprint, **stored}
            if stored.get(name) != self.fingerprint.get(name)
        ]
        if different:
            raise CourseError(
                f"{self.folder} holds another run: {'; '.join(different)}. Use the same settings, or --overwrite"
            )

    def _manager(self):
        options = self._ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
        return self._ocp.CheckpointManager(self.folder, options=options)
