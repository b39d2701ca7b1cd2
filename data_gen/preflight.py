"""What can be seen to be wrong before anything is paid for, without loading a model.

A run asks a language model first and renders after; what the pair stage would refuse then is
refused here. The stages check again, each for itself: they also run alone.
"""

from data_gen.judging.config import Thresholds
from data_gen.judging.loading import require_files
from data_gen.recipe import Recipe
from data_gen.runs.executors import Partition, executor_of
from data_gen.runs.units import require_not_imported
from inference.backbone import require_parts
from inference.clip import read_thresholds, require_clip
from inference.files import require_writable_folder


def require_ready(recipe: Recipe) -> None:
    """Require what the pair stage of a recipe will need.

    Raises:
        FileNotFoundError: A model's folder, or a file of it, is not there and cannot be fetched.
        OSError: The output folder cannot be written.
        ValueError: The output holds an import, the partition is none, Ray is not installed, or the
            thresholds are missing.
    """
    knobs = recipe.located().pairs
    require_writable_folder(recipe.output)
    require_not_imported(recipe.output)
    Partition.parse(recipe.partition)
    executor_of(recipe.executor)
    require_parts(knobs.model, knobs.vae)
    require_clip(knobs.clip)
    if knobs.filter.thresholds is None:
        Thresholds.of_checkpoint(read_thresholds(knobs.clip))
    require_files(knobs.scorers)
