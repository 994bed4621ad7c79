/* A step of GPT-2 on the CPU: feeds each row of a cache one token, or a few, and computes the logits
   of the next one.

   With one token, a step can't be faster than reading the weights; this code is arranged for that.
   Each thread multiplies a contiguous part of every matrix. It reads the part at several places at
   once, which is faster. Between two products there is little to compute: each thread computes what
   it needs by itself.

   OpenMP may grant fewer threads than `n_threads`; `step` divides the work among those. */

#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "products.h"

/* The order of `weights`: the embeddings, the tensors of each block, the final LayerNorm's two. */
enum { WTE, WPE, BLOCKS };
enum {
    LN_1, LN_1_BIAS, ATTN, ATTN_BIAS, PROJ, PROJ_BIAS,
    LN_2, LN_2_BIAS, FC, FC_BIAS, MLP_PROJ, MLP_PROJ_BIAS,
    TENSORS_PER_BLOCK
};

typedef struct {
    const void *const *weights;
    int64_t in_out; /* 1 if the blocks' matrices are [in, out], 0 if they are [out, in] */
    int64_t n_layer, n_head, n_embd, n_inner, vocab_size, n_rows, capacity, n_threads;
    float epsilon;
    number *keys, *values; /* [n_layer, n_rows, capacity, n_embd] */
    float *sums;           /* [2, n_threads, n_tokens, widest]: each thread's part of two products */
    float *attended;       /* [n_tokens, n_embd] */
    float *activated;      /* [n_tokens, n_inner] */
    float *own;            /* [n_threads, n_tokens * (2 n_embd + widest) + n_head * capacity] */
    /* Those that are fed now. The tokens of a row follow each other. */
    int64_t n_tokens;
    const int64_t *token_ids, *rows, *positions; /* [n_tokens] */
    const int64_t *last;                         /* [n_rows]: the last token of each row */
} Step;

/* x [n_tokens, n_in] times a block's matrix. A thread multiplies its share of the rows of w: of
   [in, out], the result is its part of each output; of [out, in], some of the outputs. */
static void multiply(const Step *s, const number *w, const float *x, float *sums, int64_t n_in,
                     int64_t n_out, int64_t thread) {
    int64_t rows = s->in_out ? n_in : n_out;
    int64_t begin = thread * rows / s->n_threads, end = (thread + 1) * rows / s->n_threads;
    if (s->in_out)
        product(w, x, sums + thread * s->n_tokens * n_out, begin, end, n_in, n_out, s->n_tokens);
    else
        dots(w, n_in, x, sums, begin, end, n_in, n_out, s->n_tokens);
}

/* Adds the bias and all threads' parts: outputs `begin` to `end` of a product, for one token. */
static void total(const Step *s, const float *sums, const number *bias, int64_t token,
                  int64_t n_out, float *y, int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t o = begin; o < end; o++) y[o] = load(bias[o]);
    for (int64_t part = 0; part < (s->in_out ? s->n_threads : 1); part++) {
        const float *sum = sums + (part * s->n_tokens + token) * n_out;
#pragma omp simd
        for (int64_t o = begin; o < end; o++) y[o] += sum[o];
    }
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

/* e^x, which compilers turn into vectors, as they can't every library's expf. x = n ln 2 + r, with r
   at most half of ln 2; the polynomial is fitted to e^r within 0.03 units in the last place. */
INLINE float exponential(float x) {
    x = x > 88 ? 88 : x < -87 ? -87 : x; /* NaN stays; the others can be represented */
    float shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f; /* rounds to an integer */
    float r = x - n * 0.693145752f - n * 1.42860682e-6f;                  /* ln 2 in two parts */
    float p = 8.36874545e-3f + r * 1.38145394e-3f;
    p = 0.5f + r * (0.166665211f + r * (0.041668389f + r * p));
    return (1 + (r + r * r * p)) * (bits){.w = ((bits){.value = shifted}.w + 127) << 23}.value;
}

