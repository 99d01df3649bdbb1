"""What a run reports while it trains, to all who listen: its record, who watches, and its text log."""

from collections.abc import Mapping
from pathlib import Path

from vgpt.evaluation.loss import Evaluation
from vgpt.tracking.lines import LineFile
from vgpt.tracking.tracker import Tracker
from vgpt.training.checkpoints.checkpoint import TrainingState
from vgpt.training.checkpoints.saver import Saved
from vgpt.training.display import Display, Progress


class Reporter:
    """Reports each event of a run to its tracker, its display and its text log.

    Args:
        tracker: keeps the record; `NoTracker` in all processes but the main one.
        display: shows the run to whoever watches.
        log_file: of the text log, or None for none.
    """

    def __init__(self, tracker: Tracker, display: Display, log_file: Path | None) -> None:
        self.tracker = tracker
        self.display = display
        # A file that holds its lines in memory while the disk is full: no text is worth a run.
        self._text_log = None if log_file is None else LineFile(log_file)

    def start(self, title: str, steps: int, done: int) -> None:
        """Begin to show the run: `done` of `steps` are behind it."""
        self.display.start(title, steps, done)

    def notify(self, message: str) -> None:
        """Show one thing worth reading, and keep it in the text log."""
        self.display.notify(message)
        self._write(message)

    def advance(self, step: int) -> None:
        """Report that `step` steps are done; called after every one."""
        self.display.advance(step)

    def interval(self, state: TrainingState, progress: Progress, figures: Mapping[str, float]) -> None:
        """Report a log interval; `figures` are those that only the record keeps, by their names in the schema."""
        self.tracker.log(
            {"train/loss": progress.loss, "train/grad_norm": progress.grad_norm, "train/lr": progress.lr, **figures},
            step=state.step,
            tokens=state.tokens,
            seconds=state.seconds,
        )
        self.display.log(progress)
        self._write(
            f"step {state.step} loss {progress.loss:.6f} norm {progress.grad_norm:.4f} lr {progress.lr:.3e} "
            f"tok/s {progress.tokens_per_second:.0f} batches {state.batch_hash}"
        )

    def evaluated(self, state: TrainingState, result: Evaluation, *, best: bool) -> None:
        """Report an evaluation; `best` is whether none of the run had a lower loss."""
        self.tracker.log(result.metrics(), step=state.step, tokens=state.tokens, seconds=state.seconds)
        self.display.evaluated(state.step, result.loss, best)
        self._write(
            f"step {state.step} val_loss {result.loss:.6f} se {result.loss_se:.6f} bits/byte {result.bits_per_byte:.6f}"
        )

    def bad_step(self, step: int, norm: float, *, batches: str, in_a_row: int) -> None:
        """Report an update that was left out because its gradient was not finite."""
        self.tracker.event("bad_step", step=step, grad_norm=str(norm), batches=batches)
        self.notify(f"step {step}: the gradient norm is {norm}; this update is left out ({in_a_row} in a row)")

    def saved(self, saved: Saved) -> None:
        """Report how a save ended."""
        if saved.path is not None:
            self.tracker.event("checkpoint", step=saved.step, path=saved.path.name)
            if saved.error:
                self.notify(f"checkpoint of step {saved.step} saved, but not named as last or best: {saved.error}")
        else:
            self.tracker.event("checkpoint_failed", step=saved.step, error=saved.error)
            self.notify(f"checkpoint of step {saved.step} NOT saved: {saved.error}; earlier ones are intact")

    def close_text_log(self) -> None:
        """Close the text log: training is over, for whatever reason."""
        if self._text_log is not None:
            self._text_log.close()

    def finish(self, status: str, summary: Mapping[str, float]) -> None:
        """End the display and the record, and show what the record has to note."""
        self.display.stop()
        for note in self.tracker.finish(status, summary):
            self.display.notify(note)

    def _write(self, line: str) -> None:
        if self._text_log is not None:
            self._text_log.write_text(line)
