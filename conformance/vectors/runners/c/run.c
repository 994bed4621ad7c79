/* Runs the vectors on a GPT-2 in C. Nothing but libc and libm.
 *
 *     cc -O2 -o run run.c -lm
 *     ./run VECTORS > answers.json
 *
 * What failed, and which mistake it looks like, is on standard error. The GPT-2 is the one that is included: it has
 * load(), forward(), token_ids_of() and answer(), which prints {"error": "..."} and leaves the case. JSON is searched
 * for what is needed, as in gpt2.c.
 */
#define main main_of_gpt2
#include "gpt2.c"
#undef main

enum { MOST_CALLS = 64 };
static FILE *text;  /* the answers of a case; they are printed when all are there */
static double *own; /* their numbers, in the order in which they are written */
static size_t n_own;
static Cache caches[MOST_CALLS];

static int is(const char *json, const char *word) { return json && !strncmp(json, word, strlen(word)); }

static void write_number(double value, const char *format) {
    own = realloc(own, (n_own + 1) * sizeof *own);
    own[n_own++] = value;
    fprintf(text, isfinite(value) ? format : "null", value);
}

/* [3, 5] -> 3 and 5, and how many there are; null -> all numbers below n. */
static int listed(const char *json, int n, int *numbers) {
    int found = 0;
    if (is(json, "null"))
        for (; found < n; found++) numbers[found] = found;
    else
        for (; *json != ']'; found++) numbers[found] = (int)strtol(json + 1, (char **)&json, 10);
    return found;
}

/* Writes [row][position][token]. */
static void write_logits(const char *call, const char *tokens, int at) {
    int batch, time, *ids = token_ids_of(call, &batch, &time);
    Cache *past = is(find(call, "do"), "\"step\"") ? caches + (int)number(call, "after", 0) : NULL;
    float *logits = forward(ids, batch, time, past, caches + at);
    int *positions = allocate(time, sizeof(int)), *shown = allocate(vocab_size, sizeof(int));
    int n_positions_shown = listed(find(call, "positions"), time, positions), n = listed(tokens, vocab_size, shown);
    for (int b = 0; b < batch; b++)
        for (int p = 0; p < n_positions_shown; p++)
            for (int t = 0; t < n; t++) {
                fprintf(text, t ? ", " : p ? "], [" : b ? "]], [[" : "[[[");
                write_number(logits[((size_t)b * time + positions[p]) * vocab_size + shown[t]], "%.9g");
            }
    fprintf(text, "]]]");
    free(ids), free(logits), free(positions), free(shown);
}

/* Writes the new tokens of each row. It feeds all tokens again at each step. */
static void write_tokens(const char *call) {
    if (number(call, "temperature", 1) != 0) answer("not_applicable", "generates at temperature 0 only");
    int batch, time, steps = (int)number(call, "max_new_tokens", 0), *prompts = token_ids_of(call, &batch, &time);
    for (int b = 0; b < batch; b++) {
        int *ids = allocate(time + steps, sizeof *ids);
        memcpy(ids, prompts + b * time, time * sizeof *ids);
        fprintf(text, b ? "], [" : "[[");
        for (int end = time; end < time + steps; end++) {
            int seen = end < n_positions ? end : n_positions, best = 0;
            Cache cache;
            float *logits = forward(ids + end - seen, 1, seen, NULL, &cache), *last = logits + (size_t)(seen - 1) * vocab_size;
            for (int token = 1; token < vocab_size; token++)
                if (last[token] > last[best]) best = token;
            free(logits), free(cache.keys), free(cache.values);
            if (best == EOS) break;
            fprintf(text, end > time ? ", " : "");
            write_number(ids[end] = best, "%.0f");
        }
        free(ids);
    }
    fprintf(text, "]]");
    free(prompts);
}

