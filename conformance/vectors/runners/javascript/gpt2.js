// A GPT-2 in plain JavaScript. Numbers are doubles; the weights are those of the file.
"use strict";
const fs = require("fs");
const path = require("path");

const EOS = 50256;
const MASKS = [".attn.bias", ".attn.masked_bias"]; // of older files; no weights

function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, rest = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + rest / 1024) : 2 ** -24 * rest);
}

function bfloatToNumber(bits) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits * 65536);
  return view.getFloat32(0);
}

/** The integer of a counter: 24 bits, the same in every language. */
function integer(seed, counter) {
  let x = (Math.imul(counter, 0x9e3779b9) + seed) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 8;
}

/** Returns the tensors that a rule makes. Storing a number in a Float32Array rounds it. */
function madeByRule({ seed, tensors, row_0 }) {
  const found = {};
  for (const { name, shape, first, mean, half_range } of tensors) {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++)
      values[i] = mean + (half_range * (integer(seed, first + i) - 2 ** 23)) / 2 ** 23;
    if (row_0.tensors.includes(name))
      for (let i = 0; i < shape[1]; i++) values[i] *= row_0.factor;
    found[name] = { shape, values };
  }
  return found;
}

/** Returns the tensors of a checkpoint by name: {shape, values}. tensors.json says where they are. */
function readTensors(folder) {
  const rule = path.join(folder, "rule.json");
  if (fs.existsSync(rule)) return madeByRule(JSON.parse(fs.readFileSync(rule, "utf8")));
  const { file, tensors } = JSON.parse(fs.readFileSync(path.join(folder, "tensors.json"), "utf8"));
  const content = fs.readFileSync(path.join(folder, file));
  const found = {};
  for (const { name, dtype, shape, offset } of tensors) {
    if (MASKS.some((end) => name.endsWith(end))) continue;
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++) {
      if (dtype === "F32") values[i] = content.readFloatLE(offset + 4 * i);
      else if (dtype === "F16") values[i] = halfToNumber(content.readUInt16LE(offset + 2 * i));
      else values[i] = bfloatToNumber(content.readUInt16LE(offset + 2 * i));
    }
    found[name.replace(/^transformer\./, "")] = { shape, values };
  }
  return found;
}

/** Returns the shape of each tensor that a config asks for. */
function shapesOf(c) {
  const n = c.n_embd, inner = c.n_inner ?? 4 * n;
  const shapes = { "wte.weight": [c.vocab_size, n], "wpe.weight": [c.n_positions, n] };
  const add = (name, ...shape) => {
    shapes[`${name}.weight`] = shape;
    shapes[`${name}.bias`] = [shape[shape.length - 1]];
  };
  add("ln_f", n);
  for (let layer = 0; layer < c.n_layer; layer++) {
    add(`h.${layer}.ln_1`, n);
    add(`h.${layer}.attn.c_attn`, n, 3 * n);
    add(`h.${layer}.attn.c_proj`, n, n);
    add(`h.${layer}.ln_2`, n);
    add(`h.${layer}.mlp.c_fc`, n, inner);
    add(`h.${layer}.mlp.c_proj`, inner, n);
  }
  return shapes;
}

function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

class GPT2 {
  constructor(folder) {
    const c = JSON.parse(fs.readFileSync(path.join(folder, "config.json"), "utf8"));
    if (c.activation_function !== "gelu_new") throw Error(`activation ${c.activation_function}`);
    if (!c.scale_attn_weights) throw Error("scale_attn_weights is false");
    if (c.scale_attn_by_inverse_layer_idx) throw Error("scale_attn_by_inverse_layer_idx is true");
    const tensors = readTensors(folder), head = tensors["lm_head.weight"];
    delete tensors["lm_head.weight"];
    const shapes = shapesOf(c);
    for (const name of new Set([...Object.keys(shapes), ...Object.keys(tensors)])) {
      if (String(shapes[name]) !== String(tensors[name]?.shape)) throw Error(`tensor ${name}`);
    }
    const wte = tensors["wte.weight"].values;
    if (head && !head.values.every((x, i) => x === wte[i])) throw Error("lm_head.weight differs");
    this.config = c;
    this.weights = Object.fromEntries(Object.entries(tensors).map(([k, t]) => [k, t.values]));
  }

  norm(x, name) {
    const w = this.weights[`${name}.weight`], b = this.weights[`${name}.bias`], n = x.length;
    const mean = x.reduce((a, y) => a + y, 0) / n;
    const variance = x.reduce((a, y) => a + (y - mean) ** 2, 0) / n;
    const scale = 1 / Math.sqrt(variance + this.config.layer_norm_epsilon);
    return x.map((y, i) => (y - mean) * scale * w[i] + b[i]);
  }

  /** x @ weight + bias; a weight is [in, out]. */
  linear(x, name) {
    const w = this.weights[`${name}.weight`], y = Float64Array.from(this.weights[`${name}.bias`]);
    for (let i = 0; i < x.length; i++)
      for (let o = 0; o < y.length; o++) y[o] += x[i] * w[i * y.length + o];
    return y;
  }

