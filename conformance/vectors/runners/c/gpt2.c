/* A GPT-2 in C that answers the conformance suite, as docs/adapters.md describes. Nothing but libc and libm.
 *
 *     cc -O3 -o gpt2 gpt2.c -lm
 *     pytest conformance/ --implementation 'command: ./gpt2'
 *
 * Weights are float32, sums double, and the machine little-endian as the file is. JSON is searched for what is needed and
 * not parsed: enough for what the suite and safetensors write, not for anything else.
 */
#define _POSIX_C_SOURCE 200809L /* getline */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EOS = 50256, TILE = 64 };

typedef struct { const float *weight, *bias; } Affine;
typedef struct { Affine ln_1, c_attn, attn_proj, ln_2, c_fc, mlp_proj; } Block;
typedef struct { int batch, length; float *keys, *values; } Cache; /* [n_layer][batch][length][n_embd] */

static int vocab_size, n_positions, n_embd, n_layer, n_head, n_inner;
static float epsilon;
static const float *wte, *wpe;
static float *head; /* wte transposed, [n_embd][vocab_size], so that the head is a matrix like any other */
static Block *h;
static Affine ln_f;
static jmp_buf next_request;

/* Answers with {"kind": "message"} and goes on to the next request. */
static void answer(const char *kind, const char *message, ...) {
    va_list arguments;
    va_start(arguments, message);
    printf("{\"%s\": \"", kind);
    vprintf(message, arguments);
    printf("\"}\n");
    longjmp(next_request, 1);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) answer("error", "out of memory");
    return memory;
}

/* What follows "key": in the text, or NULL. */
static const char *find(const char *json, const char *key) {
    char quoted[80];
    int length = snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(json, quoted);
    return found ? found + length + strspn(found + length, " ") : NULL;
}

static double number(const char *json, const char *key, double otherwise) {
    const char *found = find(json, key);
    return found && strncmp(found, "null", 4) ? strtod(found, NULL) : otherwise;
}

/* [[1, 2], [3, 4]] -> the four ids; refuses rows of different lengths and ids outside the vocabulary. */
static int *token_ids_of(const char *request, int *batch, int *time) {
    const char *at = find(request, "token_ids");
    if (!at) answer("error", "no token_ids");
    int *ids = allocate(strlen(at), sizeof *ids), count = 0, row_start = 0;
    *batch = *time = 0;
    for (at++; *at && *at != ']'; at++) { /* the outer list; at stands on a row, or between two */
        if (*at != '[') continue;
        if (at[1] == ']') answer("error", "an empty row");
        while (*at != ']') {
            ids[count++] = (int)strtol(at + 1, (char **)&at, 10);
            if (ids[count - 1] < 0 || ids[count - 1] >= vocab_size) answer("error", "token id %d", ids[count - 1]);
        }
        if ((*batch)++ && count - row_start != *time) answer("error", "rows of different lengths");
        *time = count - row_start, row_start = count;
    }
    return ids;
}

static char *read_file(const char *folder, const char *name, size_t *size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) answer("error", "%s can't be opened", name);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *content = allocate(*size + 1, 1);
    if (fread(content, 1, *size, file) != *size) answer("error", "%s can't be read", name);
    fclose(file);
    return content;
}

static const char *header, *data; /* of the safetensors file: a JSON text without blanks, and what it points into */
static size_t data_size;
static int found_tensors;

/* The values of a tensor, [rows][columns] or with rows 0 [columns], which must have exactly this shape. */
static const float *tensor(int rows, int columns, const char *pattern, int layer) {
    char name[64], prefixed[80], shape[40];
    snprintf(name, sizeof name, pattern, layer);
    snprintf(prefixed, sizeof prefixed, "transformer.%s", name);
    if (rows) snprintf(shape, sizeof shape, "[%d,%d]", rows, columns);
    else snprintf(shape, sizeof shape, "[%d]", columns);
    const char *entry = find(header, name);
    if (!entry) entry = find(header, prefixed);
    if (!entry) answer("error", "%s is missing", name);
    if (strncmp(find(entry, "dtype"), "\"F32\"", 5)) answer("not_applicable", "reads float32 files only");
    if (strncmp(find(entry, "shape"), shape, strlen(shape))) answer("error", "the shape of %s is not %s", name, shape);
    char *comma;
    size_t start = strtoull(find(entry, "data_offsets") + 1, &comma, 10), end = strtoull(comma + 1, NULL, 10);
    if (end > data_size || end - start != 4 * (size_t)columns * (rows ? rows : 1)) answer("error", "offsets of %s", name);
    found_tensors++;
    return (const float *)(data + start);
}

