/* Runs a step on what it reads, and writes the logits, keys and values: see test_step_in_c.py. */

#include <stdio.h>
#include <stdlib.h>

#include "step.c"

static void *read_all(int64_t n, size_t size) {
    void *found = calloc(n, size);
    if (fread(found, size, n, stdin) != (size_t)n) exit(1);
    return found;
}

int main(void) {
    int64_t *given = read_all(10, sizeof *given);
    Step s = {.in_out = given[0], .n_layer = given[1], .n_head = given[2], .n_embd = given[3],
              .n_inner = given[4], .vocab_size = given[5], .n_rows = given[6],
              .capacity = given[7], .n_threads = given[8], .n_tokens = given[9], .epsilon = 1e-5f};
    int64_t n_weights = BLOCKS + s.n_layer * TENSORS_PER_BLOCK + 2;
    int64_t widest = 3 * s.n_embd > s.n_inner ? 3 * s.n_embd : s.n_inner;
    int64_t cached = s.n_layer * s.n_rows * s.capacity * s.n_embd;
    int64_t own = s.n_tokens * (2 * s.n_embd + widest) + s.n_head * s.capacity;
    void **weights = calloc(n_weights, sizeof *weights);
    int64_t *sizes = read_all(n_weights, sizeof *sizes);
    for (int64_t i = 0; i < n_weights; i++) weights[i] = read_all(sizes[i], sizeof(number));
    s.weights = (const void *const *)weights;
    s.keys = read_all(cached, sizeof(number));
    s.values = read_all(cached, sizeof(number));
    s.sums = calloc(2 * s.n_threads * s.n_tokens * widest, sizeof(float));
    s.attended = calloc(s.n_tokens * s.n_embd, sizeof(float));
    s.activated = calloc(s.n_tokens * s.n_inner, sizeof(float));
    s.own = calloc(s.n_threads * own, sizeof(float));
    s.token_ids = read_all(s.n_tokens, sizeof *s.token_ids);
    s.rows = read_all(s.n_tokens, sizeof *s.rows);
    s.positions = read_all(s.n_tokens, sizeof *s.positions);
    s.last = read_all(s.n_rows, sizeof *s.last);
    float *logits = calloc(s.n_rows * s.vocab_size, sizeof *logits);
    step(&s, logits);
    fwrite(logits, sizeof *logits, s.n_rows * s.vocab_size, stdout);
    fwrite(s.keys, sizeof(number), cached, stdout);
    fwrite(s.values, sizeof(number), cached, stdout);
    return 0;
}
