"""What all configs have in common that stand for a class elsewhere.

A `…Config` is a dataclass of options in a file that imports neither torch nor diffusers, so that
help and wrong options are answered at once; the class that acts on them is imported once it does.
"""

import importlib
from typing import Any, ClassVar


class Config:
    """Options of another class, which is a dataclass of the same fields and perhaps some more.

    Attributes:
        of: Where that class is, as `module:Class`.
    """

    of: ClassVar[str] = ""

    def build(self, **more: Any) -> Any:
        """Make one of that class, and of those that stand in the fields; one is itself.

        Args:
            more: Fields that the options do not have.

        Raises:
            ValueError: As the class does; or these are the options of no class in particular.
        """
        if not self.of:
            raise ValueError(f"{type(self).__name__} is of no class; expected one of its kinds")
        module, name = self.of.split(":")
        kind = getattr(importlib.import_module(module), name)
        if isinstance(self, kind):
            return self
        options = {
            field: value.build() if isinstance(value, Config) else value
            for field, value in vars(self).items()
        }
        return kind(**options, **more)
