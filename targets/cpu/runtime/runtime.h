/* The runtime below a compiled model: memory, weights, threads. C11 and POSIX; no globals, so instances never meet.
 *
 * A generated driver describes its model as a `burnish_program`; everything here is generic over it. */
#ifndef BURNISH_RUNTIME_H
#define BURNISH_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define ERROR(name, code, text) BURNISH_##name = code,
enum {
#include "errors.def"
};
#undef ERROR

/* What the arguments of a kernel are offsets into. */
typedef struct {
    char *arena;
    char *weights;      /* read-only pages */
    char *prepared;     /* constants that the setup makes of the weights */
    void *const *inputs;
    void *const *outputs;
} burnish_memory;

/* One kernel over `tiles` tiles. Disjoint ranges of tiles may run at once, each with its own scratch. A serial launch is too small
 * to be worth waking other threads for. */
typedef struct {
    void (*run)(const burnish_memory *memory, void *scratch, int32_t begin, int32_t end);
    int32_t tiles;
    int32_t serial;
} burnish_launch;

typedef struct {
    const burnish_launch *launches;
    const burnish_launch *setups;   /* run once, when an instance is created; touch weights, prepared and scratch only */
    int launch_count, setup_count, input_count, output_count;
    size_t arena_bytes, scratch_bytes /* of each thread */, weight_bytes, prepared_bytes;
    uint64_t weight_id;             /* the start of the weights' SHA-256 */
    const char *const *isa;         /* instruction sets that the kernels use; ends with a null */
} burnish_program;

typedef struct burnish_model burnish_model;

/* threads: 0 for as many as the process may use CPUs. All memory that the model will ever use is allocated here. */
int burnish_create(burnish_model **model, const burnish_program *program, const char *weights_path, int threads);
/* seconds: null, or one figure for each launch, in wall time. */
int burnish_run(burnish_model *model, const void *const *inputs, void *const *outputs, double *seconds);
int burnish_threads(const burnish_model *model);
void burnish_destroy(burnish_model *model);
const char *burnish_error(int code);

/* ---- weights.c */

/* Maps the weights file read-only. `data` is 64-byte aligned and stays valid until burnish_weights_close. */
int burnish_weights_open(const char *path, size_t bytes, uint64_t id, char **data);
void burnish_weights_close(char *data, size_t bytes);

/* ---- team.c */

typedef struct burnish_team burnish_team;

/* Starts threads - 1 workers that wait for burnish_team_run. Every member runs work(context, its number); the caller is member 0.
 * `work` must pass at least one barrier, lest a slow member takes what the next run, or the end, is told for news of this one. */
int burnish_team_create(burnish_team **team, int threads, void (*work)(void *context, int member), void *context);
void burnish_team_run(burnish_team *team);
/* Returns once every member has called it; what was written before is seen by all. */
void burnish_team_barrier(burnish_team *team);
void burnish_team_destroy(burnish_team *team);

/* ---- cpu.c */

/* CPUs that this process may use. */
int burnish_cpu_count(void);
/* Does this CPU (and its system) have every instruction set of the list? */
int burnish_cpu_has(const char *const *isa);

#endif
