/* A decode step of GPT-2 on the CPU: feeds each row of a batch one token and computes the logits of
   the next one.

   With one row, a step can't be faster than reading the weights; this code is arranged for that.
   Each thread multiplies a contiguous part of every matrix. It reads the part at several places at
   once, which is faster. Between two products there is little to compute: each thread computes what
   it needs by itself.

   OpenMP may grant fewer threads than `n_threads`; `step` divides the work among those. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

/* A `number` is one weight. Matrices are read in words of 32 bits, which hold one float, or two
   bfloat16 as lanes. Results of the two lanes are stored apart, [LANES, words] instead of
   [words, LANES], until they are needed in order. */
typedef uint32_t word;
#ifdef BFLOAT16 /* the upper half of a float */
typedef uint16_t number;
#else
typedef float number;
#endif
enum { LANES = sizeof(word) / sizeof(number) };
/* The bits of lane k as a float, for a word or a vector of words. */
#define LANE(w, k) (LANES == 1 ? (w) : (k) ? (w) & 0xffff0000 : (w) << 16)

typedef union {
    word w;
    float value;
} bits;

static inline float load(number n) {
#ifdef BFLOAT16
    return (bits){.w = (word)n << 16}.value;
#else
    return n;
#endif
}

static inline number rounded(float value) {
#ifdef BFLOAT16 /* to the nearest number, and halfway between two to the even one */
    word w = (bits){.value = value}.w;
    return (w + 0x7fff + (w >> 16 & 1)) >> 16;
#else
    return value;
#endif
}

#if defined __x86_64__ && defined __GLIBC__
#pragma omp declare simd notinbranch
extern float expf(float); /* glibc has a vector version */
#endif

/* The order of `weights`: the embeddings, the tensors of each block, the final LayerNorm's two.
   Matrices are [in, out], as checkpoints store them; wte is [vocab_size, n_embd]. */
enum { WTE, WPE, BLOCKS };
enum {
    LN_1, LN_1_BIAS, ATTN, ATTN_BIAS, PROJ, PROJ_BIAS,
    LN_2, LN_2_BIAS, FC, FC_BIAS, MLP_PROJ, MLP_PROJ_BIAS,
    TENSORS_PER_BLOCK
};

typedef struct {
    const void *const *weights;
    int64_t n_layer, n_head, n_embd, n_inner, vocab_size, batch, capacity, n_threads;
    float epsilon;
    number *keys, *values; /* [n_layer, batch, capacity, n_embd] */
    float *sums;           /* [2, n_threads, batch, widest]: each thread's part of two products */
    float *attended;       /* [batch, n_embd] */
    float *own;            /* [n_threads, batch * (2 n_embd + widest) + n_head * capacity] */
} Step;

enum { PLACES = 4, ROWS = 4, TILE = 256 }; /* handled at once: w's rows, batch's rows, words */

#define INLINE static inline __attribute__((always_inline))

/* y += x w, for `rows` rows of the batch and `places` rows of w. The rows of w are `stride` words
   apart, and the columns of x `apart`. x [.., n_in]; y [.., LANES, words], words `from` to `to`. */
INLINE void add_rows(const word *w, int64_t stride, const float *x, int64_t apart, int64_t n_in,
                     float *y, int64_t words, int64_t from, int64_t to, const int places,
                     const int rows) {
#pragma omp simd
    for (int64_t o = from; o < to; o++) {
        word read[PLACES]; /* read once, even if y should overlap w */
#pragma GCC unroll 4
        for (int p = 0; p < places; p++) read[p] = w[p * stride + o];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int k = 0; k < LANES; k++) {
                float sum = 0;
#pragma GCC unroll 4
                for (int p = 0; p < places; p++)
                    sum += (bits){.w = LANE(read[p], k)}.value * x[r * n_in + p * apart];
                y[(r * LANES + k) * words + o] += sum;
            }
    }
}

/* y = x w, the sum over rows `begin` to `end` of w only.
   x [batch, n_in], w [n_in, n_out], y [batch, LANES, n_out / LANES] */
