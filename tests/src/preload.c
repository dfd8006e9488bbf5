// Stands between the proxy and the C library: a wall clock that jumps, rings as small or as old kernels make them,
// calls into the ring that fail, a start that takes its time.
//
// Loaded by LD_PRELOAD. What it does and what it has seen are words of 64 bits in the file that RINGFENCE_PRELOAD names:
// mapped here, read and written as a file by the test (`preload.rs`, which has the same order of words).

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct words {
    int64_t loaded;             // Out: set when this library has found the file.
    int64_t clock_jump_seconds; // Added to the wall clock; other clocks go on.
    int64_t ring_entries;       // Size of the submission queue instead of the one asked for; 0: as asked.
    int64_t ring_completions;   // Size of the completion queue instead of the one asked for.
    int64_t ring_flags_refused; // Rings with one of these flags are refused, as kernels do that do not know them.
    int64_t enter_errno;        // What a failing io_uring_enter fails with.
    int64_t enter_fails_every;  // Every how many calls of io_uring_enter one fails; 0: none.
    int64_t enters;             // Out: calls of io_uring_enter.
    int64_t enters_failed;      // Out: those that were made to fail.
    int64_t overflows;          // Out: those that left completions which had found no room in their queue.
    int64_t rings;              // Out: rings made.
    int64_t listen_pause_ms;    // Rest behind each call of listen.
};

static struct words nothing;
static struct words *words = &nothing;

// The flags of each ring, by its descriptor; descriptors beyond are not looked at.
enum { RINGS_MAX = 1024 };
static volatile unsigned *ring_flags[RINGS_MAX];

static long (*real_syscall)(long, ...);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("RINGFENCE_PRELOAD");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return;
    words = mapped;
    words->loaded = 1;
}

static void count(int64_t *word) { __atomic_fetch_add(word, 1, __ATOMIC_RELAXED); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    // May be called before `begin`.
    int result = real_clock_gettime ? real_clock_gettime(clock, now) : (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += words->clock_jump_seconds;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int listen(int socket, int backlog) {
    int result = (int)real_syscall(SYS_listen, socket, backlog), error = errno;
    usleep((unsigned)words->listen_pause_ms * 1000);
    errno = error;
    return result;
}

static int fails(int error) {
    errno = error;
    return -1;
}

static long setup(unsigned entries, struct io_uring_params *params) {
    if (params->flags & (unsigned)words->ring_flags_refused) return fails(EINVAL);
    if (words->ring_entries) {
        entries = (unsigned)words->ring_entries;
        params->flags |= IORING_SETUP_CQSIZE;
        params->cq_entries = (unsigned)words->ring_completions;
    }
    long ring = real_syscall(SYS_io_uring_setup, entries, params);
    if (ring < 0) return ring;
    count(&words->rings);
    if (ring >= RINGS_MAX) return ring;
    // A mapping of our own, never undone: a ring is for the life of a process, and there are a few.
    size_t length = params->sq_off.flags + sizeof(unsigned);
    char *queue = mmap(NULL, length, PROT_READ, MAP_SHARED, (int)ring, IORING_OFF_SQ_RING);
    ring_flags[ring] = queue == MAP_FAILED ? NULL : (volatile unsigned *)(queue + params->sq_off.flags);
    return ring;
}

static int overflows(long ring) {
    volatile unsigned *flags = ring >= 0 && ring < RINGS_MAX ? ring_flags[ring] : NULL;
    return flags && (*flags & IORING_SQ_CQ_OVERFLOW);
}

static long enter(long ring, long submit, long wait, long flags, long argument, long size) {
    count(&words->enters);
    if (words->enter_fails_every && words->enters % words->enter_fails_every == 0) {
        count(&words->enters_failed);
        return fails((int)words->enter_errno);
    }
    long result = real_syscall(SYS_io_uring_enter, ring, submit, wait, flags, argument, size);
    int error = errno;
    if (overflows(ring)) count(&words->overflows);
    errno = error;
    return result;
}

long syscall(long number, ...) {
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int index = 0; index < 6; index++) arguments[index] = va_arg(list, long);
    va_end(list);
    if (!real_syscall) real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_io_uring_setup) return setup((unsigned)arguments[0], (struct io_uring_params *)arguments[1]);
    if (number == SYS_io_uring_enter)
        return enter(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
    return real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}
