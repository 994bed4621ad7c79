// Runs the vectors on a GPT-2 in plain Java:    java Runner.java VECTORS [answers.json]
// For your own port, write the methods of GPT2 that `answer` calls. docs/vectors.md has the rest.
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.*;
import java.util.function.IntToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.DoubleStream;
import java.util.stream.IntStream;

public class Runner {
    public static void main(String[] words) throws IOException {
        Path folder = Path.of(words[0]);
        for (Object each : list(read(folder.resolve("generator.json")), "vectors")) {
            int counter = integer(each, "counter");
            if (GPT2.integer(integer(each, "seed"), counter) != integer(each, "integer"))
                throw new IllegalStateException("the integer of counter " + counter + " is wrong");
        }
        List<Object> cases = list(read(folder.resolve("index.json")), "cases");
        Map<String, Object> given = new LinkedHashMap<>();
        int failed = 0;
        for (Object entry : cases) {
            Object test = read(folder.resolve((String) get(entry, "file")));
            Object found = answers(folder, test);
            given.put((String) get(entry, "id"), found);
            List<Object> right = new ArrayList<>(list(test, "accepted"));
            right.add(get(test, "expected"));
            if (get(found, "not_applicable") != null
                    || right.stream().anyMatch(each -> matches(test, each, found))) continue;
            failed++;
            System.out.println("FAILED " + get(entry, "id") + ": " + get(test, "sentence"));
            object(get(test, "mistakes")).forEach((name, mistake) -> {
                if (fits(test, mistake, found))
                    System.out.println("    you have " + name + ": " + get(mistake, "says"));
            });
        }
        System.out.println(failed + " of " + cases.size() + " cases failed");
        Object content = Map.of("format", 1, "name", "Runner.java", "answers", given);
        if (words.length > 1) Files.writeString(Path.of(words[1]), Json.text(content));
        System.exit(failed > 0 ? 1 : 0);
    }

    /** Returns what goes into answers.json: one answer for each call, or an error. */
    static Object answers(Path folder, Object test) throws IOException {
        if (list(test, "parts").contains("text")) return Map.of("not_applicable", "no tokenizer");
        try {
            GPT2 model = new GPT2(folder.resolve((String) get(test, "checkpoint")));
            List<Object> answers = new ArrayList<>();
            List<List<Cache>> caches = new ArrayList<>(); // of each call, one for each row
            for (Object call : list(test, "calls"))
                answers.add(answer(model, call, get(test, "tokens"), caches));
            return answers;
        } catch (IllegalArgumentException error) {
            return Map.of("error", error.getMessage());
        }
    }

    /** Returns the answer to one call: logits [row][position][token], or new tokens [row][step]. */
    static Object answer(GPT2 model, Object call, Object tokens, List<List<Cache>> caches) {
        String what = (String) get(call, "do");
        List<Object> rows = list(call, "token_ids"), answers = new ArrayList<>();
        List<Cache> kept = new ArrayList<>();
        for (int i = 0; i < rows.size(); i++) {
            int[] ids = integers(rows.get(i));
            if (what.startsWith("generate")) {
                Object given = get(call, "uniforms");
                List<Object> numbers = given == null ? null : list(list(given).get(i));
                int seed = integer(call, "seed") + 10_000 * i;
                answers.add(model.generate(ids, call, step -> numbers == null
                        ? GPT2.integer(seed, step) / 16_777_216.0 // 2^24
                        : number(numbers.get(step))));
                continue;
            }
            Cache cache = what.equals("step")
                    ? caches.get(integer(call, "after")).get(i).copy()
                    : new Cache(model.layers);
            Object positions = get(call, "positions");
            List<double[]> found = model.row(ids, cache,
                    positions == null ? IntStream.range(0, ids.length).toArray() : integers(positions));
            answers.add(found.stream().map(logits -> shown(logits, tokens)).toList());
            kept.add(cache);
        }
        caches.add(kept);
        return answers;
    }

