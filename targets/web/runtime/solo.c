/* How one thread runs a model. */
#include "runtime.h"

void burnish_run(const burnish_launch *launches, int32_t first, int32_t last) {
    void *scratch = burnish_scratch(0);
    for (int32_t n = first; n < last; n++)
        launches[n].run(scratch, 0, launches[n].tiles);
}
