/* A clock that goes wrong while a program runs: preloaded, it adds the seconds that a file tells to the time of day.
 * The file is named in SHIFTED_CLOCK, and read at each call. Clocks that only measure durations stay right.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    const char *path = getenv("SHIFTED_CLOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) {
        if (fscanf(file, "%ld", &seconds) == 1 && now)
            now->tv_sec += seconds;
        fclose(file);
    }
    return result;
}
