/* How several threads run a model: each is an instance of the module over the same memory, with a stack and scratch of its own. They
 * walk the launches together and meet at barriers. Member 0 is the caller; the others live in workers and wait for the next run at
 * a barrier, too: spinning for a while, since the next launch is near, then asleep, so that an idle model costs nothing. */
#include "runtime.h"

#include <stdatomic.h>

#define LINE 64
#define MAX_MEMBERS 16
/* Looks before sleeping, about 1 ns each: what waking a thread costs. */
#define SPINS 50000
/* A member takes its own tiles in this many pieces, so that one that is done early can take over some of another's. */
#define PIECES 8

typedef struct {
    _Alignas(LINE) atomic_int tiles;
} counter;

static struct {
    _Alignas(LINE) atomic_int arrived;
    _Alignas(LINE) atomic_int phase;    /* counts the barriers passed; what waiting members look at */
    atomic_int sleepers;
    counter taken[MAX_MEMBERS];         /* of a member's own share of this launch: how many tiles have been handed out */
    /* Written by member 0 while the others wait. */
    _Alignas(LINE) int32_t size;
    int32_t patient, first, last;
    const burnish_launch *launches;
} team = {.size = 1};

void start(int32_t members, int32_t patient);
void live(int32_t member);

/* patient: may member 0 sleep? A page's main thread may only spin. To be called before the others live. */
void start(int32_t members, int32_t patient) {
    team.size = members;
    team.patient = patient;
}

static void barrier(int32_t member) {
    int32_t phase = atomic_load_explicit(&team.phase, memory_order_relaxed);
    if (atomic_fetch_add(&team.arrived, 1) == team.size - 1) {
        atomic_store_explicit(&team.arrived, 0, memory_order_relaxed);
        for (int32_t n = 0; n < team.size; n++)     /* all are here: nobody takes tiles */
            atomic_store_explicit(&team.taken[n].tiles, 0, memory_order_relaxed);
        /* A sleeper counts itself before it looks at the phase for the last time: either it is seen here, or it sees the new one. */
        atomic_store(&team.phase, phase + 1);
        if (atomic_load(&team.sleepers))
            __builtin_wasm_memory_atomic_notify((int *)&team.phase, UINT32_MAX);
        return;
    }
    int may_sleep = member > 0 || team.patient;
    for (int32_t n = SPINS; n > 0 || !may_sleep; n--)
        if (atomic_load_explicit(&team.phase, memory_order_acquire) != phase)
            return;
    atomic_fetch_add(&team.sleepers, 1);
    while (atomic_load(&team.phase) == phase)
        __builtin_wasm_memory_atomic_wait32((int *)&team.phase, phase, -1);
    atomic_fetch_sub(&team.sleepers, 1);
}

/* This member's part of a launch. The split is the same in every launch, so that a member mostly reads what it wrote itself. */
static void share(const burnish_launch *launch, int32_t member, void *scratch) {
    for (int32_t k = 0; k < team.size; k++) {
        int32_t owner = (member + k) % team.size;
        int32_t begin = (int32_t)((int64_t)launch->tiles * owner / team.size);
        int32_t end = (int32_t)((int64_t)launch->tiles * (owner + 1) / team.size);
        int32_t piece = (end - begin + PIECES - 1) / PIECES;
        for (;;) {
            int32_t at = begin + atomic_fetch_add_explicit(&team.taken[owner].tiles, piece, memory_order_relaxed);
            if (at >= end)
                break;
            launch->run(scratch, at, end - at < piece ? end : at + piece);
        }
    }
}

static void walk(int32_t member) {
    /* Of this run: a member may still be behind the last barrier when member 0 begins the next one. */
    const burnish_launch *launches = team.launches;
    int32_t last = team.last;
    void *scratch = burnish_scratch(member);
    for (int32_t n = team.first; n < last; n++) {
        int shared = !launches[n].serial;
        if (shared)
            share(&launches[n], member, scratch);
        else if (member == 0)
            launches[n].run(scratch, 0, launches[n].tiles);
        /* Serial launches in a row need no barrier: member 0 does them all, and it alone returns to a caller. */
        if (shared || (n + 1 < last && !launches[n + 1].serial))
            barrier(member);
    }
}

void live(int32_t member) {
    for (;;) {
        barrier(member);
        walk(member);
    }
}

void burnish_run(const burnish_launch *launches, int32_t first, int32_t last) {
    int shared = 0;
    for (int32_t n = first; n < last; n++)
        shared |= !launches[n].serial;
    if (team.size == 1 || !shared) {
        void *scratch = burnish_scratch(0);
        for (int32_t n = first; n < last; n++)
            launches[n].run(scratch, 0, launches[n].tiles);
        return;
    }
    team.launches = launches;
    team.first = first;
    team.last = last;
    barrier(0);
    walk(0);
}
