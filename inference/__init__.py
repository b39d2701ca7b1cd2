"""Run pretrained diffusion models: load them, sample, edit, measure.

Importing this package, as `data_gen` and `training` do, also repairs one frequent installation: see
`torchvision_guard`.
"""

from inference import torchvision_guard
from inference.interrupts import end_quietly

end_quietly()
torchvision_guard.install()
