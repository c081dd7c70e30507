"""The TOML that `cloister client --init` writes."""

SAMPLE = """\
# A cloister client: which coordinator it works for, which data it offers, what it allows.
# Lines behind "#" show what else can be set. Paths start at the folder of this file.
# Check it with:  cloister client {file} --check

[client]
# For people, in the coordinator's list of clients.
name = "{name}"
# Identity key, caches and the audit log; each client has its own.
state_dir = "{name}-state"
# Operators can select clients by tags.
# tags = ["berlin", "ward-7"]
# MiB of downloaded tasks kept on disk.
# cache_mb = 1024

[coordinator]
address = "127.0.0.1:8470"
# Certificates to check the coordinator's; needed beyond this machine unless they are public ones.
# ca = "ca.pem"
# This client's own certificate, where the coordinator asks for one.
# certificate = "client.pem"
# key = "client-key.pem"
# The shared secret, where the coordinator asks for one.
# join_token_file = "join.token"

# One section for each dataset; jobs can ask for one by the name behind "data.".
[data.local]
# A CSV (first row names the columns), NPZ or Parquet file.
path = "data.csv"
# Columns of numbers, in this order; also patterns such as "pixel_*".
features = "all others"
# Column of class numbers from 0. For a regression: target = "price".
label = "label"
# Columns of a task's inputs of other names.
# inputs = {{ user = "user_id", tokens = "token_*" }}
# Features become x * scale + offset; one number, or one for each feature.
# scale = 0.0625
# offset = 0.0
# Value for empty cells; left out, they are an error.
# missing = 0.0
# Share of the rows kept from training, to evaluate models on.
evaluation_fraction = 0.2

[policy]
# Which tasks may run here: those signed by these publishers (`cloister task keygen` prints a key),
# publishers = ["<64 hexadecimal digits>"]
# ... or single ones by digest (`cloister task inspect` prints it),
# digests = ["<64 hexadecimal digits>"]
# ... or any. The sandbox holds all of them; still, know whose tasks you run.
any_task = true
# MiB of memory a task may have.
memory_mb = 256
# Wall seconds of training and evaluation in one round.
seconds_per_round = 600
# Seconds of all rounds in one UTC day.
# seconds_per_day = 3600
# MiB that all jobs together may keep here between rounds, such as personal layers.
# local_mb = 256
# Longest update that leaves, as an L2 norm; a longer one is scaled down.
# clip_norm = 1.0

# Updates leave masked, so that only their sum over many devices is seen.
# [secure_aggregation]
# What the authority made for everybody, and for the key that `cloister client --identity` prints.
# authority = "authority.pem"
# certificate = "identity.crt"
# Whether jobs without secure aggregation are declined.
# required = true
# Fewest members a sum may be over.
# minimum_cohort = 3
# Share of the members that may collude with the coordinator without learning anything.
# corrupt_fraction = 0.0
# Accept cohorts where each member shares secrets with some others only.
# ring = false
# Least noise that members add to the sum themselves, in clipping norms.
# noise_multiplier = 0.0
"""
