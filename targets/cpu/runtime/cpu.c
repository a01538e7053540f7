/* What the CPU can do, so that a library that was compiled for another one says so instead of dying of an illegal instruction. */
#define _GNU_SOURCE
#include "runtime.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

int burnish_cpu_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

#if defined(__x86_64__)
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };
/* Which registers the system saves on a context switch (XCR0): without that, the instructions fault. */
#define YMM 0x06u
#define ZMM 0xe6u

/* LLVM's name; CPUID leaf, subleaf, register, bit (Intel SDM volume 2A, AMD APM volume 3 appendix E); state that must be saved. */
static const struct {
    const char *name;
    unsigned leaf, subleaf, reg, bit, state;
} features[] = {
    {"fma", 1, 0, ECX, 12, YMM},           {"f16c", 1, 0, ECX, 29, YMM},          {"avx", 1, 0, ECX, 28, YMM},
    {"avx2", 7, 0, EBX, 5, YMM},           {"avxvnni", 7, 1, EAX, 4, YMM},        {"avx512f", 7, 0, EBX, 16, ZMM},
    {"avx512dq", 7, 0, EBX, 17, ZMM},      {"avx512ifma", 7, 0, EBX, 21, ZMM},    {"avx512cd", 7, 0, EBX, 28, ZMM},
    {"avx512bw", 7, 0, EBX, 30, ZMM},      {"avx512vl", 7, 0, EBX, 31, ZMM},      {"avx512vbmi", 7, 0, ECX, 1, ZMM},
    {"avx512vbmi2", 7, 0, ECX, 6, ZMM},    {"avx512vnni", 7, 0, ECX, 11, ZMM},    {"avx512bitalg", 7, 0, ECX, 12, ZMM},
    {"avx512vpopcntdq", 7, 0, ECX, 14, ZMM}, {"avx512bf16", 7, 1, EAX, 5, ZMM},   {"avx512fp16", 7, 0, EDX, 23, ZMM},
    {"avx512vp2intersect", 7, 0, EDX, 8, ZMM}, {"gfni", 7, 0, ECX, 8, 0},         {"bmi", 7, 0, EBX, 3, 0},
    {"bmi2", 7, 0, EBX, 8, 0},             {"movbe", 1, 0, ECX, 22, 0},           {"popcnt", 1, 0, ECX, 23, 0},
    {"lzcnt", 0x80000001, 0, ECX, 5, 0},
};

static unsigned saved_state(void) {
    unsigned r[4], low, high;
    if (!__get_cpuid(1, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) || !(r[ECX] >> 27 & 1))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has(const char *name) {
    for (size_t n = 0; n < sizeof features / sizeof *features; n++) {
        if (strcmp(features[n].name, name) != 0)
            continue;
        unsigned r[4];
        return __get_cpuid_count(features[n].leaf, features[n].subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX])
            && (r[features[n].reg] >> features[n].bit & 1) && (saved_state() & features[n].state) == features[n].state;
    }
    return 1;   /* below the table's interest */
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

/* LLVM's name; which word of the kernel's hardware capabilities, and the bit (linux/arch/arm64/include/uapi/asm/hwcap.h). */
static const struct {
    const char *name;
    unsigned long word;
    unsigned bit;
} features[] = {
    {"neon", AT_HWCAP, 1}, {"fullfp16", AT_HWCAP, 10}, {"dotprod", AT_HWCAP, 20}, {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14},
};

static int has(const char *name) {
    for (size_t n = 0; n < sizeof features / sizeof *features; n++)
        if (strcmp(features[n].name, name) == 0)
            return (int)(getauxval(features[n].word) >> features[n].bit & 1);
    return 1;
}

#else
static int has(const char *name) { return (void)name, 1; }
#endif

int burnish_cpu_has(const char *const *isa) {
    for (; *isa; isa++)
        if (!has(*isa))
            return 0;
    return 1;
}
