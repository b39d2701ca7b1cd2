"""The command `fit`: Lightning's command line, and what is around a run.

Until a command line is parsed, nothing is imported beside Lightning, whose signatures it needs:
what is trained, and on what, comes by the functions of `signatures`.
"""

import functools
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from inference.command_line import ERROR, sentence
from inference.files import require_writable_folder
from inference.locks import owned
from inference.memory import keep_memory
from inference.model_names import pinned
from inference.recipe_parser import RecipeParser, one_sentence
from training import identity, signatures
from training.running.stopping import INTERRUPTED, TERMINATED
from training.trainer_options import DEFAULTS, require_sensible

_KNOWN_WARNINGS = (
    ".*LightningCLI's args parameter.*",  # names of recipes are replaced in it
    ".*does not have many workers.*",  # data.num_workers says so
    ".*module\\(s\\) in eval mode at the start.*",  # the average
    ".*isinstance\\(treespec, LeafSpec\\).*",  # between Lightning and torch
)


_EXPECTED = (ValueError, OSError, ModuleNotFoundError, MisconfigurationException)
_LESS_MEMORY = (
    "a smaller data.batch_size with as much more trainer.accumulate_grad_batches, "
    "model.speed.gradient_checkpointing true, trainer.precision bf16-mixed, "
    "model.optimizer.kind adamw_8bit or fewer data.num_workers"
)


class _Parser(RecipeParser, LightningArgumentParser):
    """Lightning's parser, guarded."""


class AlreadyDone(Exception):
    """The run in this folder has ended and its editor stands."""


class Diagnosed(Exception):
    """A recipe was looked at, which was all that was asked for."""


