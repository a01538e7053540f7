/* What the generated driver and the runtime know of each other. */
#ifndef BURNISH_RUNTIME_H
#define BURNISH_RUNTIME_H

#include <stdint.h>

/* A kernel with its addresses, over the tiles [begin, end). */
typedef struct {
    void (*run)(void *scratch, int32_t begin, int32_t end);
    int32_t tiles;
    int32_t serial;     /* too small to share out */
} burnish_launch;

/* The driver's: where a member's scratch lies. */
void *burnish_scratch(int32_t member);

/* The driver's: how many launches, of the setup and of the model, have not been run yet. */
extern int32_t burnish_new;

/* Runs the launches [first, last), one after the other. */
void burnish_run(const burnish_launch *launches, int32_t first, int32_t last);

#endif
