#!/bin/sh
# Runs a build, "$@", on a host without the pid namespace that would end it
# as a whole. Gets TERM when the build is given up, from pyro or, if pyro was
# killed, from the kernel.
end() {
    # fakeroot's daemon has left the process group, but not its environment.
    for file in $(grep -lsaF "PYRO_HOOKS=$PYRO_HOOKS" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        pid=${pid%/environ}
        [ "$pid" = "$$" ] || kill -KILL "$pid" 2>/dev/null
    done
    kill -KILL 0
}
trap end TERM
"$@" &
wait "$!"
