/* The runner: loads kernels and times them on the machine that it runs on, as it is told on standard input. C11 and POSIX (Linux).
 *
 * Whatever carries two byte streams carries this: a pipe, ssh, adb, an emulator. Nothing is opened, nothing is listened to. Both
 * directions are frames, little-endian: u32 what, u32 limit, u64 size, then `size` bytes. To the runner, `what` is a command and
 * `limit` the seconds after which SIGALRM ends the runner in mid-command (0: never). From it, `what` is 0 and the body the answer,
 * or 1 and the body says in words why not; `limit` is 0. One answer to each command, and GREETING before the first.
 *
 *   1 load      the bytes of a shared library                                          -> nothing
 *   2 allocate  u64 size: memory of zeros, in place of any before                       -> nothing
 *   3 write     u64 offset, bytes                                                       -> nothing
 *   4 read      u64 offset, u64 size                                                    -> the bytes
 *   5 run       u32 count, calls                                                        -> nothing
 *   6 time      u32 steps, u32 rounds, f64 seconds, f64 give_up; per step: u32 alternatives, calls
 *               -> for each step and alternative: u64 count, f64 seconds of each sample  (schedules/measure.py says when it ends)
 *   a call      u32 length of the name, u32 arguments, i32 tiles, name, u64 offset of each argument
 *
 * A kernel that crashes ends the runner; the last line on standard error then names the kernel. */
#define _GNU_SOURCE
#include "runner.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GREETING "burnish runner 1"
#define HUGE_PAGE ((size_t)2 << 20)
#define MAX_BODY ((uint64_t)65 << 20)   /* larger frames do not come from our tuner: it cuts arrays into pieces */

enum { LOAD = 1, ALLOCATE, WRITE, READ, RUN, TIME };

typedef struct {
    uint32_t what, limit;
    uint64_t size;
} frame;

/* ---- Words */

const char *fail(runner *r, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(r->text, sizeof r->text, format, list);
    va_end(list);
    return r->text;
}

int take(reader *body, void *to, size_t bytes) {
    if ((size_t)(body->end - body->at) < bytes)
        return 0;
    memcpy(to, body->at, bytes);
    body->at += bytes;
    return 1;
}

int holds(const reader *body, uint32_t count, size_t bytes_each) {
    return count <= (size_t)(body->end - body->at) / bytes_each;
}

const char *cut_short(runner *r) { return fail(r, "the command is shorter than what it announces"); }

void answer(uint32_t what, uint64_t size) {
    frame head = {.what = what, .size = size};
    fwrite(&head, sizeof head, 1, stdout);
}

/* ---- Libraries and memory */

static const char *load(runner *r, reader *body) {
    int file = (int)syscall(SYS_memfd_create, "kernels", 1u /* MFD_CLOEXEC; glibc 2.17 knows neither */);
    if (file < 0)
        return fail(r, "no file for the library: %s", strerror(errno));
    while (body->at < body->end) {
        ssize_t written = write(file, body->at, (size_t)(body->end - body->at));
        if (written <= 0) {
            close(file);
            return fail(r, "the library could not be written: %s", strerror(errno));
        }
        body->at += written;
    }
    void **libraries = realloc(r->libraries, (r->library_count + 1) * sizeof *libraries);
    if (!libraries) {
        close(file);
        return fail(r, "out of memory");
    }
    r->libraries = libraries;
    /* The file stays open: the loader takes a second file of the same name for the same library. */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        close(file);
        return fail(r, "the library cannot be loaded: %s", dlerror());
    }
    libraries[r->library_count++] = library;
    return NULL;
}

