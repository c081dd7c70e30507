"""Passes over the graph and over the program, each on its own.

Layout
------
- ``deduplicate``   graph: one node for each distinct computation
- ``gather_sums``   graph: a sum of products over time steps becomes one product
- ``prune``         program: kernels nobody needs are left out
- ``fold``          program: updates and sums go into the products that feed them
- ``fuse``          program: loops over one domain become one loop
- ``reuse``         program: an elementwise kernel writes over what it read last
- ``schedule``      program: what frees memory runs as early as it may
- ``roll``          calls: repeated sequences become loops
"""