    static List<Double> shown(double[] logits, Object tokens) {
        return tokens == null
                ? DoubleStream.of(logits).boxed().toList()
                : IntStream.of(integers(tokens)).mapToObj(id -> logits[id]).toList();
    }

    /** Whether two answers are the same. Logits may differ by the allowed error. */
    static boolean same(Object a, Object b, double allowed) {
        if (a instanceof Number && b instanceof Number)
            return Math.abs(number(a) - number(b)) <= allowed;
        if (a instanceof List<?> own && b instanceof List<?> right)
            return own.size() == right.size() && IntStream.range(0, own.size())
                    .allMatch(i -> same(own.get(i), right.get(i), allowed));
        return Objects.equals(a, b);
    }

    /** Whether tokens are drawn as often as they should be, to five standard deviations. */
    static boolean often(Object rows, Object expected) {
        double draws = number(get(expected, "draws"));
        Map<String, Object> likely = object(get(expected, "probabilities"));
        Map<String, Integer> counts = new HashMap<>();
        likely.keySet().forEach(id -> counts.put(id, 0));
        for (Object row : list(rows))
            for (int id : integers(row)) counts.merge(String.valueOf(id), 1, Integer::sum);
        return counts.entrySet().stream().allMatch(each -> {
            double p = number(likely.getOrDefault(each.getKey(), 0.0));
            double allowed = 5 * Math.sqrt(draws * p * (1 - p)) + 1e-6;
            return Math.abs(each.getValue() - p * draws) <= allowed;
        });
    }

    static double allowedIn(Object expected, double otherwise) {
        Object allowed = get(get(expected, "allowed"), "float32");
        return allowed == null ? otherwise : number(allowed);
    }

    static boolean matches(Object test, Object expected, Object found) {
        String error = (String) get(found, "error");
        if (Boolean.TRUE.equals(get(expected, "refused"))) {
            List<Object> words = list(test, "refusal_words");
            return error != null && (words.isEmpty()
                    || words.stream().anyMatch(word -> error.toLowerCase().contains((String) word)));
        }
        if (error != null) return false;
        double allowed = allowedIn(expected, allowedIn(get(test, "expected"), 0));
        List<Object> calls = list(test, "calls"), right = list(expected, "answers");
        return IntStream.range(0, calls.size()).allMatch(i -> {
            Object own = list(found).get(i);
            if (Boolean.TRUE.equals(get(calls.get(i), "frequencies"))) return often(own, right.get(i));
            boolean tokens = ((String) get(calls.get(i), "do")).startsWith("generate");
            return same(own, right.get(i), tokens ? 0 : allowed);
        });
    }

    /** Whether a mistake would give these answers, where they differ most. */
    static boolean fits(Object test, Object mistake, Object found) {
        boolean refused = get(found, "error") != null;
        if (get(mistake, "answers") == null) return get(mistake, "refused").equals(refused);
        double allowed = 2 * allowedIn(get(test, "expected"), 0);
        return list(mistake, "answers").stream().allMatch(place -> {
            Object at = found;
            for (int index : integers(get(place, "at")))
                at = at instanceof List<?> values && index < values.size() ? values.get(index) : null;
            return same(at, get(place, "is"), allowed);
        });
    }

    // JSON: objects are Maps, lists are Lists, numbers are Doubles.

    static Object read(Path file) throws IOException {
        return new Json(Files.readString(file)).value();
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Object value) {
        return value instanceof Map ? (Map<String, Object>) value : Map.of();
    }

    static Object get(Object value, String name) {
        return object(value).get(name);
    }

    @SuppressWarnings("unchecked")
    static List<Object> list(Object value) {
        return (List<Object>) value;
    }

    static List<Object> list(Object value, String name) {
        return list(get(value, name));
    }

    static double number(Object value) {
        return ((Number) value).doubleValue();
    }

    /** Returns an integer of 32 bits; those from 2^31 on are negative. */
    static int integer(Object value, String name) {
        return (int) (long) number(get(value, name));
    }

