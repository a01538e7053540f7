/* A team of threads that walk through a program together and meet at barriers.
 *
 * One primitive, the barrier, serves for everything: workers wait at it for the next run, between launches, and to be told to stop.
 * A member that waits spins for a while, since the next launch is near, and then sleeps, so that an idle model costs nothing. */
#define _GNU_SOURCE
#include "runtime.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#define LINE 64
/* Pauses before sleeping: 45 us at the 23 ns of a Zen 5, about what waking a thread costs. Where other programs want the same CPUs,
 * a member that spins may keep out the very one that it waits for. Medians of a run with two barriers inside, two threads on 2 cores
 * with two busy neighbours and more (noisy): 0.1 to 0.2 ms with spins of 23 or 45 us, up to 1 ms with 230 us, up to 16 ms with
 * sched_yield between the pauses. */
#define SPINS 2000
/* Kernels keep their arrays in registers or scratch. Set explicitly because some C libraries give threads very little. */
#define STACK_BYTES (1 << 20)

typedef struct {
    burnish_team *team;
    int number;
    pthread_t thread;
} member;

struct burnish_team {
    _Alignas(LINE) atomic_int arrived;
    _Alignas(LINE) atomic_uint phase;       /* counts the barriers passed; what waiting members look at */
    atomic_int sleepers;
    _Alignas(LINE) atomic_int size;
    int spins, stop, started;
    pthread_mutex_t mutex;
    pthread_cond_t passed;
    void (*work)(void *context, int member);
    void *context;
    member *members;
};

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");    /* `yield` does nothing on most cores */
#endif
}

void burnish_team_barrier(burnish_team *t) {
    unsigned phase = atomic_load_explicit(&t->phase, memory_order_relaxed);
    if (atomic_fetch_add(&t->arrived, 1) == atomic_load_explicit(&t->size, memory_order_relaxed) - 1) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        /* Sequentially consistent with the sleeper's increment and look: either it is counted here, or it sees the new phase. */
        atomic_store(&t->phase, phase + 1);
        if (atomic_load(&t->sleepers)) {
            pthread_mutex_lock(&t->mutex);
            pthread_cond_broadcast(&t->passed);
            pthread_mutex_unlock(&t->mutex);
        }
        return;
    }
    for (int n = t->spins; n > 0; n--) {
        if (atomic_load_explicit(&t->phase, memory_order_acquire) != phase)
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&t->mutex);
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->phase) == phase)
        pthread_cond_wait(&t->passed, &t->mutex);
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->mutex);
}

static void *live(void *argument) {
    const member *self = argument;
    burnish_team *t = self->team;
    for (;;) {
        burnish_team_barrier(t);
        if (t->stop)
            return NULL;
        t->work(t->context, self->number);
    }
}

void burnish_team_run(burnish_team *t) {
    burnish_team_barrier(t);
    t->work(t->context, 0);
}

void burnish_team_destroy(burnish_team *t) {
    if (!t)
        return;
    t->stop = 1;
    burnish_team_barrier(t);
    for (int n = 0; n < t->started; n++)
        pthread_join(t->members[n].thread, NULL);
    pthread_cond_destroy(&t->passed);
    pthread_mutex_destroy(&t->mutex);
    free(t->members);
    free(t);
}

static int start(burnish_team *t, int workers) {
    pthread_attr_t attributes;
    sigset_t all, old;
    if (pthread_attr_init(&attributes) != 0)
        return 0;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* The host's signal handlers stay in the host's threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (; t->started < workers; t->started++) {
        member *m = &t->members[t->started];
        m->team = t;
        m->number = t->started + 1;
        if (pthread_create(&m->thread, &attributes, live, m) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return t->started == workers;
}

int burnish_team_create(burnish_team **team, int threads, void (*work)(void *context, int member), void *context) {
    burnish_team *t = NULL;
    if (posix_memalign((void **)&t, LINE, sizeof *t) != 0)
        return BURNISH_MEMORY;
    *t = (burnish_team){.size = threads, .work = work, .context = context};
    /* Spinning helps only while every member has a CPU of its own. */
    t->spins = threads <= burnish_cpu_count() ? SPINS : 0;
    t->members = calloc((size_t)threads, sizeof *t->members);
    if (!t->members) {
        free(t);
        return BURNISH_MEMORY;
    }
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->passed, NULL);
    if (!start(t, threads - 1)) {
        atomic_store(&t->size, t->started + 1);    /* those that did start can still be told to stop */
        burnish_team_destroy(t);
        return BURNISH_THREADS;
    }
    *team = t;
    return BURNISH_OK;
}