static inline float gelu(float x) { /* the tanh form: x (1 + tanh z) / 2 = x / (1 + exp -2z) */
    return x / (1 + exponential(-2 * 0.7978845608f * (x + 0.044715f * x * x * x)));
}

/* Attention of heads `first` to `last`, for a token with this position, which the cache then has.
   keys, values [capacity, n_embd]; scores [n_head, capacity]; y [n_embd]. qkv [3 n_embd] */
static void attention(const Step *s, float *qkv, number *keys, number *values, int64_t position,
                      int64_t first, int64_t last, float *scores, float *y) {
    int64_t n_embd = s->n_embd, width = n_embd / s->n_head, n_seen = position + 1;
    float scale = 1 / sqrtf(width);
    for (int64_t i = first * width; i < last * width; i++) {
        keys[position * n_embd + i] = rounded(qkv[n_embd + i]);
        values[position * n_embd + i] = rounded(qkv[2 * n_embd + i]);
        qkv[i] *= scale;
        y[i] = 0;
    }
    for (int64_t seen = 0; seen < n_seen; seen += DEPTH)
        for (int64_t head = first; head < last; head++)
            dots(keys + head * width, n_embd, qkv + head * width, scores + head * s->capacity,
                 seen, seen + DEPTH < n_seen ? seen + DEPTH : n_seen, width, 0, 1);
    for (int64_t head = first; head < last; head++) { /* softmax */
        float *score = scores + head * s->capacity, largest = score[0], sum = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t seen = 0; seen < n_seen; seen++)
            largest = score[seen] > largest ? score[seen] : largest;
#pragma omp simd reduction(+ : sum)
        for (int64_t seen = 0; seen < n_seen; seen++)
            sum += score[seen] = exponential(score[seen] - largest);
#pragma omp simd
        for (int64_t seen = 0; seen < n_seen; seen++) score[seen] /= sum;
    }
    for (int64_t seen = 0; seen < n_seen; seen += DEPTH)
        for (int64_t head = first; head < last; head++)
            add(values + seen * n_embd + head * width, n_embd, DEPTH * n_embd,
                scores + head * s->capacity + seen, 1, 0,
                seen + DEPTH < n_seen ? DEPTH : n_seen - seen, y + head * width, 0, width, 1,
                WIDE, 1);
}

/* The work of one thread. logits [n_rows, vocab_size].
   Each thread has its own residual stream x, so barriers are needed only before a thread reads the
   others' sums, or what they attended to or activated. */
