"""Models that compile, from logistic regression to a GPT, each with the papers it comes from.

Every factory returns what :func:`cloister_tasks.compiler.compile` takes as keyword arguments, so
``compile(**ZOO["lenet5"]())`` is a task and ``cloister task compile
cloister_tasks.compiler.zoo:lenet5`` writes one. All take ``batch``, the rows of the example, and
``smooth``, which replaces activations with a kink by smooth ones, so that two implementations of
a gradient differ by rounding alone. The same call gives the same numbers, whatever ran before.

Layout
------
- ``example``    what all factories share: fixed random numbers, activations
- ``dense``      regression, perceptrons, low-rank adaptation, matrix factorisation
- ``digits``     convolutional networks for small grey images
- ``images``     residual, mobile and U-shaped networks for colour images
- ``sequences``  recurrent networks, Transformers and dilated convolutions over time
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cloister_tasks.compiler.zoo.dense import (
    logistic_regression,
    lora,
    matrix_factorisation,
    mlp,
    mlp_deep,
)
from cloister_tasks.compiler.zoo.digits import cnn_dropout, lenet5, lenet5_tanh, mcmahan_cnn
from cloister_tasks.compiler.zoo.example import Factory
from cloister_tasks.compiler.zoo.images import (
    gn_cnn,
    mobilenetv1_224,
    mobilenetv2,
    resnet18_bn,
    resnet18_gn,
    unet,
)
from cloister_tasks.compiler.zoo.sequences import (
    dilated_cnn,
    gpt,
    gru,
    lstm,
    transformer,
    transformer_encoder_layer,
)

ZOO: Mapping[str, Factory] = MappingProxyType(
    {
        factory.__name__: factory
        for factory in (
            logistic_regression,
            mlp,
            mlp_deep,
            lora,
            matrix_factorisation,
            lenet5,
            lenet5_tanh,
            mcmahan_cnn,
            cnn_dropout,
            gn_cnn,
            resnet18_gn,
            resnet18_bn,
            mobilenetv2,
            mobilenetv1_224,
            unet,
            gru,
            lstm,
            transformer,
            transformer_encoder_layer,
            gpt,
            dilated_cnn,
        )
    }
)
"""Every factory by its name."""

__all__ = [
    "ZOO",
    "Factory",
    "cnn_dropout",
    "dilated_cnn",
    "gn_cnn",
    "gpt",
    "gru",
    "lenet5",
    "lenet5_tanh",
    "logistic_regression",
    "lora",
    "lstm",
    "matrix_factorisation",
    "mcmahan_cnn",
    "mlp",
    "mlp_deep",
    "mobilenetv1_224",
    "mobilenetv2",
    "resnet18_bn",
    "resnet18_gn",
    "transformer",
    "transformer_encoder_layer",
    "unet",
]
