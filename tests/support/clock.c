/* Sets the clock of Python programs, for tests: what they see as the time is ahead by the seconds in the file that
   ORQAL_TEST_CLOCK names. Only calls from Python itself count: the waits of C++ libraries that compare the time with the
   kernel's would never end. Use it with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
    const char *name = getenv("ORQAL_TEST_CLOCK");
    FILE *file = name ? fopen(name, "re") : NULL;
    long seconds = 0;
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *moment) {
    int failed = syscall(SYS_clock_gettime, clock, moment);
    Dl_info caller;
    if (!failed && clock == CLOCK_REALTIME && dladdr(__builtin_return_address(0), &caller) && caller.dli_fname) {
        const char *file = strrchr(caller.dli_fname, '/');
        if (strncmp(file ? file + 1 : caller.dli_fname, "python3", 7) == 0 || strstr(caller.dli_fname, "/libpython"))
            moment->tv_sec += ahead();
    }
    return failed;
}
