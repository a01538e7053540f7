/* What the parts of the runner share. */
#ifndef BURNISH_RUNNER_H
#define BURNISH_RUNNER_H

#include <stddef.h>
#include <stdint.h>

#define MAX_NAME 255
#define MAX_ARGUMENTS 32
#define CALL_HEADER 12                  /* bytes: no call is shorter */

typedef struct {
    const char *at, *end;
} reader;

typedef struct {
    void *kernel;
    void *arguments[MAX_ARGUMENTS];
    uint32_t count;
    int32_t tiles;
    char name[MAX_NAME + 1];
} call;

typedef struct {
    char *memory;           /* 2 MiB-aligned, inside the mapping */
    uint64_t size;
    void *mapping;
    size_t mapped;
    void **libraries;
    size_t library_count;
    char text[512];         /* why not */
} runner;

/* Fills in the text; every command returns it, or null where all went well. */
__attribute__((format(printf, 2, 3))) const char *fail(runner *r, const char *format, ...);
const char *cut_short(runner *r);

/* The next bytes of a command's body; 0 where there are fewer. */
int take(reader *body, void *to, size_t bytes);
/* Is there room in what is left for `count` things of at least so many bytes? */
int holds(const reader *body, uint32_t count, size_t bytes_each);

/* Does this lie in the runner's memory? */
int inside(const runner *r, uint64_t offset, uint64_t size);

/* Starts an answer of `size` bytes. Standard output is buffered: the parts of an answer leave together. */
void answer(uint32_t what, uint64_t size);

/* The kernel that runs, for the last words of a runner that dies of it. */
extern const char *volatile running;

/* ---- call.c */

const char *read_call(runner *r, reader *body, call *c);
void invoke(const call *c);

/* ---- timing.c */

const char *time_steps(runner *r, reader *body);

#endif
