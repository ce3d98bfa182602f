"""`python3 -m vadpipe exec script.py …` runs a script, and lists the files that it opens, for vadpipe.

vadpipe does this for every Python program without it. Python started with `-I`, `-E` or `-S` ignores that, and then
needs this. All other arguments go to the program: `python3 -m vadpipe run p.toml`.
"""

import os
import runpy
import sys


def _list_files() -> None:
    """Loads the module that lists files, if Python has not loaded it at its start."""
    was_loaded = not (sys.flags.isolated or sys.flags.ignore_environment or sys.flags.no_site)
    if "VADPIPE_DEPFILE" not in os.environ or was_loaded:
        return
    folder = os.environ.get("PYTHONPATH", "").split(os.pathsep)[0]
    path = os.path.join(folder, "sitecustomize.py")
    if folder and os.path.exists(path):
        runpy.run_path(path)


def main() -> None:
    """Runs a script, or the program `vadpipe`."""
    arguments = sys.argv[1:]
    if arguments[:1] != ["exec"]:
        from ._results import program

        path = program()
        os.execv(path, [path, *arguments])
    if len(arguments) < 2:
        sys.exit("usage: python3 -m vadpipe exec SCRIPT [ARGUMENT]…")
    _list_files()
    script = arguments[1]
    sys.argv = arguments[1:]
    if not os.path.isfile(script):
        sys.exit(f"vadpipe: there is no script {script}")
    # As Python does, so that the script imports the modules beside it. `python3 -m` has put the current folder first.
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