static void run(const Step *s, float *logits, int64_t thread) {
    int64_t n_tokens = s->n_tokens, n_embd = s->n_embd, n_inner = s->n_inner, n = s->n_threads;
    int64_t widest = 3 * n_embd > n_inner ? 3 * n_embd : n_inner, width = n_embd / s->n_head;
    /* The heads, and the activations, that are this thread's. */
    int64_t first = thread * s->n_head / n, last = (thread + 1) * s->n_head / n;
    int64_t inner_begin = thread * n_inner / n, inner_end = (thread + 1) * n_inner / n;
    int64_t own = n_tokens * (2 * n_embd + widest) + s->n_head * s->capacity;
    float *x = s->own + thread * own;         /* [n_tokens, n_embd] */
    float *normed = x + n_tokens * n_embd;    /* [n_tokens, n_embd] */
    float *wide = normed + n_tokens * n_embd; /* [n_tokens, widest] */
    float *scores = wide + n_tokens * widest; /* [n_head, capacity] */
    /* Products use these in turn, because other threads may still read the one before. */
    float *wide_sums = s->sums, *sums = s->sums + n * n_tokens * widest;
    const void *const *w = s->weights + BLOCKS;

    for (int64_t token = 0; token < n_tokens; token++) {
        const number *wte = (const number *)s->weights[WTE] + s->token_ids[token] * n_embd;
        const number *wpe = (const number *)s->weights[WPE] + s->positions[token] * n_embd;
        for (int64_t i = 0; i < n_embd; i++) x[token * n_embd + i] = load(wte[i]) + load(wpe[i]);
    }
    for (int64_t layer = 0; layer < s->n_layer; layer++, w += TENSORS_PER_BLOCK) {
        for (int64_t token = 0; token < n_tokens; token++)
            layer_norm(x + token * n_embd, w[LN_1], w[LN_1_BIAS], normed + token * n_embd, n_embd,
                       s->epsilon);
        multiply(s, w[ATTN], normed, wide_sums, n_embd, 3 * n_embd, thread);
#pragma omp barrier
        for (int64_t token = 0; token < n_tokens; token++) {
            int64_t cached = (layer * s->n_rows + s->rows[token]) * s->capacity * n_embd;
            for (int64_t part = 0; part < 3 * n_embd; part += n_embd) /* queries, keys, values */
                total(s, wide_sums, w[ATTN_BIAS], token, 3 * n_embd, wide, part + first * width,
                      part + last * width);
            attention(s, wide, s->keys + cached, s->values + cached, s->positions[token], first,
                      last, scores, s->attended + token * n_embd);
        }
#pragma omp barrier
        multiply(s, w[PROJ], s->attended, sums, n_embd, n_embd, thread);
#pragma omp barrier
        for (int64_t token = 0; token < n_tokens; token++) {
            total(s, sums, w[PROJ_BIAS], token, n_embd, wide, 0, n_embd);
            for (int64_t i = 0; i < n_embd; i++) x[token * n_embd + i] += wide[i];
            layer_norm(x + token * n_embd, w[LN_2], w[LN_2_BIAS], normed + token * n_embd, n_embd,
                       s->epsilon);
        }
        multiply(s, w[FC], normed, wide_sums, n_embd, n_inner, thread);
        if (s->in_out) {
#pragma omp barrier
        }
        for (int64_t token = 0; token < n_tokens; token++) {
            float *activated = s->activated + token * n_inner;
            total(s, wide_sums, w[FC_BIAS], token, n_inner, activated, inner_begin, inner_end);
#pragma omp simd
            for (int64_t i = inner_begin; i < inner_end; i++) activated[i] = gelu(activated[i]);
        }
        if (!s->in_out) {
#pragma omp barrier
        }
        multiply(s, w[MLP_PROJ], s->activated, sums, n_inner, n_embd, thread);
#pragma omp barrier
        for (int64_t token = 0; token < n_tokens; token++) {
            total(s, sums, w[MLP_PROJ_BIAS], token, n_embd, wide, 0, n_embd);
            for (int64_t i = 0; i < n_embd; i++) x[token * n_embd + i] += wide[i];
        }
    }
    for (int64_t row = 0; row < s->n_rows; row++)
        layer_norm(x + s->last[row] * n_embd, w[0], w[1], normed + row * n_embd, n_embd,
                   s->epsilon);
    dots(s->weights[WTE], n_embd, normed, logits, thread * s->vocab_size / n,
         (thread + 1) * s->vocab_size / n, n_embd, s->vocab_size, s->n_rows);
}

/* Notes how many threads OpenMP has granted, and returns the number of this one. */
static int64_t join(Step *s) {
#ifdef _OPENMP
    s->n_threads = omp_get_num_threads();
    return omp_get_thread_num();
#else
    s->n_threads = 1;
    return 0;
#endif
}

void step(const Step *given, float *logits) {
#pragma omp parallel num_threads(given->n_threads)
    {
        Step s = *given;
        int64_t thread = join(&s);
        run(&s, logits, thread);
    }
}

/* One product with a matrix of a block, to be timed. x [n_tokens, n_in] */
void product_alone(const Step *given, const number *w, const float *x, int64_t n_in,
                   int64_t n_out) {
#pragma omp parallel num_threads(given->n_threads)
    {
        Step s = *given;
        int64_t thread = join(&s);
        multiply(&s, w, x, s.sums, n_in, n_out, thread);
    }
}
