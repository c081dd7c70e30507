"""The `cloister` command."""

from cloister.commands.app import app


def main() -> None:
    """Run the command line and exit with one of `cloister.commands.exit_code`."""
    app(prog_name="cloister")


if __name__ == "__main__":
    main()
