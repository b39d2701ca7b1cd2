"""No loader of a library runs code, asks, unpickles or fetches: the source itself is read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "AutoPipelineForText2Image",
    "create_model_and_transforms",
    "create_model_from_pretrained",
    "from_single_file",
    "hf_hub_download",
    "transformers.pipeline",
    "torch.hub",
    "yaml.load",
    "yaml.unsafe_load",
}
"""Calls that nothing here has need of."""
NEEDED = {
    "torch.load": {"weights_only": True},
    "open_clip.create_model": {"weights_only": True, "require_pretrained": True},
    "HFTokenizer": {"trust_remote_code": False, "local_files_only": True},
}


# diffusers' models and schedulers have no such option, as they never run a folder's code; what is
# of them goes by this name in `inference.loading`.
DIFFUSERS = "diffusers_kind"


def faults_of(source: str, name: str) -> Iterator[str]:
    """Yield each call of a loader that lacks what makes it safe."""
    tree = ast.parse(source)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        where = f"{name}:{call.lineno}: {called}"
        if called in FORBIDDEN or called.endswith(".from_single_file"):
            yield f"{where} is not called"
        needed: dict[str, bool] = dict(NEEDED.get(called, {}))
        if called.endswith(".from_pretrained"):
            needed["local_files_only"] = True
            if not called.startswith(f"{DIFFUSERS}."):
                needed["trust_remote_code"] = False
        for option, value in needed.items():
            if given.get(option, "nothing") is not value:
                yield f"{where} does not say {option}={value}"
        if given.get("allow_pickle") is True or given.get("trust_remote_code") is True:
            yield f"{where} would run what it reads"


def test_every_loader_says_that_it_runs_nothing_and_fetches_nothing() -> None:
    faults: list[str] = []
    loaders = 0
    for folder in ("inference", "data_gen", "training", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            loaders += source.count(".from_pretrained(")
            faults += faults_of(source, path.relative_to(ROOT).as_posix())
    assert loaders >= 4
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "AutoModel.from_pretrained(folder, local_files_only=True)",
        "AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=None)",
        "CLIPTokenizer.from_pretrained(folder, trust_remote_code=False)",
        "UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "open_clip.create_model(name)",
        "yaml.load(text, Loader)",
        "kind.from_single_file(path)",
    ],
)
def test_a_loader_that_does_not_is_found(line: str) -> None:
    assert list(faults_of(line, "x.py"))
