/* float16 to and from float32, which WebAssembly has no instructions for: LLVM calls these by name. Half is passed in the low 16
 * bits of an integer. */
#include <stdint.h>

float __extendhfsf2(uint16_t half);
uint16_t __truncsfhf2(float value);
uint16_t __truncdfhf2(double value);

static uint32_t bits(float x) {
    union { float f; uint32_t u; } both = {x};
    return both.u;
}

static float number(uint32_t u) {
    union { uint32_t u; float f; } both = {u};
    return both.f;
}

float __extendhfsf2(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00)     /* infinity or NaN */
        return number(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    /* The exponent's bias is 112 larger in float32; the product is exact, also for subnormal halves. */
    return number(sign | bits(number(rest << 13) * 0x1p112f));
}

/* Rounds to nearest, ties to even. */
uint16_t __truncsfhf2(float value) {
    uint32_t u = bits(value), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000)     /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000)      /* below 2^-14 halves are multiples of 2^-24, as floats next to 0.5 are: the addition rounds */
        return (uint16_t)(sign | (bits(number(rest) + 0.5f) - bits(0.5f)));
    return (uint16_t)(sign | ((rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13));
}

/* Rounds to float towards an odd last bit first, so that the second rounding sees that something was cut off. */
uint16_t __truncdfhf2(double value) {
    float near = (float)value;
    uint32_t u = bits(near);
    if ((double)near != value && value == value && (u & 1) == 0) {
        int outwards = (value < 0 ? -value : value) > (near < 0 ? -(double)near : (double)near);
        u = outwards || !(u & 0x7fffffff) ? u + 1 : u - 1;
    }
    return __truncsfhf2(number(u));
}