static void product(const word *w, const float *x, float *y, int64_t begin, int64_t end,
                    int64_t n_in, int64_t n_out, int64_t batch) {
    int64_t words = n_out / LANES, tile = batch < ROWS ? words : TILE;
    int64_t apart = (end - begin) / PLACES;
    memset(y, 0, batch * n_out * sizeof(float));
    for (int64_t i = begin; i < begin + apart; i++)
        for (int64_t from = 0; from < words; from += tile) {
            int64_t to = from + tile < words ? from + tile : words, row = 0;
            for (; row + ROWS <= batch; row += ROWS)
                add_rows(w + i * words, apart * words, x + row * n_in + i, apart, n_in,
                         y + row * n_out, words, from, to, PLACES, ROWS);
            for (; row < batch; row++)
                add_rows(w + i * words, apart * words, x + row * n_in + i, apart, n_in,
                         y + row * n_out, words, from, to, PLACES, 1);
        }
    for (int64_t i = begin + apart * PLACES; i < end; i++)
        for (int64_t row = 0; row < batch; row++)
            add_rows(w + i * words, 0, x + row * n_in + i, 0, n_in, y + row * n_out, words, 0,
                     words, 1, 1);
}

enum { VECTOR = 16 };
typedef float vector __attribute__((vector_size(4 * VECTOR)));
typedef word word_vector __attribute__((vector_size(4 * VECTOR)));

/* y = x w^T, for `rows` rows of the batch and `places` rows of w. The rows of w are `stride` words
   apart, and the columns of y `apart`. x [.., LANES, words], y [.., n_out] */
INLINE void dots(const word *w, int64_t stride, const float *x, int64_t words, float *y,
                 int64_t apart, int64_t n_out, const int places, const int rows) {
    vector sum[PLACES][ROWS], v, u;
    word_vector read;
    int64_t i = 0;
    memset(sum, 0, sizeof sum);
    for (; i + VECTOR <= words; i += VECTOR)
#pragma GCC unroll 4
        for (int p = 0; p < places; p++) {
            memcpy(&read, w + p * stride + i, sizeof read);
#pragma GCC unroll 2
            for (int k = 0; k < LANES; k++) {
                v = (vector)LANE(read, k);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    memcpy(&u, x + (r * LANES + k) * words + i, sizeof u);
                    sum[p][r] += v * u;
                }
            }
        }
#pragma GCC unroll 4
    for (int p = 0; p < places; p++)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            float all = 0;
#pragma omp simd reduction(+ : all)
            for (int j = 0; j < VECTOR; j++) all += sum[p][r][j];
            for (int64_t rest = i; rest < words; rest++)
                for (int k = 0; k < LANES; k++)
                    all += (bits){.w = LANE(w[p * stride + rest], k)}.value *
                           x[(r * LANES + k) * words + rest];
            y[r * n_out + p * apart] = all;
        }
}

/* y = x w^T, outputs `begin` to `end`.
   x [batch, LANES, n_in / LANES], w [n_out, n_in], y [batch, n_out] */
static void head(const word *w, const float *x, float *y, int64_t begin, int64_t end, int64_t n_in,
                 int64_t n_out, int64_t batch) {
    int64_t words = n_in / LANES, apart = (end - begin) / PLACES;
    for (int64_t o = begin; o < begin + apart; o++) {
        int64_t row = 0;
        for (; row + ROWS <= batch; row += ROWS)
            dots(w + o * words, apart * words, x + row * n_in, words, y + row * n_out + o, apart,
                 n_out, PLACES, ROWS);
        for (; row < batch; row++)
            dots(w + o * words, apart * words, x + row * n_in, words, y + row * n_out + o, apart,
                 n_out, PLACES, 1);
    }
    for (int64_t o = begin + apart * PLACES; o < end; o++)
        for (int64_t row = 0; row < batch; row++)
            dots(w + o * words, 0, x + row * n_in, words, y + row * n_out + o, 0, n_out, 1, 1);
}

static void layer_norm(const float *x, const number *weight, const number *bias, float *y,
                       int64_t n, float epsilon) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    float mean = sum / n;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    float scale = 1 / sqrtf(squares / n + epsilon);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * scale * load(weight[i]) + load(bias[i]);
}

static inline float gelu(float x) { /* the tanh form: x (1 + tanh z) / 2 = x / (1 + exp -2z) */
    return x / (1 + expf(-2 * 0.7978845608f * (x + 0.044715f * x * x * x)));
}

