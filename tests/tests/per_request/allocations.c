// Counts what a process asks of the C library's allocator, in all of its threads: Rust's allocations, when the process has
// no allocator of its own, and those of C libraries such as aws-lc.
//
// Loaded by LD_PRELOAD. What it has seen is in the file that RINGFENCE_ALLOCATIONS names, mapped here and read by the test
// (`allocations.rs`, which has the same order of words). While the word `tracing` is set, the first calls leave the
// return addresses of their callers.

#define _GNU_SOURCE
#include <execinfo.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TRACES_MAX = 32, FRAMES_MAX = 30 };

struct trace {
    int64_t bytes;  // What was asked for; negative: it was given back.
    int64_t frames; // How many of the following there are.
    void *frame[FRAMES_MAX];
};

struct words {
    int64_t loaded;      // Out: set when this library has found the file.
    int64_t tracing;     // Whether calls leave traces.
    int64_t allocations; // Out: calls that asked for memory.
    int64_t frees;       // Out: calls that gave some back.
    int64_t traces;      // Out: calls since tracing began; the first of them have a trace.
    struct trace trace[TRACES_MAX];
};

static struct words nothing;
static struct words *words = &nothing;

// Reading a stack may allocate: a trace inside of a trace is left out.
static __thread int inside;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("RINGFENCE_ALLOCATIONS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return;
    // The first one loads a library.
    void *frame[1];
    backtrace(frame, 1);
    words = mapped;
    words->loaded = 1;
}

static void note(int64_t *counter, int64_t bytes) {
    if (inside) return;
    __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&words->tracing, __ATOMIC_SEQ_CST)) return;
    int64_t index = __atomic_fetch_add(&words->traces, 1, __ATOMIC_SEQ_CST);
    if (index >= TRACES_MAX) return;
    inside = 1;
    struct trace *trace = &words->trace[index];
    trace->bytes = bytes;
    trace->frames = backtrace(trace->frame, FRAMES_MAX);
    inside = 0;
}

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

void *malloc(size_t bytes) {
    note(&words->allocations, bytes);
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes) {
    note(&words->allocations, count * bytes);
    return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes) {
    note(&words->allocations, bytes);
    return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t bytes) {
    note(&words->allocations, bytes);
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void **to, size_t alignment, size_t bytes) {
    *to = memalign(alignment, bytes);
    return *to ? 0 : 12; // ENOMEM
}

void free(void *old) {
    if (old) note(&words->frees, -1);
    __libc_free(old);
}