static Affine affine(int rows, int columns, const char *weight, const char *bias, int layer) {
    Affine both = {tensor(rows, columns, weight, layer), tensor(0, columns, bias, layer)};
    return both;
}

static int count(const char *text, const char *part) {
    int n = 0;
    while ((text = strstr(text, part))) n++, text++;
    return n;
}

static void load(const char *folder) {
    size_t size;
    char *config = read_file(folder, "config.json", &size);
    vocab_size = (int)number(config, "vocab_size", 0), n_positions = (int)number(config, "n_positions", 0);
    n_embd = (int)number(config, "n_embd", 0), n_layer = (int)number(config, "n_layer", 0);
    n_head = (int)number(config, "n_head", 0), n_inner = (int)number(config, "n_inner", 4 * n_embd);
    epsilon = (float)number(config, "layer_norm_epsilon", 1e-5);
    const char *scaled = find(config, "scale_attn_weights"), *by_layer = find(config, "scale_attn_by_inverse_layer_idx");
    if ((scaled && !strncmp(scaled, "false", 5)) || (by_layer && !strncmp(by_layer, "true", 4)))
        answer("error", "attention is scaled by 1/sqrt(head width) alone");

    char *file = read_file(folder, "model.safetensors", &size), *end = file + 8;
    uint64_t header_size;
    memcpy(&header_size, file, 8);
    header = file + 8, data = header + header_size, data_size = size - 8 - header_size;
    for (char *from = file + 8; from < data; from++)
        if (*from != ' ') *end++ = *from;
    end[end == data ? -1 : 0] = 0; /* the blank that it ends with, or its brace */

    wte = tensor(vocab_size, n_embd, "wte.weight", 0), wpe = tensor(n_positions, n_embd, "wpe.weight", 0);
    ln_f = affine(0, n_embd, "ln_f.weight", "ln_f.bias", 0);
    h = allocate(n_layer, sizeof *h);
    for (int i = 0; i < n_layer; i++) {
        h[i].ln_1 = affine(0, n_embd, "h.%d.ln_1.weight", "h.%d.ln_1.bias", i);
        h[i].c_attn = affine(n_embd, 3 * n_embd, "h.%d.attn.c_attn.weight", "h.%d.attn.c_attn.bias", i);
        h[i].attn_proj = affine(n_embd, n_embd, "h.%d.attn.c_proj.weight", "h.%d.attn.c_proj.bias", i);
        h[i].ln_2 = affine(0, n_embd, "h.%d.ln_2.weight", "h.%d.ln_2.bias", i);
        h[i].c_fc = affine(n_embd, n_inner, "h.%d.mlp.c_fc.weight", "h.%d.mlp.c_fc.bias", i);
        h[i].mlp_proj = affine(n_inner, n_embd, "h.%d.mlp.c_proj.weight", "h.%d.mlp.c_proj.bias", i);
    }
    /* The masks of older files, and the head, which is wte whatever the file says; "c_attn.bias" is another name. */
    int ignored = count(header, ".attn.bias\":") + count(header, ".attn.masked_bias\":") + count(header, "\"lm_head.weight\":");
    if (count(header, "\"data_offsets\":") != found_tensors + ignored) answer("error", "a tensor that no GPT-2 of this size has");

    head = allocate((size_t)n_embd * vocab_size, sizeof *head);
    for (size_t token = 0; token < (size_t)vocab_size; token++)
        for (int i = 0; i < n_embd; i++) head[i * (size_t)vocab_size + token] = wte[token * n_embd + i];
}

static void layer_norm(const float *x, Affine a, int rows, float *y) {
    for (; rows--; x += n_embd, y += n_embd) {
        double mean = 0, variance = 0;
        for (int i = 0; i < n_embd; i++) mean += x[i];
        mean /= n_embd;
        for (int i = 0; i < n_embd; i++) variance += (x[i] - mean) * (x[i] - mean);
        double scale = 1 / sqrt(variance / n_embd + epsilon);
        for (int i = 0; i < n_embd; i++) y[i] = (float)((x[i] - mean) * scale * a.weight[i] + a.bias[i]);
    }
}

/* y[r] += x[r] @ weight + bias for each row r; weight is [in][out]. A tile of columns stays in the cache for all rows. */
static void add_linear(const float *x, const float *weight, const float *bias, int rows, int in, int out, float *y) {
    for (int start = 0; start < out; start += TILE) {
        int width = out - start < TILE ? out - start : TILE;
        for (int r = 0; r < rows; r++) {
            double sum[TILE] = {0};
            for (int i = 0; i < in; i++) {
                const float *w = weight + (size_t)i * out + start, value = x[(size_t)r * in + i];
                for (int o = 0; o < width; o++) sum[o] += (double)value * w[o];
            }
            float *to = y + (size_t)r * out + start;
            for (int o = 0; o < width; o++) to[o] += (float)(sum[o] + (bias ? bias[start + o] : 0));
        }
    }
}

