"""What surrounds the steps of a run: checkpoints, progress, held-out edits, and what it leaves."""
