/* One row of float32 numbers by a matrix [out, in]: y[o] = bias[o] + the sum over i of w[o][i] * x[i].
   It takes as long as reading the matrix does, so each thread reads its part from beginning to end. */

#include <omp.h>
#include <stdint.h>
#include <string.h>

/* The matrix is stored [out, in]: each output is a sum of its own. */
void by_rows(const float *w, const float *x, const float *bias, float *y, int64_t n_in, int64_t n_out, int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t o = 0; o < n_out; o++) {
        const float *row = w + o * n_in;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n_in; i++) sum += row[i] * x[i];
        y[o] = bias ? sum + bias[o] : sum;
    }
}

/* The matrix is stored [in, out]: each thread adds up all outputs over its share of the inputs, in its row of `sums`
   [n_threads, out]. Several inputs at once, so that the sums are loaded and stored less often than the matrix. */
enum { AT_ONCE = 8 };

void by_columns(const float *w, const float *x, const float *bias, float *y, int64_t n_in, int64_t n_out, int n_threads,
                float *sums) {
#pragma omp parallel num_threads(n_threads)
    {
        int64_t thread = omp_get_thread_num(), n = omp_get_num_threads();
        int64_t i = thread * n_in / n, end = (thread + 1) * n_in / n;
        float *sum = sums + thread * n_out;
        memset(sum, 0, n_out * sizeof(float));
        for (; i + AT_ONCE <= end; i += AT_ONCE) {
            const float *rows = w + i * n_out;
#pragma omp simd
            for (int64_t o = 0; o < n_out; o++) {
                float add = 0;
#pragma GCC unroll 8
                for (int j = 0; j < AT_ONCE; j++) add += rows[j * n_out + o] * x[i + j];
                sum[o] += add;
            }
        }
        for (; i < end; i++)
#pragma omp simd
            for (int64_t o = 0; o < n_out; o++) sum[o] += w[i * n_out + o] * x[i];
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t o = 0; o < n_out; o++) {
            float all = bias ? bias[o] : 0;
            for (int64_t t = 0; t < n; t++) all += sums[t * n_out + o];
            y[o] = all;
        }
    }
}
