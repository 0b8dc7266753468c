"""Runs a command and prints what the kernel accounted for it: launch.py OUTPUT PROGRAM [ARGUMENT...]

Standard output goes to the file OUTPUT, standard error to OUTPUT.err. Printed are: the exit code, wall
seconds, CPU seconds (user and system) of the whole process tree, and the peak memory in bytes of its
largest process.

It is a program of its own because a new process starts with the peak memory of the one that made it: here
that is a bare interpreter, smaller than anything measured. It therefore imports next to nothing.
"""

import os
import sys
import time


def main(output: str, command: list[str]) -> None:
    """Run ``command`` to its end; the figures go to standard output."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, f"{output}.err", flags, 0o600),
    ]
    begin = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=streams)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - begin
    peak = usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
    print(os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, peak)


main(sys.argv[1], sys.argv[2:])