static const char *allocate(runner *r, reader *body) {
    uint64_t size;
    if (!take(body, &size, sizeof size))
        return cut_short(r);
    if (r->mapping)
        munmap(r->mapping, r->mapped);
    r->mapping = NULL;
    r->memory = NULL;
    r->size = 0;
    if (size > SIZE_MAX / 2)
        return fail(r, "no memory of %llu bytes", (unsigned long long)size);
    size_t mapped = (size_t)size + HUGE_PAGE;
    void *mapping = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        return fail(r, "no memory of %llu bytes: %s", (unsigned long long)size, strerror(errno));
    r->mapping = mapping;
    r->mapped = mapped;
    r->memory = (char *)(((uintptr_t)mapping + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    r->size = size;
    madvise(r->memory, (size_t)size, MADV_HUGEPAGE);
    /* Pages that were never written are all one page of zeros, which would stay in the cache. */
    memset(r->memory, 0, (size_t)size);
    return NULL;
}

int inside(const runner *r, uint64_t offset, uint64_t size) { return offset <= r->size && size <= r->size - offset; }

static const char *outside(runner *r, uint64_t offset, uint64_t size) {
    return fail(r, "%llu bytes at %llu do not lie in the memory, which has %llu", (unsigned long long)size,
                (unsigned long long)offset, (unsigned long long)r->size);
}

static const char *store(runner *r, reader *body) {
    uint64_t offset;
    if (!take(body, &offset, sizeof offset))
        return cut_short(r);
    size_t size = (size_t)(body->end - body->at);
    if (!inside(r, offset, size))
        return outside(r, offset, size);
    if (size)
        memcpy(r->memory + offset, body->at, size);
    return NULL;
}

static const char *fetch(runner *r, reader *body) {
    uint64_t offset, size;
    if (!take(body, &offset, sizeof offset) || !take(body, &size, sizeof size))
        return cut_short(r);
    if (!inside(r, offset, size))
        return outside(r, offset, size);
    answer(0, size);
    if (size)
        fwrite(r->memory + offset, 1, (size_t)size, stdout);
    return NULL;
}

/* ---- Commands that call */

const char *volatile running;

static void last_words(int signal) {
    if (running && write(2, "in ", 3) == 3 && write(2, running, strlen(running)) > 0 && write(2, "\n", 1) == 1)
        running = NULL;
    raise(signal);      /* the default action again, once this returns */
}

static const char *run(runner *r, reader *body) {
    uint32_t count;
    if (!take(body, &count, sizeof count) || !holds(body, count, CALL_HEADER))
        return cut_short(r);
    call *calls = calloc((size_t)count + 1, sizeof *calls);
    if (!calls)
        return fail(r, "out of memory");
    const char *why = NULL;
    for (uint32_t n = 0; n < count && !why; n++)    /* all are looked at before the first is run */
        why = read_call(r, body, &calls[n]);
    for (uint32_t n = 0; n < count && !why; n++)
        invoke(&calls[n]);
    running = NULL;
    free(calls);
    return why;
}

/* ---- The loop */

static const char *obey(runner *r, uint32_t command, reader *body) {
    const char *why = NULL;
    switch (command) {
        case LOAD: why = load(r, body); break;
        case ALLOCATE: why = allocate(r, body); break;
        case WRITE: why = store(r, body); break;
        case READ: return fetch(r, body);       /* answers by itself, as does the next */
        case TIME: return time_steps(r, body);
        case RUN: why = run(r, body); break;
        default: why = fail(r, "there is no command %u", command);
    }
    if (!why)
        answer(0, 0);
    return why;
}

/* No core dumps, as many open libraries as the system lets us have, last words even where the stack is exhausted, and the
 * mathematics that a kernel may call: its library is linked to nothing, so it finds what we have loaded. */
static void prepare(void) {
    static char stack[1 << 16];
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGALRM};
    struct rlimit none = {0, 0}, files;
    dlopen("libm.so.6", RTLD_NOW | RTLD_GLOBAL);
    setrlimit(RLIMIT_CORE, &none);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&own, NULL);
    struct sigaction action = {.sa_handler = last_words, .sa_flags = (int)SA_RESETHAND | SA_ONSTACK};
    for (size_t n = 0; n < sizeof deadly / sizeof *deadly; n++)
        sigaction(deadly[n], &action, NULL);
}

int main(void) {
    runner r = {0};
    frame head;
    char *buffer = NULL;
    uint64_t room = 0;
    prepare();
    answer(0, sizeof GREETING - 1);
    fputs(GREETING, stdout);
    while (fflush(stdout) == 0 && fread(&head, sizeof head, 1, stdin) == 1) {
        if (head.size > MAX_BODY) {
            fprintf(stderr, "a frame of %llu bytes\n", (unsigned long long)head.size);
            return 2;       /* not a stream that we understand */
        }
        alarm(head.limit);
        if (head.size > room) {
            free(buffer);
            buffer = malloc((size_t)head.size);
            room = buffer ? head.size : 0;
            if (!buffer)
                return 3;
        }
        if (head.size && fread(buffer, 1, (size_t)head.size, stdin) != head.size)
            return 0;
        reader body = {buffer, buffer + head.size};
        const char *why = obey(&r, head.what, &body);
        if (why) {
            answer(1, strlen(why));
            fputs(why, stdout);
        }
        alarm(0);
    }
    return 0;
}