static void write_answers(const char *test, const char *folder) {
    const char *tokens = find(test, "tokens"), *call = find(test, "calls");
    for (int at = 0; (call = strstr(call, "{\"do\":")) && call < tokens; call++, at++) {
        const char *method = find(call, "do");
        if (!at) load(folder);
        fprintf(text, at ? ", " : "[");
        if (is(method, "\"logits\"") || is(method, "\"prefill\"") || is(method, "\"step\"")) write_logits(call, tokens, at);
        else if (is(method, "\"generate\"")) write_tokens(call);
        else answer("not_applicable", "there is no such method");
    }
    fprintf(text, "]");
}

/* Whether the numbers of a text, up to its end, are those of the answers. Brackets and commas are passed over. */
static int alike(const char *json, const char *end, double allowed) {
    for (size_t n = 0;; n++) {
        json += strspn(json, " \n[],");
        if (json >= end || (*json != '-' && (*json < '0' || *json > '9'))) return n == n_own;
        double right = strtod(json, (char **)&json);
        if (n == n_own || !(fabs(own[n] - right) <= allowed)) return 0;
    }
}

/* Prints the mistakes that give these logits of one call, where they differ most. */
static void name_mistakes(const char *test, double allowed) {
    const char *call = find(test, "calls"), *at = find(test, "mistakes");
    int batch, time, n = 0, *ids = token_ids_of(call, &batch, &time), *shown = allocate(vocab_size, sizeof(int));
    n = listed(find(test, "tokens"), vocab_size, shown);
    for (const char *name = at; (name = strstr(name, "\n \"")); name++) {
        const char *end = strchr(name + 1, '\n'), *place = name;
        int fits = 0, places = 0;
        while ((place = find(place, "at")) && place < end) {
            int path[4];
            if (listed(place, 0, path) != 4) break;
            size_t index = ((size_t)path[1] * time + path[2]) * n + path[3];
            places++, fits += index < n_own && fabs(own[index] - number(place, "is", NAN)) <= 2 * allowed;
        }
        if (places && fits == places) fprintf(stderr, "    you have %.*s\n", (int)strcspn(name + 3, "\""), name + 3);
    }
    free(ids), free(shown);
}

static int fails(const char *test, const char *id) {
    const char *expected = find(test, "expected"), *accepted = find(test, "accepted");
    const char *right = find(expected, "answers"), *allowed = find(expected, "allowed");
    double error = right && right < accepted ? number(allowed, "float32", 0) : 0;
    if (right && right < accepted && alike(right, allowed, error)) return 0;
    fprintf(stderr, "FAILED %s\n", id);
    if (error > 0 && is(find(find(test, "calls"), "do"), "\"logits\"")) name_mistakes(test, error);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: run VECTORS > answers.json\n"), 2;
    if (setjmp(next_request)) return 2; /* the index can't be read, as answer() has said */
    size_t size;
    volatile int failed = 0, first = 1;
    const char *volatile at = strstr(read_file(argv[1], "index.json", &size), "\"cases\":");
    printf("{\"format\": 1, \"name\": \"gpt2.c\", \"answers\": {");
    while ((at = strstr(at + 1, "\"file\":"))) {
        char file[200], id[200], folder[4096], *content;
        snprintf(file, sizeof file, "%.*s", (int)strcspn(at + 9, "\""), at + 9);
        char *test = read_file(argv[1], file, &size), *checkpoint = (char *)find(test, "checkpoint") + 1;
        snprintf(id, sizeof id, "%.*s", (int)strlen(file) - 11, file + 6); /* cases/ID.json */
        snprintf(folder, sizeof folder, "%s/%.*s", argv[1], (int)strcspn(checkpoint, "\""), checkpoint);
        printf("%s\n\"%s\": ", first ? "" : ",", id);
        first = 0, n_own = 0, found_tensors = 0;
        text = open_memstream(&content, &size);
        if (!setjmp(next_request)) { /* answer() ends the case, having printed what it is told */
            write_answers(test, folder);
            fclose(text);
            printf("%s", content);
            failed += fails(test, id);
        }
    }
    printf("}}\n");
    fprintf(stderr, "%d cases failed; --read-answers judges errors, too\n", failed);
    return failed ? 1 : 0;
}
