# What the scripts that start Docker engines ask about processes. A process may end between any two of these steps. `cat` is
# used because the shell exits if `$(<file)` finds no file.

alive() { # pid: one that has ended, but was not reaped, counts as ended
    local status
    status=$(cat "/proc/${1:-none}/status" 2>/dev/null) && [[ ! $status =~ State:[[:space:]]+Z ]]
}

is_process() { alive "$1" && [[ $(cat "/proc/$1/comm" 2>/dev/null) == "$2" ]]; } # pid, name

pid_in() { # file, name: prints the pid in the file if it is a process of that name
    local pid
    pid=$(cat "$1" 2>/dev/null) && is_process "$pid" "$2" && echo "$pid"
}

end_process() { # pid, name, seconds: ends it, by force if it takes longer
    local deadline=$((SECONDS + $3))
    is_process "$1" "$2" || return 0
    kill "$1" 2>/dev/null || true
    while is_process "$1" "$2"; do
        if ((SECONDS >= deadline)); then
            echo "$2 (process $1) does not end; killing it"
            kill -KILL "$1" 2>/dev/null || true
            return
        fi
        sleep 0.2
    done
}