    static int[] integers(Object values) {
        return list(values).stream().mapToInt(each -> (int) number(each)).toArray();
    }
}

/** The keys and the values of each layer, a row of numbers for each position. */
record Cache(List<List<double[]>> keys, List<List<double[]>> values) {
    Cache(int layers) {
        this(new ArrayList<>(), new ArrayList<>());
        for (int layer = 0; layer < layers; layer++) {
            keys.add(new ArrayList<>());
            values.add(new ArrayList<>());
        }
    }

    Cache copy() {
        Cache made = new Cache(keys.size());
        for (int layer = 0; layer < keys.size(); layer++) {
            made.keys.get(layer).addAll(keys.get(layer));
            made.values.get(layer).addAll(values.get(layer));
        }
        return made;
    }
}

/** A GPT-2. Numbers are doubles; the weights are those of the file. */
class GPT2 {
    static final int EOS = 50256;

    record Tensor(int[] shape, float[] values) {}

    final Map<String, Tensor> tensors;
    final int vocabulary, positions, width, layers, heads;
    final double epsilon;

    GPT2(Path folder) throws IOException {
        Object config = Runner.read(folder.resolve("config.json"));
        Map<String, Object> right = Map.of("activation_function", "gelu_new",
                "scale_attn_weights", true, "scale_attn_by_inverse_layer_idx", false);
        right.forEach((name, value) -> {
            Object own = Runner.get(config, name);
            if (!value.equals(own)) throw new IllegalArgumentException(name + " is " + own);
        });
        vocabulary = Runner.integer(config, "vocab_size");
        positions = Runner.integer(config, "n_positions");
        width = Runner.integer(config, "n_embd");
        layers = Runner.integer(config, "n_layer");
        heads = Runner.integer(config, "n_head");
        epsilon = Runner.number(Runner.get(config, "layer_norm_epsilon"));
        Object inner = Runner.get(config, "n_inner");
        tensors = Files.exists(folder.resolve("rule.json")) ? byRule(folder) : fromFile(folder);
        Tensor head = tensors.remove("lm_head.weight");
        Map<String, int[]> shapes = shapes(inner == null ? 4 * width : (int) Runner.number(inner));
        Set<String> names = new TreeSet<>(shapes.keySet());
        names.addAll(tensors.keySet());
        for (String name : names)
            if (!shapes.containsKey(name) || !tensors.containsKey(name)
                    || !Arrays.equals(shapes.get(name), tensors.get(name).shape))
                throw new IllegalArgumentException("tensor " + name);
        if (head != null && !Arrays.equals(head.values, weight("wte")))
            throw new IllegalArgumentException("lm_head.weight differs");
    }

    /** Returns the shape of each tensor that a config asks for. */
    Map<String, int[]> shapes(int inner) {
        Map<String, int[]> matrices = new HashMap<>(), found = new HashMap<>();
        for (int layer = 0; layer < layers; layer++) {
            String block = "h." + layer + ".";
            matrices.put(block + "ln_1", new int[] {width});
            matrices.put(block + "attn.c_attn", new int[] {width, 3 * width});
            matrices.put(block + "attn.c_proj", new int[] {width, width});
            matrices.put(block + "ln_2", new int[] {width});
            matrices.put(block + "mlp.c_fc", new int[] {width, inner});
            matrices.put(block + "mlp.c_proj", new int[] {inner, width});
        }
        matrices.put("ln_f", new int[] {width});
        matrices.forEach((name, shape) -> {
            found.put(name + ".weight", shape);
            found.put(name + ".bias", new int[] {shape[shape.length - 1]});
        });
        found.put("wte.weight", new int[] {vocabulary, width});
        found.put("wpe.weight", new int[] {positions, width});
        return found;
    }