static float *linear(const float *x, const float *weight, const float *bias, int rows, int in, int out) {
    float *y = allocate((size_t)rows * out, sizeof *y);
    add_linear(x, weight, bias, rows, in, out, y);
    return y;
}

/* y, [n_embd]: what the position after `seen - 1` others sees, through every head. */
static void attend(const float *query, const float *keys, const float *values, int seen, float *y) {
    int width = n_embd / n_head;
    double *weight = allocate(seen, sizeof *weight);
    for (int start = 0; start < n_embd; start += width) {
        double largest = -INFINITY, total = 0;
        for (int p = 0; p < seen; p++) {
            double score = 0;
            for (int i = start; i < start + width; i++) score += (double)query[i] * keys[(size_t)p * n_embd + i];
            weight[p] = score / sqrt(width);
            largest = fmax(largest, weight[p]);
        }
        for (int p = 0; p < seen; p++) total += weight[p] = exp(weight[p] - largest);
        for (int i = start; i < start + width; i++) {
            double sum = 0;
            for (int p = 0; p < seen; p++) sum += weight[p] * values[(size_t)p * n_embd + i];
            y[i] = (float)(sum / total);
        }
    }
    free(weight);
}

static float gelu(double x) {
#ifdef DEFECT_GELU_ERF /* what the suite must catch */
    return (float)(x / 2 * (1 + erf(x / sqrt(2))));
#else
    return (float)(x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))));
#endif
}

/* Logits [batch][time][vocab_size] of tokens that follow those of `past`, which stays as it is; `cache` holds all of them. */
static float *forward(const int *token_ids, int batch, int time, const Cache *past, Cache *cache) {
    int before = past ? past->length : 0, length = before + time, rows = batch * time;
    if (!wte) answer("error", "nothing is loaded");
    if (!rows || length > n_positions) answer("error", "%d rows of %d tokens, at most %d fit", batch, length, n_positions);
    if (past && past->batch != batch) answer("error", "%d rows for a cache of %d", batch, past->batch);
    size_t row_size = (size_t)length * n_embd, past_size = (size_t)before * n_embd, kept = past_size * sizeof(float);
    cache->batch = batch, cache->length = length;
    cache->keys = allocate(n_layer * batch * row_size, sizeof(float));
    cache->values = allocate(n_layer * batch * row_size, sizeof(float));

    float *x = allocate((size_t)rows * n_embd, sizeof *x), *normed = allocate((size_t)rows * n_embd, sizeof *x);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n_embd; i++)
            x[r * n_embd + i] = wte[(size_t)token_ids[r] * n_embd + i] + wpe[(before + r % time) * n_embd + i];
    for (int l = 0; l < n_layer; l++) {
        layer_norm(x, h[l].ln_1, rows, normed);
        float *qkv = linear(normed, h[l].c_attn.weight, h[l].c_attn.bias, rows, n_embd, 3 * n_embd);
        for (int b = 0; b < batch; b++) {
            size_t row = (size_t)l * batch + b;
            float *keys = cache->keys + row * row_size, *values = cache->values + row * row_size;
            if (past) memcpy(keys, past->keys + row * past_size, kept), memcpy(values, past->values + row * past_size, kept);
            for (int t = 0; t < time; t++) {
                const float *query = qkv + (size_t)(b * time + t) * 3 * n_embd;
                memcpy(keys + (size_t)(before + t) * n_embd, query + n_embd, n_embd * sizeof(float));
                memcpy(values + (size_t)(before + t) * n_embd, query + 2 * n_embd, n_embd * sizeof(float));
                attend(query, keys, values, before + t + 1, normed + (size_t)(b * time + t) * n_embd);
            }
        }
        add_linear(normed, h[l].attn_proj.weight, h[l].attn_proj.bias, rows, n_embd, n_embd, x);
        layer_norm(x, h[l].ln_2, rows, normed);
        float *hidden = linear(normed, h[l].c_fc.weight, h[l].c_fc.bias, rows, n_embd, n_inner);
        for (size_t i = 0; i < (size_t)rows * n_inner; i++) hidden[i] = gelu(hidden[i]);
        add_linear(hidden, h[l].mlp_proj.weight, h[l].mlp_proj.bias, rows, n_inner, n_embd, x);
        free(qkv), free(hidden);
    }
    layer_norm(x, ln_f, rows, normed);
    float *logits = linear(normed, head, NULL, rows, n_embd, vocab_size);
    free(x), free(normed);
    return logits;
}

