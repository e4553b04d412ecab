/* Loaded before the C library (LD_PRELOAD): the clock on the wall of a process goes wrong by as many nanoseconds as stand in the
   file "offset" beside this library, at any time, while it runs. The monotonic clocks stay right. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL

static const volatile int64_t *offset_ns; /* mapped once, changed by another process */

__attribute__((constructor)) static void map_offset(void) {
    Dl_info here;
    char path[PATH_MAX];
    char *slash;
    int file;
    void *found;
    if (!dladdr((void *)map_offset, &here) || strlen(here.dli_fname) + sizeof "offset" > sizeof path) return;
    strcpy(path, here.dli_fname);
    slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, "offset");
    if ((file = open(path, O_RDONLY | O_CLOEXEC)) < 0) return;
    found = mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) offset_ns = found;
}

/* Asks the kernel itself: to look for the C library's function would allocate, and an allocator may ask for the time. */
int clock_gettime(clockid_t id, struct timespec *now) {
    int64_t moved;
    if (syscall(SYS_clock_gettime, id, now)) return -1;
    if (offset_ns && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        moved = (int64_t)now->tv_sec * NS_PER_S + now->tv_nsec + *offset_ns;
        now->tv_sec = moved / NS_PER_S;
        now->tv_nsec = moved % NS_PER_S;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *also) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    if (also) *also = exact.tv_sec;
    return exact.tv_sec;
}
