/* Products of a matrix w and a few rows x, one for each row of the batch.

   Both kinds compute in tiles: up to `ROWS` rows of x times `WIDE` vectors of each row of w, or
   `WIDE` rows of w. The sums of a tile take three quarters of the registers; w and x, the others.
   A copy of a part of w has another shape of tile, which is faster where there are 16 registers.
   With one row, the time is that of reading w, which is faster at several places at once, far
   apart. With several, it is that of the arithmetic, if the caches have w when a tile needs it. */

#include "numbers.h"

enum { WIDE = 3, ROWS = REGISTERS / 4, MOST_ROWS = 8 };
enum { PACKED_WIDE = REGISTERS == 16 ? 2 : WIDE, PACKED_ROWS = REGISTERS == 16 ? 6 : ROWS };
enum { PLACES = 4, DEPTH = 16 };        /* rows of w read together: for one row of x, for several */
enum { AHEAD = 2048 / sizeof(number) }; /* each place is fetched so far ahead of reading it */
enum { MANY = 12 }; /* rows of x, from which on parts of w are copied: so many rows and numbers */
enum { DEEP = 64, PANEL = 4 * PACKED_WIDE * VECTOR };

/* Calls `tile` for all rows of the batch, for at most `most` at once and about as many each time. It
   gets constants, so that sums stay in registers. */
#define FOR_ROWS(batch, most, tile)                            \
    for (int64_t row = 0, rows; row < batch; row += rows) {    \
        int64_t left = batch - row, tiles = 1;                 \
        if (left > most) tiles = (left + most - 1) / most;     \
        rows = tiles == 1 ? left : (left + tiles - 1) / tiles; \
        switch (rows) {                                        \
            ROWS_CASE(1, most, tile)                           \
            ROWS_CASE(2, most, tile)                           \
            ROWS_CASE(3, most, tile)                           \
            ROWS_CASE(4, most, tile)                           \
            ROWS_CASE(5, most, tile)                           \
            ROWS_CASE(6, most, tile)                           \
            ROWS_CASE(7, most, tile)                           \
            ROWS_CASE(8, most, tile)                           \
        }                                                      \
    }
#define ROWS_CASE(rows, most, tile)   \
    case rows:                        \
        if (rows <= most) tile(rows); \
        break;

/* y += x w, for `wide` vectors of y. The rows of w are `stride` numbers apart, the columns of x
   `apart`; what lies `ahead` of w is fetched. x [rows, .. n_in], y [rows, .. n_out] */
