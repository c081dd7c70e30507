"""The command line: each command is one file, named as it is typed.

Layout
------
- ``app``            the `cloister` command and what belongs to all commands
- ``exit_code``      what each exit code means
- ``failure``        from any error to a message and an exit code, in one table
- ``connection``     the options that say which coordinator is meant
- ``metric``         how a metric is shown; ``hyperparameters``: the options that set them
- ``beginning``      the options that say which values a task begins with; ``inputs``: which
  columns are which input
- ``protection``     the options that protect a job's updates
- ``service``        log and end of a long-running command
- ``output``         what goes to standard output, and what to standard error
- ``coordinator``    `cloister coordinator`
- ``client``         `cloister client` (``client_sample``: the TOML that --init writes)
- ``job``            `cloister job ...` (``job_submit``, ``job_watch`` with ``round_lines``,
  ``job_model``; ``job_view``: how all of it is shown)
- ``task``           `cloister task ...` (``task_build``, ``task_compile``, ``task_inspect``,
  ``task_run``, ``task_sign``)
- ``op``             `cloister op ...` (``op_list``, ``op_run``)
- ``pki``            `cloister pki ...` (``pki_init``, ``pki_sign``, ``pki_list``; ``pki_folder``:
  where an authority keeps its key and what it issued)
- ``privacy``        `cloister privacy ...` (``privacy_plan``, ``privacy_budget``)
- ``simulate``       `cloister simulate`

Command modules import nothing heavy at their top, so that `--help` and completion are quick and
work without any extra.
"""
