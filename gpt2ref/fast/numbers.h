/* Numbers as they are stored, and as the processor computes with them. */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Weights, keys and values are stored as a `number`. All arithmetic is in float. */
#if defined BFLOAT16 || defined FLOAT16
typedef uint16_t number;
#else
typedef float number;
#endif

typedef uint32_t word;
typedef union {
    word w;
    float value;
} bits;

INLINE float load(number n) {
#if defined BFLOAT16 /* the upper half of a float */
    return (bits){.w = (word)n << 16}.value;
#elif defined FLOAT16 /* its largest exponent, 31, becomes that of infinity and NaN, 255 */
    word size = (bits){.value = (bits){.w = (n & 0x7fffu) << 13}.value * 0x1p112f}.w;
    word infinite = size >= 0x47800000 ? 0x7f800000 : 0;
    return (bits){.w = (n & 0x8000u) << 16 | size | infinite}.value;
#else
    return n;
#endif
}

/* The nearest number, and the even one halfway between two. */
INLINE number rounded(float value) {
#if defined BFLOAT16
    word w = (bits){.value = value}.w;
    return (w + 0x7fff + (w >> 16 & 1)) >> 16;
#elif defined FLOAT16
    word w = (bits){.value = value}.w, sign = w >> 16 & 0x8000, size = w & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;  /* NaN */
    if (size >= 0x477ff000) return sign | 0x7c00; /* infinity, from 65520 on */
    if (size < 0x38800000) /* less than 2^-14: multiples of 2^-24, to which floats of 0.5 round */
        return sign | ((bits){.value = (bits){.w = size}.value + 0.5f}.w - 0x3f000000);
    return sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
#else
    return value;
#endif
}

/* A vector register has `VECTOR` floats, and there are so many `REGISTERS`. */
#if defined __AVX512F__
enum { VECTOR = 16, REGISTERS = 32 };
#elif defined __AVX__
enum { VECTOR = 8, REGISTERS = 16 };
#elif defined __aarch64__
enum { VECTOR = 4, REGISTERS = 32 };
#else
enum { VECTOR = 4, REGISTERS = 16 };
#endif
typedef float vector __attribute__((vector_size(4 * VECTOR)));
typedef word word_vector __attribute__((vector_size(4 * VECTOR)));
typedef uint16_t half_vector __attribute__((vector_size(2 * VECTOR)));

INLINE vector load_floats(const float *from) {
    vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

#if defined FLOAT16 && (defined __AVX512F__ || defined __F16C__)
#include <immintrin.h>
#elif defined FLOAT16 && defined __aarch64__
#include <arm_neon.h>
#endif

INLINE vector load_vector(const number *from) {
#if defined BFLOAT16
    half_vector read;
    memcpy(&read, from, sizeof read);
    return (vector)(__builtin_convertvector(read, word_vector) << 16);
#elif defined FLOAT16 && defined __AVX512F__
    return (vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined FLOAT16 && defined __F16C__
    return (vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#elif defined FLOAT16 && defined __aarch64__
    return (vector)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#elif defined FLOAT16 /* no instruction for it */
    vector v;
    for (int j = 0; j < VECTOR; j++) v[j] = load(from[j]);
    return v;
#else
    return load_floats(from);
#endif
}