/* Adds the bias and all threads' parts: outputs `begin` to `end` of a product, for one row. */
static void total(const Step *s, const float *sums, const number *bias, int64_t row, int64_t n_out,
                  float *y, int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t o = begin; o < end; o++) y[o] = load(bias[o]);
    for (int64_t thread = 0; thread < s->n_threads; thread++)
        for (int k = 0; k < LANES; k++) {
            const float *part = sums + ((thread * s->batch + row) * LANES + k) * (n_out / LANES);
            int64_t first = (begin - k + LANES - 1) / LANES; /* words that have such a lane */
            int64_t last = (end - k + LANES - 1) / LANES;
#pragma omp simd
            for (int64_t o = first; o < last; o++) y[o * LANES + k] += part[o];
        }
}

/* Attention of heads `first` to `last`, for a row whose new token has this position.
   keys, values [capacity, n_embd]; scores [n_head, capacity]; y [n_embd]. qkv [3 n_embd] is
   overwritten: once its keys and values are stored, `query` and `mixed` take their room. */
static void attention(const Step *s, float *qkv, number *keys, number *values, int64_t position,
                      int64_t first, int64_t last, float *scores, float *y) {
    int64_t n_embd = s->n_embd, width = n_embd / s->n_head;
    int64_t words = width / LANES, stride = n_embd / LANES;
    float *query = qkv + n_embd, *mixed = qkv + 2 * n_embd, scale = 1 / sqrtf(width);
    for (int64_t i = first * width; i < last * width; i++) {
        keys[position * n_embd + i] = rounded(qkv[n_embd + i]);
        values[position * n_embd + i] = rounded(qkv[2 * n_embd + i]);
    }
    for (int64_t head = first; head < last; head++)
        for (int64_t i = 0; i < width; i++) {
            query[head * width + i % LANES * words + i / LANES] = qkv[head * width + i] * scale;
            mixed[head * width + i] = 0;
        }
    for (int64_t seen = 0; seen <= position; seen += seen + PLACES <= position + 1 ? PLACES : 1)
        for (int64_t head = first; head < last; head++) {
            const word *key = (const word *)(keys + seen * n_embd + head * width);
            float *score = scores + head * s->capacity + seen;
            if (seen + PLACES <= position + 1)
                dots(key, stride, query + head * width, words, score, 1, 0, PLACES, 1);
            else
                dots(key, stride, query + head * width, words, score, 1, 0, 1, 1);
        }
    for (int64_t head = first; head < last; head++) { /* softmax */
        float *score = scores + head * s->capacity, largest = score[0], sum = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t seen = 0; seen <= position; seen++)
            largest = score[seen] > largest ? score[seen] : largest;
#pragma omp simd reduction(+ : sum)
        for (int64_t seen = 0; seen <= position; seen++)
            sum += score[seen] = expf(score[seen] - largest);
#pragma omp simd
        for (int64_t seen = 0; seen <= position; seen++) score[seen] /= sum;
    }
    for (int64_t seen = 0; seen <= position; seen += seen + PLACES <= position + 1 ? PLACES : 1)
        for (int64_t head = first; head < last; head++) {
            const word *value = (const word *)(values + seen * n_embd + head * width);
            const float *score = scores + head * s->capacity + seen;
            if (seen + PLACES <= position + 1)
                add_rows(value, stride, score, 1, 0, mixed + head * width, words, 0, words,
                         PLACES, 1);
            else
                add_rows(value, stride, score, 1, 0, mixed + head * width, words, 0, words,
                         1, 1);
        }
    for (int64_t head = first; head < last; head++)
        for (int64_t i = 0; i < width; i++)
            y[head * width + i] = mixed[head * width + i % LANES * words + i / LANES];
}

/* The work of one thread. token_ids, positions: int64 [batch]; logits [batch, vocab_size].
   Each thread has its own residual stream x, so barriers are needed only before a thread reads the
   others' sums, or what they attended to. */
