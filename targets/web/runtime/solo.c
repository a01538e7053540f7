/* How one thread runs a model. */
#include "runtime.h"

/* Engines start with slow code, and take up faster code of a function when it is called the next time: the setup and the first run
 * are made of many calls. Later calls would only cost: resnet50 then takes 2 % longer. */
#define PIECES 16

void burnish_run(const burnish_launch *launches, int32_t first, int32_t last) {
    void *scratch = burnish_scratch(0);
    for (int32_t n = first; n < last; n++) {
        int32_t pieces = burnish_new > 0 ? PIECES : 1;
        int32_t tiles = launches[n].tiles, piece = (tiles + pieces - 1) / pieces;
        burnish_new -= burnish_new > 0;
        for (int32_t at = 0; at < tiles; at += piece)
            launches[n].run(scratch, at, tiles - at < piece ? tiles : at + piece);
    }
}