class TrainingCLI(LightningCLI):
    """The command line of a training run."""

    def __init__(self, *args: Any, held: ExitStack, **options: Any) -> None:
        """Run a command line.

        Args:
            args: As Lightning's.
            held: Lets go of the run's folder when it is closed.
            options: As Lightning's.
        """
        self._held = held
        super().__init__(*args, **options)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit` alone; editing and measuring belong to `inference`."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One folder for everything a run writes, one seed for everything it draws."""
        parser.add_argument("--output", type=Path, required=True, help="Folder of the run.")
        parser.add_lightning_class_args(signatures.progress, "progress")
        parser.add_lightning_class_args(signatures.held_out_edits, "held_out_edits")
        # Last: it looks at what the others found.
        parser.add_lightning_class_args(signatures.checkpoints, "checkpoints")
        parser.link_arguments("output", "trainer.default_root_dir", compute_fn=str)
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("model.base", "data.base")

    def before_instantiate_classes(self) -> None:
        """Go on from the folder's last checkpoint, and never unpickle objects from it.

        A checkpoint of another folder is where a new one begins; one of its own goes before the
        last.

        Raises:
            ValueError: An option is out of its range, or the folder holds another run.
            Occupied: Another process is at work in the folder.
            OSError: The folder cannot be written.
            AlreadyDone: The run has ended before.
        """
        options = self.config["fit"]
        try:
            require_sensible(options["trainer"])
        except ValueError as error:
            self.parser.error(str(error), error)
        from training.running import checkpoints  # and with it all that trains

        _quieten()
        options["weights_only"] = True
        base = Path(pinned(options["model"]["base"]))
        options["model"]["base"] = options["data"]["base"] = base
        folder, given = Path(options["output"]), options["ckpt_path"]
        begins = given is None or not Path(given).resolve().is_relative_to(folder.resolve())
        if begins and checkpoints.found(folder):
            self._require_unfinished(folder)
        rank_zero_only(self._own)(folder)  # the ranks of a run are one owner
        if begins and checkpoints.found(folder):
            options["ckpt_path"] = str(checkpoints.newest_undamaged(folder))
        rank_zero_only(identity.record)(folder, self._identity, base)

    def _own(self, folder: Path) -> None:
        """Hold the run's folder to the end."""
        require_writable_folder(folder)
        self._held.enter_context(owned(folder))

    def _require_unfinished(self, folder: Path) -> None:
        """Require that the run in a folder is this very one, and has not ended."""
        if changed := identity.changed(folder, self._identity):
            raise ValueError(
                f"{folder} holds a run with another {', '.join(changed)}: choose another output "
                "folder, or delete this one to start anew"
            )
        steps = self.config["fit"]["trainer"]["max_steps"]
        if (folder / "model").is_dir() and identity.exported_step(folder) == steps:
            raise AlreadyDone(f"already done: {steps:,} steps; the editor is in {folder / 'model'}")

    @functools.cached_property
    def _identity(self) -> identity.Identity:
        return identity.identify(self.config["fit"].as_dict())

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Log to CSV and to TensorBoard unless the recipe names loggers of its own.

        Raises:
            ValueError: The accelerator has no such devices.
        """
        output, options = self.config["fit"]["output"], self.config_init["fit"]["trainer"]
        if options["logger"] is None:
            options["logger"] = [
                CSVLogger(output, name="logs", flush_logs_every_n_steps=1),
                TensorBoardLogger(output, name="tensorboard"),
            ]
        try:
            return super().instantiate_trainer(**kwargs)
        except TypeError as error:  # what Lightning makes of devices that there are not
            found = f"devices {options['devices']!r} on accelerator {options['accelerator']!r}"
            raise ValueError(f"trainer: {found}: {error}") from error

    def before_fit(self) -> None:
        """On a CPU, where a step's tensors come from the C library, let it keep their memory."""
        keep_memory(self.trainer.strategy.root_device)

    def after_fit(self) -> None:
        """Export the averaged weights; also where a run was killed after its last step."""
        from training.running.export import export

        self.model.put_together()
        if self.trainer.is_global_zero:
            folder, step = Path(self.config["fit"]["output"]), self.trainer.global_step
            export(self.model, folder, recipe=self.config["fit"].as_dict(), steps=step)
            base = self.config["fit"]["model"]["base"]
            identity.record(folder, self._identity, base, exported_step=step)
            early = "" if step == self.trainer.max_steps else f" of {self.trainer.max_steps:,}"
            print(f"{step:,}{early} steps done; the editor is in {folder / 'model'}")


class DoctorCLI(TrainingCLI):
    """The same command line, whose recipe is looked at and not run."""

    def before_instantiate_classes(self) -> None:
        """Tell all that the recipe lacks here.

        Raises:
            NotReady: It lacks something.
            Diagnosed: It lacks nothing.
        """
        from inference import readiness
        from training.doctor import diagnose

        options = self.config["fit"].as_dict()
        readiness.report(diagnose(options), f"the recipe of {options['output']}")
        raise Diagnosed


def fit(line: Sequence[str], prog: str) -> None:
    """Run a command line that begins with `fit`, or with `doctor`, of the program `prog`.

    Raises:
        SystemExit: What the user is to mend was told in one sentence, or the run was interrupted.
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for known in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", known)
    try:
        with ExitStack() as held:
            is_doctor = line[:1] == ["doctor"]
            kind = DoctorCLI if is_doctor else TrainingCLI
            kind(
                signatures.editor_training,
                signatures.pair_data,
                args=["fit", *line[1:]] if is_doctor else list(line),
                parser_kwargs={"prog": prog},
                parser_class=_Parser,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=dict(DEFAULTS),
                held=held,
            )
    except AlreadyDone as done:
        print(done)
    except Diagnosed:
        return
    except SIGTERMException as error:  # Lightning's, for a signal before the first step: exits 0
        raise SystemExit(TERMINATED) from error
    except (KeyboardInterrupt, SystemExit) as ending:
        # Lightning turns a Ctrl-C before the first step into exit code 1.
        if not isinstance(ending, KeyboardInterrupt) and not isinstance(
            ending.__context__, KeyboardInterrupt
        ):
            raise
        sys.stderr.write("interrupted\n")
        raise SystemExit(INTERRUPTED) from ending
    except Exception as error:
        if (said := sentence(error, _LESS_MEMORY, _EXPECTED)) is None:
            raise
        # Lightning's own and jsonargparse's run over several lines; ours may be a list.
        is_foreign = isinstance(error, MisconfigurationException) or "class_path" in said
        sys.stderr.write(f"error: {one_sentence(said) if is_foreign else said}\n")
        raise SystemExit(ERROR) from error
    finally:
        signal.signal(signal.SIGINT, on_interrupt)


def _quieten() -> None:
    """Leave the libraries' own progress bars out."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