    /** Returns the tensors of a checkpoint. tensors.json says where they are. */
    static Map<String, Tensor> fromFile(Path folder) throws IOException {
        Object index = Runner.read(folder.resolve("tensors.json"));
        byte[] bytes = Files.readAllBytes(folder.resolve((String) Runner.get(index, "file")));
        ByteBuffer content = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        Map<String, Tensor> found = new HashMap<>();
        for (Object each : Runner.list(index, "tensors")) {
            String name = ((String) Runner.get(each, "name")).replaceFirst("^transformer\\.", "");
            if (name.endsWith(".attn.bias") || name.endsWith(".attn.masked_bias"))
                continue; // masks of older files; no weights
            int[] shape = Runner.integers(Runner.get(each, "shape"));
            int offset = Runner.integer(each, "offset");
            float[] values = new float[IntStream.of(shape).reduce(1, (a, b) -> a * b)];
            for (int i = 0; i < values.length; i++)
                values[i] = switch ((String) Runner.get(each, "dtype")) {
                    case "F32" -> content.getFloat(offset + 4 * i);
                    case "F16" -> half(content.getShort(offset + 2 * i));
                    default -> Float.intBitsToFloat(content.getShort(offset + 2 * i) << 16);
                };
            found.put(name, new Tensor(shape, values));
        }
        return found;
    }

    static float half(short bits) {
        int exponent = bits >> 10 & 31, rest = bits & 1023;
        float size = exponent == 0 ? Math.scalb((float) rest, -24)
                : Math.scalb(1 + rest / 1024f, exponent - 15);
        return bits < 0 ? -size : size;
    }

    /** The integer of a counter: 24 bits, the same in every language. */
    static int integer(int seed, int counter) {
        int x = counter * 0x9E3779B9 + seed;
        x = (x ^ x >>> 16) * 0x85EBCA6B;
        x = (x ^ x >>> 13) * 0xC2B2AE35;
        return (x ^ x >>> 16) >>> 8;
    }

    /** Returns the tensors that a rule makes. */
    static Map<String, Tensor> byRule(Path folder) throws IOException {
        Object rule = Runner.read(folder.resolve("rule.json")), low = Runner.get(rule, "row_0");
        Map<String, Tensor> found = new HashMap<>();
        for (Object each : Runner.list(rule, "tensors")) {
            int[] shape = Runner.integers(Runner.get(each, "shape"));
            float[] values = new float[IntStream.of(shape).reduce(1, (a, b) -> a * b)];
            double mean = Runner.number(Runner.get(each, "mean"));
            double halfRange = Runner.number(Runner.get(each, "half_range"));
            int seed = Runner.integer(rule, "seed"), first = Runner.integer(each, "first");
            for (int i = 0; i < values.length; i++)
                values[i] = (float) (mean + halfRange * (integer(seed, first + i) - 8388608) / 8388608);
            if (Runner.list(low, "tensors").contains(Runner.get(each, "name")))
                for (int i = 0; i < shape[1]; i++)
                    values[i] *= (float) Runner.number(Runner.get(low, "factor"));
            found.put((String) Runner.get(each, "name"), new Tensor(shape, values));
        }
        return found;
    }

    float[] weight(String name) {
        return tensors.get(name + ".weight").values;
    }

    float[] bias(String name) {
        return tensors.get(name + ".bias").values;
    }

    double[] norm(double[] x, String name) {
        float[] w = weight(name), b = bias(name);
        double mean = DoubleStream.of(x).sum() / x.length;
        double variance = DoubleStream.of(x).map(y -> (y - mean) * (y - mean)).sum() / x.length;
        double scale = 1 / Math.sqrt(variance + epsilon);
        return IntStream.range(0, x.length).mapToDouble(i -> (x[i] - mean) * scale * w[i] + b[i])
                .toArray();
    }

    /** x @ weight + bias; a weight is [in, out]. */
    double[] linear(double[] x, String name) {
        float[] w = weight(name), b = bias(name);
        double[] y = new double[b.length];
        for (int o = 0; o < y.length; o++) y[o] = b[o];
        for (int i = 0; i < x.length; i++)
            for (int o = 0; o < y.length; o++) y[o] += x[i] * w[i * y.length + o];
        return y;
    }