static void run(const Step *s, const int64_t *token_ids, const int64_t *positions, float *logits,
                int64_t thread) {
    int64_t batch = s->batch, n_embd = s->n_embd, n_inner = s->n_inner, n = s->n_threads;
    int64_t widest = 3 * n_embd > n_inner ? 3 * n_embd : n_inner, width = n_embd / s->n_head;
    /* The heads, rows of n_embd and rows of n_inner that are this thread's. */
    int64_t first = thread * s->n_head / n, last = (thread + 1) * s->n_head / n;
    int64_t begin = thread * n_embd / n, end = (thread + 1) * n_embd / n;
    int64_t inner_begin = thread * n_inner / n, inner_end = (thread + 1) * n_inner / n;
    int64_t own = batch * (2 * n_embd + widest) + s->n_head * s->capacity;
    float *x = s->own + thread * own;      /* [batch, n_embd] */
    float *normed = x + batch * n_embd;    /* [batch, n_embd] */
    float *wide = normed + batch * n_embd; /* [batch, widest] */
    float *scores = wide + batch * widest; /* [n_head, capacity] */
    /* Products use these in turn, because other threads may still read the one before. */
    float *wide_sums = s->sums, *sums = s->sums + n * batch * widest;
    const void *const *w = s->weights + BLOCKS;

    for (int64_t row = 0; row < batch; row++) {
        const number *wte = (const number *)s->weights[WTE] + token_ids[row] * n_embd;
        const number *wpe = (const number *)s->weights[WPE] + positions[row] * n_embd;
        for (int64_t i = 0; i < n_embd; i++) x[row * n_embd + i] = load(wte[i]) + load(wpe[i]);
    }
    for (int64_t layer = 0; layer < s->n_layer; layer++, w += TENSORS_PER_BLOCK) {
        for (int64_t row = 0; row < batch; row++)
            layer_norm(x + row * n_embd, w[LN_1], w[LN_1_BIAS], normed + row * n_embd, n_embd,
                       s->epsilon);
        product(w[ATTN], normed, wide_sums + thread * batch * 3 * n_embd, begin, end, n_embd,
                3 * n_embd, batch);
#pragma omp barrier
        for (int64_t row = 0; row < batch; row++) {
            int64_t cached = (layer * batch + row) * s->capacity * n_embd;
            for (int64_t part = 0; part < 3 * n_embd; part += n_embd) /* queries, keys, values */
                total(s, wide_sums, w[ATTN_BIAS], row, 3 * n_embd, wide, part + first * width,
                      part + last * width);
            attention(s, wide, s->keys + cached, s->values + cached, positions[row], first, last,
                      scores, s->attended + row * n_embd);
        }
#pragma omp barrier
        product(w[PROJ], s->attended, sums + thread * batch * n_embd, begin, end, n_embd, n_embd,
                batch);
#pragma omp barrier
        for (int64_t row = 0; row < batch; row++) {
            total(s, sums, w[PROJ_BIAS], row, n_embd, wide, 0, n_embd);
            for (int64_t i = 0; i < n_embd; i++) x[row * n_embd + i] += wide[i];
            layer_norm(x + row * n_embd, w[LN_2], w[LN_2_BIAS], normed + row * n_embd, n_embd,
                       s->epsilon);
        }
        product(w[FC], normed, wide_sums + thread * batch * n_inner, begin, end, n_embd, n_inner,
                batch);
#pragma omp barrier
        for (int64_t row = 0; row < batch; row++) {
            float *activated = wide + row * n_inner;
            total(s, wide_sums, w[FC_BIAS], row, n_inner, activated, inner_begin, inner_end);
#pragma omp simd
            for (int64_t i = inner_begin; i < inner_end; i++) activated[i] = gelu(activated[i]);
        }
        product(w[MLP_PROJ], wide, sums + thread * batch * n_embd, inner_begin, inner_end, n_inner,
                n_embd, batch);
#pragma omp barrier
        for (int64_t row = 0; row < batch; row++) {
            total(s, sums, w[MLP_PROJ_BIAS], row, n_embd, wide, 0, n_embd);
            for (int64_t i = 0; i < n_embd; i++) x[row * n_embd + i] += wide[i];
        }
    }
    for (int64_t row = 0; row < batch; row++) {
        layer_norm(x + row * n_embd, w[0], w[1], normed, n_embd, s->epsilon);
        for (int64_t i = 0; i < n_embd; i++)
            wide[row * n_embd + i % LANES * (n_embd / LANES) + i / LANES] = normed[i];
    }
    int64_t head_begin = thread * s->vocab_size / n, head_end = (thread + 1) * s->vocab_size / n;
    head(s->weights[WTE], wide, logits, head_begin, head_end, n_embd, s->vocab_size, batch);
}

void step(const Step *given, const int64_t *token_ids, const int64_t *positions, float *logits) {
#pragma omp parallel num_threads(given->n_threads)
    {
        Step s = *given;
        s.n_threads = omp_get_num_threads(); /* may be fewer than given */
        run(&s, token_ids, positions, logits, omp_get_thread_num());
    }
}
