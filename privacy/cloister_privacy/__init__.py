"""Secure aggregation and differential privacy: pure protocols, bytes in and decisions out.

Layout
------
The protocol of one round (Bonawitz et al. 2017, against a malicious server):

- ``client``        a member's side
- ``server``        the coordinator's side
- ``terms``         what all members must have been told alike, and its digest
- ``floors``        what a device insists on
- ``statements``    the words that are signed and committed to
- ``certificate``   identities, by an offline authority
- ``errors``        what can go wrong, and whose fault it is

What it is made of:

- ``envelope``      what every certificate has the same, and its signature
- ``agreement``     X25519, HKDF, sealing of shares
- ``keystream``     masks and other secret randomness
- ``field``, ``shamir``  secrets in shares
- ``graph``, ``parameters``  who shares with whom, and how many shares bring a secret back
- ``encoding``, ``packing``, ``counters``  updates, row counts and metrics as integers
- ``cost``          what a round costs a member, in bytes

Differential privacy:

- ``clipping``      a norm that follows a quantile of the updates'
- ``noise``         from a cryptographic generator
- ``accounting``    what rounds cost, in epsilon
"""
