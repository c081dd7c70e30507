"""A model version as PyTorch knows it: a state_dict in a file, or the user's module as ONNX.

Needs torch (`cloister[compile]`), and for ONNX the packages onnx and onnxscript too.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.errors import InvalidJob
from cloister.tensors import F32

if TYPE_CHECKING:
    import torch

_SHOWN = 6
"""Names listed in a message."""


def save_state_dict(path: Path, tensors: Mapping[str, F32]) -> None:
    """Write tensors by name so that `torch.load(path, weights_only=True)` gives a state_dict.

    All are float32; `load_state_dict` casts what a module keeps as integers.
    """
    import torch

    state = OrderedDict((name, torch.from_numpy(t.copy())) for name, t in tensors.items())
    torch.save(state, path)


def save_onnx(
    path: Path, factory: str, tensors: Mapping[str, F32], local: Collection[str] = ()
) -> list[str]:
    """Write the module that `factory` makes, with these tensors, as ONNX.

    Args:
        factory: "package.module:name" of a function without arguments that returns a mapping
            with `model` (an nn.Module) and `example` (inputs, target), as for
            `cloister task compile`.
        tensors: parameters and frozen parameters by name.
        local: names that stay on devices; they keep the values the factory gives them.

    Returns:
        The names that kept the factory's values.

    Raises InvalidJob: the factory is none, the tensors are not its model's, or a package is
    missing.
    """
    import torch

    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InvalidJob(
                "exporting ONNX needs two more packages: pip install onnx onnxscript"
            ) from error
    made = load_factory(factory)
    model: torch.nn.Module = made["model"]
    kept = restore(model, tensors, local)
    arguments, named = _arguments(made["example"])
    # the batch stays open wherever the model does not fix it
    shapes: Any = {name: _open_batch(value) for name, value in named.items()}
    if not named:
        shapes = tuple(_open_batch(value) for value in arguments)
    torch.onnx.export(
        model.eval(),
        arguments,
        path,
        kwargs=named or None,
        dynamo=True,
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    return kept


def load_factory(text: str) -> Mapping[str, Any]:
    """What the function "package.module:name" returns; modules in the current folder are found.

    Raises InvalidJob: there is no such function, it or its module fails, or it returns no mapping
    with model and example.
    """
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise InvalidJob(f"a model is named package.module:factory, not {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise InvalidJob(_fault(f"{module} cannot be imported", error)) from error
        raise InvalidJob(f"there is no module {error.name!r} to find {text!r} in") from error
    except Exception as error:
        raise InvalidJob(_fault(f"{module} cannot be imported", error)) from error
    if not callable(function):
        raise InvalidJob(f"{module} has no {name!r} to call")
    try:
        made = function()
    except Exception as error:
        raise InvalidJob(_fault(f"{text} fails", error)) from error
    if not isinstance(made, Mapping) or not {"model", "example"} <= set(made):
        raise InvalidJob(f"{text} must return a mapping with at least model and example")
    return made


def _fault(what: str, error: Exception) -> str:
    """What went wrong in the user's own code, and where."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<")
    ]
    own = [f for f in frames if "importlib" not in f.filename and "/torch/" not in f.filename]
    last = (own or frames)[-1:]
    where = "".join(f'\n  File "{f.filename}", line {f.lineno}\n    {f.line}' for f in last)
    return f"{what}: {type(error).__name__}: {error}{where}"


def restore(
    model: torch.nn.Module, tensors: Mapping[str, F32], local: Collection[str] = ()
) -> list[str]:
    """Give a module these values, cast to its own dtypes; the names of those that kept theirs.

    A tensor the module has under two names needs to be there once. Local tensors and integer
    buffers may be absent.

    Raises InvalidJob: a tensor is unknown, absent, or of another shape.
    """
    import torch

    own = model.state_dict(keep_vars=True)
    unknown = [name for name in tensors if name not in own]
    if unknown:
        raise InvalidJob(f"the model has no tensors {_names(unknown)}; it is another one's")
    for name, values in tensors.items():
        if tuple(own[name].shape) != values.shape and own[name].numel() != values.size:
            shape = tuple(own[name].shape)
            raise InvalidJob(f"{name} has the shape {values.shape}, but the model's has {shape}")
    given = {own[name].data_ptr() for name in tensors}
    absent = [n for n, t in own.items() if n not in tensors and t.data_ptr() not in given]
    missing = [n for n in absent if n not in local and own[n].is_floating_point()]
    if missing:
        raise InvalidJob(f"the model has tensors that the job has not: {_names(missing)}")
    with torch.no_grad():
        for name, values in tensors.items():
            own[name].copy_(torch.from_numpy(values.copy()).reshape(own[name].shape))
    return absent


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of `forward` from an example (inputs, target)."""
    inputs, _ = example
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})


def _open_batch(value: Any) -> Any:
    """The dynamic shape of one argument: its first dimension is the batch."""
    import torch

    return {0: torch.export.Dim.AUTO} if isinstance(value, torch.Tensor) and value.dim() else None


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    rest = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
