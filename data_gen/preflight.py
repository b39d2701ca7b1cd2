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
from inference.clip import fetch_clip, read_thresholds, require_clip
from inference.files import require_writable_folder


def require_ready(recipe: Recipe) -> Recipe:
    """Require what the pair stage of a recipe will need; what costs least to see comes first.

    Returns:
        The recipe, every model by its folder; those of the hub are fetched.

    Raises:
        FileNotFoundError: A model's folder, or a file of it, is not there and cannot be fetched.
        OSError: The output folder cannot be written.
        ValueError: The output holds an import, the partition is none, Ray is not installed, or the
            thresholds are missing.
    """
    require_writable_folder(recipe.output)
    require_not_imported(recipe.output)
    Partition.parse(recipe.partition)
    executor_of(recipe.executor)
    recipe = recipe.located()
    knobs = recipe.pairs
    require_parts(knobs.model, knobs.vae)
    require_clip(knobs.clip)
    if knobs.filter.thresholds is None:
        Thresholds.of_checkpoint(read_thresholds(knobs.clip))
    fetch_clip(knobs.clip)
    require_files(knobs.scorers)
    return recipe
