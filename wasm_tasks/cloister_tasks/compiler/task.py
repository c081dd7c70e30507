"""What the compiler makes of a model: the module, and the values that belong to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloister_protos import Role
from cloister_tasks.compiler.capture import Behaviour
from cloister_tasks.compiler.example_privacy import ExamplePrivacy
from cloister_tasks.compiler.ir import Program
from cloister_tasks.compiler.plan import Plan
from cloister_tasks.contract import Variant
from cloister_tasks.manifest import Manifest
from cloister_tasks.module import Module


@dataclass(frozen=True)
class Task:
    """A compiled task and the values that belong to it."""

    wasm: bytes
    """The module."""
    parameters: NDArray[np.float32]
    """f32[P]: the model as given, in manifest order."""
    frozen: NDArray[np.float32] | None
    """f32[F]: what is sent but never trained; None if there is nothing of the kind."""
    programs: Mapping[str, Program]
    """``train``, ``evaluate`` and ``predict`` as they were emitted; under example-level privacy
    ``train`` is of one row, and ``update`` of a batch."""
    plans: Mapping[str, Plan]
    """Their memory."""
    stages: Mapping[str, str]
    """The programs after each pass, as text; empty unless asked for."""
    source: str
    """The C file."""
    seconds: Mapping[str, float]
    """What each part of the compilation took."""
    behaviour: Behaviour
    """How the model treats the rows of a batch."""
    variant: Variant = "simd128"
    state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """The module's ``state_dict`` as it was compiled."""
    example_privacy: ExamplePrivacy | None = None
    """What bounds the influence of a single row; None: nothing does."""

    @cached_property
    def manifest(self) -> Manifest:
        """What the module says of itself."""
        return Module.parse(self.wasm).manifest

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena that the programs share."""
        return max(p.nbytes for p in self.plans.values())

    @property
    def lower_bound(self) -> int:
        """Bytes that no arena could do without."""
        return max(p.lower_bound for p in self.plans.values())

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Parameters and frozen parameters by name, as they were given."""
        found: dict[str, NDArray[np.float32]] = {}
        for role, block in (
            (Role.ROLE_PARAMETER, self.parameters),
            (Role.ROLE_FROZEN, self.frozen),
        ):
            at = 0
            for buffer in self.manifest.of(role):
                assert block is not None
                found[buffer.name] = block[at : at + buffer.size].reshape(buffer.shape)
                at += buffer.size
        return found

    def state_dict(
        self, model: NDArray[np.float32] | Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, Tensor]:
        """What ``load_state_dict(strict=True)`` of the torch module takes, for a model version.

        Args:
            model: f32[P] in manifest order, or tensors by name; by default as compiled. What is
                not in it (frozen and local tensors) is as compiled.

        Raises:
            ValueError: another task's model.
        """
        named: Mapping[str, NDArray[np.float32]]
        if isinstance(model, np.ndarray):
            buffers = self.manifest.of(Role.ROLE_PARAMETER)
            if model.size != self.parameters.size:
                raise ValueError(
                    f"the task has {self.parameters.size} parameters, not {model.size}"
                )
            parts = np.split(model.ravel(), np.cumsum([b.size for b in buffers])[:-1])
            named = {b.name: part for b, part in zip(buffers, parts, strict=True)}
        else:
            named = model or {}
        state = copy.deepcopy(dict(self.state))  # tensors under two names stay one
        for key, values in named.items():
            if key not in state or state[key].numel() != values.size:
                raise ValueError(f"the model has no tensor {key!r} of {values.size} elements")
            given = torch.from_numpy(np.array(values)).reshape(state[key].shape)
            state[key].copy_(given if state[key].is_floating_point() else given.round())
        return state
