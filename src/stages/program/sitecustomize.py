"""Lists the files that a program opens, so that vadpipe runs the program again when one of them changes.

vadpipe puts this file on PYTHONPATH of every program that it runs. Python then imports it at its start. The paths go to
the file that VADPIPE_DEPFILE names, one a line. Files that are opened to be written go to the file with the same name
and `.written` at its end. Without VADPIPE_DEPFILE, and in Python before 3.8, nothing is listed.

Output to the log of the stage is written line by line, as on a terminal, so that `vadpipe log -f` shows it at once.
"""

import os
import stat
import sys

# The most files of a folder that are listed. After that, the folder is listed.
MANY = 200


def _list_files(listing):
    # Installed packages change with the environment, not with the project.
    ignored = [os.path.dirname(os.__file__) + os.sep, os.path.dirname(listing) + os.sep]
    if sys.prefix != sys.base_prefix:
        ignored.append(sys.prefix + os.sep)
    ignored = tuple(ignored)
    seen = set()
    counts = {}

    def source_of(path):
        """The source of a compiled module, which is not opened if the compiled one is up to date."""
        folder, name = os.path.split(path)
        if os.path.basename(folder) == "__pycache__" and name.endswith(".pyc"):
            return os.path.join(os.path.dirname(folder), name.partition(".")[0] + ".py")
        return path

    def note(path, flags):
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or path == "" or "\n" in path:
            return
        path = os.path.abspath(path)
        is_written = (flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC)) != 0
        if not is_written:
            path = source_of(path)
        if (path, is_written) in seen or path.startswith(ignored):
            return
        if not is_written:
            if os.path.isdir(path):
                return
            # A data set may have a million files, which each worker process opens.
            folder = os.path.dirname(path)
            if folder in seen:
                return
            counts[folder] = counts.get(folder, 0) + 1
            if counts[folder] > MANY:
                path = folder
                seen.add(folder)
        seen.add((path, is_written))
        # Opened for each line, because a program may close all its files.
        to_append = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        out = os.open(listing + ".written" if is_written else listing, to_append, 0o600)
        try:
            os.write(out, os.fsencode(path) + b"\n")
        finally:
            os.close(out)

    def hook(event, arguments):
        try:
            if event == "open":
                path, _, flags = arguments
                note(path, flags or 0)
            elif event == "import" and arguments[1] is not None:
                # A module in machine code.
                note(arguments[1], 0)
            elif event == "os.rename":
                # A file that is written under another name first.
                note(arguments[1], os.O_WRONLY)
        except Exception:
            # A listing that fails must not disturb the program.
            pass

    sys.addaudithook(hook)


def _write_lines():
    """Writes each line of standard output at once. Python would keep some kilobytes of what goes to a file."""
    try:
        if stat.S_ISREG(os.fstat(1).st_mode):
            sys.stdout.reconfigure(line_buffering=True)
    except Exception:
        pass


def _run_next():
    """Runs the `sitecustomize` that Python would have found without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("VADPIPE_DEPFILE") and hasattr(sys, "addaudithook"):
    _list_files(os.environ["VADPIPE_DEPFILE"])
_write_lines()
_run_next()
