/* A call as it comes over the wire, and how a function of so many pointers is called. */
#include "runner.h"

#include <dlfcn.h>

const char *read_call(runner *r, reader *body, call *c) {
    uint32_t length;
    if (!take(body, &length, sizeof length) || !take(body, &c->count, sizeof c->count) || !take(body, &c->tiles, sizeof c->tiles))
        return cut_short(r);
    if (length > MAX_NAME)
        return fail(r, "the name of a kernel has %u characters, %d are the most", length, MAX_NAME);
    if (!take(body, c->name, length))
        return cut_short(r);
    c->name[length] = 0;
    if (c->count < 1 || c->count > MAX_ARGUMENTS)
        return fail(r, "%s has %u arguments; 1 to %d can be passed", c->name, c->count, MAX_ARGUMENTS);
    if (c->tiles < 0)
        return fail(r, "%s over %d tiles", c->name, c->tiles);
    for (uint32_t n = 0; n < c->count; n++) {
        uint64_t offset;
        if (!take(body, &offset, sizeof offset))
            return cut_short(r);
        if (!inside(r, offset, 0))
            return fail(r, "argument %u of %s lies at %llu, the memory has %llu bytes", n, c->name, (unsigned long long)offset,
                        (unsigned long long)r->size);
        c->arguments[n] = r->memory + offset;
    }
    c->kernel = NULL;
    for (size_t n = r->library_count; n-- > 0 && !c->kernel;)
        c->kernel = dlsym(r->libraries[n], c->name);
    return c->kernel ? NULL : fail(r, "no loaded library has a kernel %s", c->name);
}

#define EACH1(X) X(0)
#define EACH2(X) EACH1(X), X(1)
#define EACH3(X) EACH2(X), X(2)
#define EACH4(X) EACH3(X), X(3)
#define EACH5(X) EACH4(X), X(4)
#define EACH6(X) EACH5(X), X(5)
#define EACH7(X) EACH6(X), X(6)
#define EACH8(X) EACH7(X), X(7)
#define EACH9(X) EACH8(X), X(8)
#define EACH10(X) EACH9(X), X(9)
#define EACH11(X) EACH10(X), X(10)
#define EACH12(X) EACH11(X), X(11)
#define EACH13(X) EACH12(X), X(12)
#define EACH14(X) EACH13(X), X(13)
#define EACH15(X) EACH14(X), X(14)
#define EACH16(X) EACH15(X), X(15)
#define EACH17(X) EACH16(X), X(16)
#define EACH18(X) EACH17(X), X(17)
#define EACH19(X) EACH18(X), X(18)
#define EACH20(X) EACH19(X), X(19)
#define EACH21(X) EACH20(X), X(20)
#define EACH22(X) EACH21(X), X(21)
#define EACH23(X) EACH22(X), X(22)
#define EACH24(X) EACH23(X), X(23)
#define EACH25(X) EACH24(X), X(24)
#define EACH26(X) EACH25(X), X(25)
#define EACH27(X) EACH26(X), X(26)
#define EACH28(X) EACH27(X), X(27)
#define EACH29(X) EACH28(X), X(28)
#define EACH30(X) EACH29(X), X(29)
#define EACH31(X) EACH30(X), X(30)
#define EACH32(X) EACH31(X), X(31)
#define TYPE(n) void *
#define VALUE(n) a[n]
#define CASE(n) case n: ((void (*)(EACH##n(TYPE), int32_t, int32_t))c->kernel)(EACH##n(VALUE), 0, c->tiles); break;

void invoke(const call *c) {
    void *const *a = c->arguments;
    running = c->name;
    switch (c->count) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11)
        CASE(12) CASE(13) CASE(14) CASE(15) CASE(16) CASE(17) CASE(18) CASE(19) CASE(20) CASE(21) CASE(22)
        CASE(23) CASE(24) CASE(25) CASE(26) CASE(27) CASE(28) CASE(29) CASE(30) CASE(31) CASE(32)
    }
}