    static double gelu(double x) {
        return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
    }

    double[] attention(double[] q, List<double[]> keys, List<double[]> values) {
        double[] y = new double[width], weights = new double[keys.size()];
        int n = width / heads;
        for (int start = 0; start < width; start += n) {
            for (int seen = 0; seen < weights.length; seen++) {
                double score = 0;
                for (int i = start; i < start + n; i++) score += q[i] * keys.get(seen)[i];
                weights[seen] = score / Math.sqrt(n);
            }
            double largest = DoubleStream.of(weights).max().getAsDouble(), total = 0;
            for (int seen = 0; seen < weights.length; seen++)
                total += weights[seen] = Math.exp(weights[seen] - largest);
            for (int seen = 0; seen < weights.length; seen++)
                for (int i = start; i < start + n; i++)
                    y[i] += weights[seen] / total * values.get(seen)[i];
        }
        return y;
    }

    static void add(double[] x, double[] y) {
        for (int i = 0; i < x.length; i++) x[i] += y[i];
    }

    /** Feeds one token, and returns ln_f's output. */
    double[] token(int id, Cache cache) {
        int position = cache.keys().get(0).size();
        if (position >= positions)
            throw new IllegalArgumentException("no position " + position + ": the context is full");
        if (id < 0 || id >= vocabulary) throw new IllegalArgumentException("no token " + id);
        float[] wte = weight("wte"), wpe = weight("wpe");
        double[] x = new double[width];
        for (int i = 0; i < width; i++)
            x[i] = (double) wte[id * width + i] + wpe[position * width + i];
        for (int layer = 0; layer < layers; layer++) {
            String block = "h." + layer + ".";
            double[] qkv = linear(norm(x, block + "ln_1"), block + "attn.c_attn");
            List<double[]> keys = cache.keys().get(layer), values = cache.values().get(layer);
            keys.add(Arrays.copyOfRange(qkv, width, 2 * width));
            values.add(Arrays.copyOfRange(qkv, 2 * width, 3 * width));
            add(x, linear(attention(qkv, keys, values), block + "attn.c_proj"));
            double[] hidden = linear(norm(x, block + "ln_2"), block + "mlp.c_fc");
            add(x, linear(DoubleStream.of(hidden).map(GPT2::gelu).toArray(), block + "mlp.c_proj"));
        }
        return norm(x, "ln_f");
    }

    double[] head(double[] x) {
        float[] wte = weight("wte");
        double[] logits = new double[vocabulary];
        for (int id = 0; id < vocabulary; id++)
            for (int i = 0; i < width; i++) logits[id] += x[i] * wte[id * width + i];
        return logits;
    }

    /** Feeds the tokens of one row. Returns the logits of each position that is asked for. */
    List<double[]> row(int[] ids, Cache cache, int[] positions) {
        List<double[]> found = new ArrayList<>();
        for (int i = 0; i < ids.length; i++) {
            int position = i;
            double[] x = token(ids[i], cache);
            if (IntStream.of(positions).anyMatch(each -> each == position)) found.add(head(x));
        }
        return found;
    }

    /** Returns the new tokens of one prompt. `uniform` gives the number of each draw. */
    List<Integer> generate(int[] prompt, Object call, IntToDoubleFunction uniform) {
        double temperature = Runner.number(Runner.get(call, "temperature"));
        Object given = Runner.get(call, "top_k");
        int topK = given == null ? vocabulary : (int) Runner.number(given);
        if (topK < 1) throw new IllegalArgumentException("top_k=" + topK);
        int[] ids = prompt.length == 0 ? new int[] {EOS} : prompt;
        List<Integer> added = new ArrayList<>();
        Cache cache = new Cache(layers);
        int[] fed = ids;
        for (int step = 0; step < Runner.integer(call, "max_new_tokens"); step++) {
            if (ids.length > positions) { // the window has moved, and with it every position
                fed = Arrays.copyOfRange(ids, ids.length - positions, ids.length);
                cache = new Cache(layers);
            }
            double[] logits = row(fed, cache, new int[] {fed.length - 1}).get(0);
            int id = chosen(logits, temperature, topK, uniform.applyAsDouble(step));
            if (id == EOS) break;
            added.add(id);
            ids = Arrays.copyOf(ids, ids.length + 1);
            ids[ids.length - 1] = id;
            fed = new int[] {id};
        }
        return added;
    }