/* Greedy, and as the textbook does it: the last n_positions tokens are fed again each step. */
static void generate(const char *request) {
    int batch, time, steps = (int)number(request, "max_new_tokens", 0);
    if (number(request, "temperature", 1) != 0) answer("not_applicable", "generates at temperature 0 only");
    int *prompt = token_ids_of(request, &batch, &time), *ids = allocate(time + steps, sizeof *ids);
    printf("{\"token_ids\": [");
    for (int b = 0; b < batch; b++) {
        memcpy(ids, prompt + b * time, time * sizeof *ids);
        printf(b ? ", [" : "[");
        for (int end = time; end < time + steps; end++) {
            int seen = end < n_positions ? end : n_positions, best = 0;
            Cache cache;
            float *logits = forward(ids + end - seen, 1, seen, NULL, &cache), *last = logits + (size_t)(seen - 1) * vocab_size;
            for (int token = 1; token < vocab_size; token++)
                if (last[token] > last[best]) best = token;
            free(logits), free(cache.keys), free(cache.values);
            if (best == EOS) break;
            printf(end > time ? ", %d" : "%d", ids[end] = best);
        }
        printf("]");
    }
    printf("]}\n");
    free(prompt), free(ids);
}

static void print_base64(const unsigned char *bytes, size_t size) {
    const char *digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = allocate(size / 3 + 1, 4), *to = text;
    for (size_t i = 0; i < size; i += 3, to += 4) {
        uint32_t three = bytes[i] << 16 | (i + 1 < size ? bytes[i + 1] << 8 : 0) | (i + 2 < size ? bytes[i + 2] : 0);
        for (int d = 0; d < 4; d++) to[d] = i + d > size ? '=' : digits[three >> (18 - 6 * d) & 63];
    }
    fwrite(text, 1, to - text, stdout);
    free(text);
}

/* logits, prefill and step are one: they differ in whether a cache is given, and whether one is kept. */
static void logits_of(const char *request, int takes_cache, int keeps_cache) {
    static Cache *caches; /* a cache's name is its index here */
    static int n_caches;
    int batch, time, name = takes_cache ? (int)number(request, "cache", -1) : 0;
    if (takes_cache && (name < 0 || name >= n_caches)) answer("error", "cache %d does not exist", name);
    Cache cache, *past = takes_cache ? caches + name : NULL;
    int *ids = token_ids_of(request, &batch, &time);
    float *logits = forward(ids, batch, time, past, &cache);
    printf("{");
    if (keeps_cache) {
        caches = realloc(caches, (n_caches + 1) * sizeof *caches);
        if (!caches) abort();
        caches[n_caches] = cache;
        printf("\"cache\": %d, ", n_caches++);
    } else
        free(cache.keys), free(cache.values);
    printf("\"shape\": [%d, %d, %d], \"logits\": \"", batch, time, vocab_size);
    print_base64((const unsigned char *)logits, (size_t)batch * time * vocab_size * sizeof *logits);
    printf("\"}\n");
    free(ids), free(logits);
}

/* A JSON string, its backslashes taken out in place. */
static char *text_of(char *request, const char *key) {
    char *from = (char *)find(request, key), *to = from, *start = from;
    if (!from || *from != '"') answer("error", "no %s", key);
    for (from++; *from && *from != '"'; *to++ = *from++)
        if (*from == '\\') from++;
    *to = 0;
    return start;
}

int main(void) {
    static char *request;
    static size_t size;
    while (setjmp(next_request), fflush(stdout), getline(&request, &size, stdin) > 0) {
        const char *method = find(request, "method");
        if (!method) answer("error", "no method");
        if (!strncmp(method, "\"load\"", 6)) {
            if (strncmp(find(request, "device"), "\"cpu\"", 5)) answer("not_applicable", "runs on the cpu only");
            if (strncmp(find(request, "dtype"), "\"float32\"", 9)) answer("not_applicable", "computes in float32 only");
            load(text_of(request, "checkpoint"));
            printf("{\"methods\": [\"generate\", \"prefill\", \"step\"]}\n");
        } else if (!strncmp(method, "\"logits\"", 8)) {
            logits_of(request, 0, 0);
        } else if (!strncmp(method, "\"prefill\"", 9)) {
            logits_of(request, 0, 1);
        } else if (!strncmp(method, "\"step\"", 6)) {
            logits_of(request, 1, 1);
        } else if (!strncmp(method, "\"generate\"", 10)) {
            generate(request);
        } else {
            answer("not_applicable", "there is no such method");
        }
    }
    return 0;
}