  attention(q, keys, values) {
    const { n_embd, n_head } = this.config, width = n_embd / n_head;
    const y = new Float64Array(n_embd);
    for (let start = 0; start < n_embd; start += width) {
      const scores = keys.map((k) => {
        let score = 0;
        for (let i = start; i < start + width; i++) score += q[i] * k[i];
        return score / Math.sqrt(width);
      });
      const largest = scores.reduce((a, b) => Math.max(a, b));
      const weights = scores.map((score) => Math.exp(score - largest));
      const total = weights.reduce((a, b) => a + b);
      values.forEach((v, position) => {
        for (let i = start; i < start + width; i++) y[i] += (weights[position] / total) * v[i];
      });
    }
    return y;
  }

  /** Feeds one token. A cache is a list of [keys, values] for each layer; a new one is returned. */
  token(id, cache) {
    const { n_embd, n_layer, n_positions, vocab_size } = this.config;
    const position = cache[0][0].length, { weights } = this;
    if (position >= n_positions) throw Error(`no position ${position}: the context is full`);
    if (!(id >= 0 && id < vocab_size)) throw Error(`no token ${id}`);
    const after = [];
    let x = new Float64Array(n_embd);
    x = x.map((_, i) => weights["wte.weight"][id * n_embd + i] +
      weights["wpe.weight"][position * n_embd + i]);
    for (let layer = 0; layer < n_layer; layer++) {
      const qkv = this.linear(this.norm(x, `h.${layer}.ln_1`), `h.${layer}.attn.c_attn`);
      const keys = [...cache[layer][0], qkv.slice(n_embd, 2 * n_embd)];
      const values = [...cache[layer][1], qkv.slice(2 * n_embd)];
      after.push([keys, values]);
      const attended = this.attention(qkv, keys, values);
      const added = this.linear(attended, `h.${layer}.attn.c_proj`);
      x = x.map((y, i) => y + added[i]);
      const hidden = this.linear(this.norm(x, `h.${layer}.ln_2`), `h.${layer}.mlp.c_fc`).map(gelu);
      const more = this.linear(hidden, `h.${layer}.mlp.c_proj`);
      x = x.map((y, i) => y + more[i]);
    }
    return [this.norm(x, "ln_f"), after];
  }

  head(x) {
    const { n_embd, vocab_size } = this.config, wte = this.weights["wte.weight"];
    const logits = new Float64Array(vocab_size);
    for (let id = 0; id < vocab_size; id++)
      for (let i = 0; i < n_embd; i++) logits[id] += x[i] * wte[id * n_embd + i];
    return logits;
  }

  /** Feeds the tokens of one row. Returns the logits of each position that is asked for, a cache. */
  row(ids, cache = this.empty(), positions = ids.map((_, i) => i)) {
    const found = [];
    ids.forEach((id, i) => {
      let x;
      [x, cache] = this.token(id, cache);
      if (positions.includes(i)) found.push(this.head(x));
    });
    return [found, cache];
  }

  empty() {
    return Array.from({ length: this.config.n_layer }, () => [[], []]);
  }

  /** Returns the new tokens of one prompt. `uniforms`: a number for each draw; null for others. */
  generate(prompt, { max_new_tokens, temperature, top_k, uniforms }) {
    if (top_k !== null && top_k < 1) throw Error(`top_k=${top_k}`);
    const ids = prompt.length ? [...prompt] : [EOS], added = [], n = this.config.n_positions;
    let cache = null;
    for (let step = 0; step < max_new_tokens; step++) {
      const moved = ids.length > n; // the window has moved, and with it every position
      const fed = cache && !moved ? ids.slice(-1) : ids.slice(-n);
      let logits;
      [logits, cache] = this.row(fed, cache && !moved ? cache : this.empty(), [fed.length - 1]);
      const u = uniforms ? uniforms[step] : Math.random();
      const id = chosen(logits[0], temperature, top_k, u);
      if (id === EOS) break;
      ids.push(id);
      added.push(id);
    }
    return added;
  }
}

/** Softmax of logits / temperature over the top_k, and the first id whose sum exceeds u. */
function chosen(logits, temperature, top_k, u) {
  const largest = logits.reduce((a, b) => Math.max(a, b)); // NaN if there is one
  if (!Number.isFinite(largest)) throw Error("the largest logit is not a number");
  if (temperature === 0) return logits.indexOf(largest);
  const least = [...logits].sort((a, b) => b - a)[Math.min(top_k ?? logits.length, logits.length) - 1];
  const weights = logits.map((x) => (x < least ? 0 : Math.exp((x - largest) / temperature)));
  const total = weights.reduce((a, b) => a + b);
  let sum = 0;
  return weights.findIndex((weight) => (sum += weight) > u * total);
}

module.exports = { GPT2, integer };
