"""The table of operators: importing this package fills :data:`~..lower.OPERATORS`.

Layout
------
- ``pointwise``    one C expression an element: arithmetic, comparisons, functions
- ``views``        the same elements seen otherwise: no kernel at all
- ``creation``     constants, ranges, random numbers
- ``reductions``   sums, extremes and the like over dimensions
- ``indexing``     embeddings, gather, scatter: indices from data, checked before use
- ``products``     matrix products and convolutions, on the kernels in C
- ``recurrent``    LSTM and GRU layers, on the kernels in C
- ``pooling``      windows over images, on the kernels in C
"""

from cloister_tasks.compiler.operators import (
    creation,
    indexing,
    pointwise,
    pooling,
    products,
    recurrent,
    reductions,
    views,
)

__all__ = [
    "creation",
    "indexing",
    "pointwise",
    "pooling",
    "products",
    "recurrent",
    "reductions",
    "views",
]