INLINE void add_tile(const number *w, int64_t stride, int64_t ahead, const float *x, int64_t apart,
                     int64_t n_in, int64_t depth, float *y, int64_t n_out, const int wide,
                     const int rows) {
    vector sum[MOST_ROWS][WIDE], read[WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int c = 0; c < wide; c++) sum[r][c] = load_floats(y + r * n_out + c * VECTOR);
    for (int64_t i = 0; i < depth; i++, w += stride, x += apart) {
#pragma GCC unroll 3
        for (int c = 0; c < wide; c++) {
            read[c] = load_vector(w + c * VECTOR);
            __builtin_prefetch(w + c * VECTOR + ahead);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
            for (int c = 0; c < wide; c++) sum[r][c] += read[c] * x[r * n_in];
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int c = 0; c < wide; c++)
            memcpy(y + r * n_out + c * VECTOR, &sum[r][c], sizeof(vector));
}

/* y += x w, for `depth` rows of w and `width` outputs, in tiles of `wide` vectors and at most `most`
   rows. Distances are those of `add_tile`. */
INLINE void add(const number *w, int64_t stride, int64_t ahead, const float *x, int64_t apart,
                int64_t n_in, int64_t depth, float *y, int64_t n_out, int64_t width, int64_t batch,
                const int wide, const int most) {
    int64_t o = 0;
#define TILE(rows)                                                                        \
    add_tile(w + o, stride, ahead, x + row * n_in, apart, n_in, depth, y + row * n_out + o, \
             n_out, wide, rows)
    for (; o + wide * VECTOR <= width; o += wide * VECTOR) FOR_ROWS(batch, most, TILE)
#undef TILE
    for (int64_t row = 0; row < batch; row++) {
        int64_t rest = o;
        for (; rest + VECTOR <= width; rest += VECTOR)
            add_tile(w + rest, stride, ahead, x + row * n_in, apart, n_in, depth,
                     y + row * n_out + rest, n_out, 1, 1);
        for (; rest < width; rest++)
            for (int64_t i = 0; i < depth; i++)
                y[row * n_out + rest] += load(w[i * stride + rest]) * x[row * n_in + i * apart];
    }
}

/* Copies `width` numbers of `depth` rows of w, and fetches those after them. */
static void pack(number *packed, const number *w, int64_t n_out, int64_t depth, int64_t width) {
    for (int64_t i = 0; i < depth; i++, w += n_out, packed += width) {
        for (int64_t o = 0; o < width; o += 64 / sizeof(number)) __builtin_prefetch(w + width + o);
        memcpy(packed, w, width * sizeof(number));
    }
}

/* y += x w, in parts of w that are copied: a cache can't hold many lines of memory that lie a
   multiple of 4096 bytes apart, as the rows of w may. Arguments are those of `product`. */
static void add_packed(const number *w, const float *x, float *y, int64_t begin, int64_t end,
                       int64_t n_in, int64_t n_out, int64_t batch) {
    number packed[DEEP * PANEL];
    for (int64_t i = begin, depth; i < end; i += depth) {
        depth = end - i < DEEP ? end - i : DEEP;
        for (int64_t o = 0, width; o < n_out; o += width) {
            width = n_out - o < PANEL ? n_out - o : PANEL;
            pack(packed, w + i * n_out + o, n_out, depth, width);
            add(packed, width, 0, x + i, 1, n_in, depth, y + o, n_out, width, batch, PACKED_WIDE,
                PACKED_ROWS);
        }
    }
}

/* y = x w, the sum over rows `begin` to `end` of w only.
   x [batch, n_in], w [n_in, n_out], y [batch, n_out] */
static void product(const number *w, const float *x, float *y, int64_t begin, int64_t end,
                    int64_t n_in, int64_t n_out, int64_t batch) {
    int64_t i = begin, apart = (end - begin) / PLACES;
    memset(y, 0, batch * n_out * sizeof(float));
    if (batch >= MANY) {
        add_packed(w, x, y, begin, end, n_in, n_out, batch);
        return;
    }
    if (batch == 1) {
        for (; i < begin + apart; i++)
            add(w + i * n_out, apart * n_out, AHEAD, x + i, apart, n_in, PLACES, y, n_out, n_out,
                1, WIDE, 1);
        i = begin + apart * PLACES;
    }
    for (int64_t depth; i < end; i += depth) { /* the next rows are fetched while these are read */
        depth = end - i < DEPTH ? end - i : DEPTH;
        add(w + i * n_out, n_out, DEPTH * n_out, x + i, 1, n_in, depth, y, n_out, n_out, batch,
            WIDE, ROWS);
    }
}

/* y = x w^T, for `wide` rows of w. They are `stride` numbers apart, and the columns of y `apart`.
   x [rows, n_in], y [rows, .. n_out] */
INLINE void dots_tile(const number *w, int64_t stride, const float *x, int64_t n_in, float *y,
                      int64_t apart, int64_t n_out, const int wide, const int rows) {
    vector sum[WIDE][MOST_ROWS] = {{{0}}}, read;
    int64_t i = 0;
    for (; i + VECTOR <= n_in; i += VECTOR)
#pragma GCC unroll 3
        for (int c = 0; c < wide; c++) {
            read = load_vector(w + c * stride + i);
            __builtin_prefetch(w + c * stride + i + AHEAD);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sum[c][r] += read * load_floats(x + r * n_in + i);
        }
#pragma GCC unroll 3
    for (int c = 0; c < wide; c++)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float all = 0;
#pragma omp simd reduction(+ : all)
            for (int j = 0; j < VECTOR; j++) all += sum[c][r][j];
            for (int64_t rest = i; rest < n_in; rest++)
                all += load(w[c * stride + rest]) * x[r * n_in + rest];
            y[r * n_out + c * apart] = all;
        }
}

/* y = x w^T, outputs `begin` to `end`. The rows of w are `stride` numbers apart.
   x [batch, n_in], w [n_out, .. n_in], y [batch, n_out] */
static void dots(const number *w, int64_t stride, const float *x, float *y, int64_t begin,
                 int64_t end, int64_t n_in, int64_t n_out, int64_t batch) {
    int64_t apart = (end - begin) / WIDE;
#define TILE(rows)                                                                         \
    dots_tile(w + o * stride, apart * stride, x + row * n_in, n_in, y + row * n_out + o, apart, \
              n_out, WIDE, rows)
    for (int64_t o = begin; o < begin + apart; o++) FOR_ROWS(batch, ROWS, TILE)
#undef TILE
    for (int64_t o = begin + apart * WIDE; o < end; o++)
        for (int64_t row = 0; row < batch; row++)
            dots_tile(w + o * stride, 0, x + row * n_in, n_in, y + row * n_out + o, 0, n_out, 1, 1);
}