    /** Softmax of logits / temperature over the top_k, and the first id whose sum exceeds u. */
    static int chosen(double[] logits, double temperature, int topK, double u) {
        double largest = DoubleStream.of(logits).max().getAsDouble(); // NaN if there is one
        if (!Double.isFinite(largest))
            throw new IllegalArgumentException("the largest logit is not a number");
        if (temperature == 0)
            return IntStream.range(0, logits.length).filter(id -> logits[id] == largest).findFirst()
                    .getAsInt();
        double[] sorted = logits.clone();
        Arrays.sort(sorted);
        double least = sorted[logits.length - Math.min(topK, logits.length)], total = 0, sum = 0;
        double[] weights = new double[logits.length];
        for (int id = 0; id < weights.length; id++) {
            weights[id] = logits[id] < least ? 0 : Math.exp((logits[id] - largest) / temperature);
            total += weights[id];
        }
        for (int id = 0; id < weights.length; id++)
            if ((sum += weights[id]) > u * total) return id;
        return weights.length - 1;
    }
}

/** As much of JSON as the vectors need. */
class Json {
    final String text;
    int at = 0;

    Json(String text) {
        this.text = text;
    }

    /** Passes over blanks, and returns what comes next. */
    char peek() {
        while (text.charAt(at) <= ' ') at++;
        return text.charAt(at);
    }

    Object value() {
        switch (peek()) {
            case '{': {
                Map<String, Object> found = new LinkedHashMap<>();
                while (more('}', found.isEmpty())) {
                    peek();
                    String name = string();
                    peek();
                    at++; // the colon
                    found.put(name, value());
                }
                return found;
            }
            case '[': {
                List<Object> found = new ArrayList<>();
                while (more(']', found.isEmpty())) found.add(value());
                return found;
            }
            case '"':
                return string();
            default: {
                int start = at;
                while (",]} \n".indexOf(text.charAt(at)) < 0) at++;
                String word = text.substring(start, at);
                return switch (word) {
                    case "null" -> null;
                    case "true", "false" -> word.equals("true");
                    default -> Double.valueOf(word);
                };
            }
        }
    }

    /** Passes over a bracket or a comma, or over the end. Returns whether a value follows. */
    boolean more(char end, boolean first) {
        boolean ended = peek() == end;
        at++;
        if (first && peek() == end) {
            at++;
            return false;
        }
        return !ended;
    }

    String string() {
        StringBuilder found = new StringBuilder();
        for (at++; text.charAt(at) != '"'; at++) {
            if (text.charAt(at) != '\\') {
                found.append(text.charAt(at));
                continue;
            }
            char escaped = text.charAt(++at);
            int known = "nrtbf".indexOf(escaped);
            if (escaped == 'u') {
                found.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
                at += 4;
            } else {
                found.append(known < 0 ? escaped : "\n\r\t\b\f".charAt(known));
            }
        }
        at++;
        return found.toString();
    }

    /** Writes JSON. A number that JSON does not have is null. */
    static String text(Object value) {
        if (value instanceof Map<?, ?> fields)
            return fields.entrySet().stream().map(e -> text(e.getKey()) + ": " + text(e.getValue()))
                    .collect(Collectors.joining(",\n", "{", "}"));
        if (value instanceof List<?> values)
            return values.stream().map(Json::text).collect(Collectors.joining(", ", "[", "]"));
        if (value instanceof Double number && !Double.isFinite(number)) return "null";
        if (value instanceof String words)
            return '"' + words.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
        return String.valueOf(value);
    }
}
