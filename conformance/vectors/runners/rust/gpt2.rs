//! A GPT-2 in plain Rust. Numbers are doubles; the weights are those of the file.
use crate::json::Json;
use std::{collections::BTreeMap, fs, path::Path};

const EOS: usize = 50256;

pub struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The keys and the values of each layer, a row of numbers for each position.
pub type Cache = Vec<(Vec<Vec<f64>>, Vec<Vec<f64>>)>;

pub struct GPT2 {
    weights: BTreeMap<String, Tensor>,
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    epsilon: f64,
}

/// The integer of a counter: 24 bits, the same in every language.
pub fn integer(seed: u32, counter: u32) -> u32 {
    let x = counter.wrapping_mul(0x9E3779B9).wrapping_add(seed);
    let x = (x ^ x >> 16).wrapping_mul(0x85EBCA6B);
    let x = (x ^ x >> 13).wrapping_mul(0xC2B2AE35);
    (x ^ x >> 16) >> 8
}

/// Returns the tensors that a rule makes.
fn made_by_rule(rule: &Json) -> BTreeMap<String, Tensor> {
    let low = rule.get("row_0");
    let field = |each: &Json, name| each.get(name).number().unwrap_or(0.0);
    let made = rule.get("tensors").list().iter().map(|each| {
        let shape = each.get("shape").integers();
        let (mean, half_range) = (field(each, "mean"), field(each, "half_range"));
        let seed = rule.get("seed").integer() as u32;
        let weight = |n| {
            let k = integer(seed, (each.get("first").integer() + n) as u32) as f64;
            (mean + half_range * (k - 8388608.0) / 8388608.0) as f32
        };
        let mut values: Vec<f32> = (0..shape.iter().product()).map(weight).collect();
        if low.get("tensors").list().contains(each.get("name")) {
            values[..shape[1]].iter_mut().for_each(|x| *x *= field(low, "factor") as f32);
        }
        (each.get("name").text().to_string(), Tensor { shape, values })
    });
    made.collect()
}

fn half_to_number(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, rest) = ((bits >> 10 & 31) as i32, (bits & 1023) as f32);
    match exponent {
        0 => sign * rest / 16777216.0,
        _ => sign * (1.0 + rest / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// Returns the tensors of a checkpoint by name. tensors.json says where they are.
fn read_tensors(folder: &str) -> Result<BTreeMap<String, Tensor>, String> {
    if Path::new(&format!("{folder}/rule.json")).exists() {
        return Ok(made_by_rule(&Json::read(&format!("{folder}/rule.json"))?));
    }
    let index = Json::read(&format!("{folder}/tensors.json"))?;
    let file = format!("{folder}/{}", index.get("file").text());
    let content = fs::read(&file).map_err(|error| format!("{file}: {error}"))?;
    let mut found = BTreeMap::new();
    for each in index.get("tensors").list() {
        let name = each.get("name").text().trim_start_matches("transformer.").to_string();
        if name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") {
            continue; // masks of older files; no weights
        }
        let shape = each.get("shape").integers();
        let (bytes, n) = (&content[each.get("offset").integer()..], shape.iter().product());
        let halves = bytes.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).take(n);
        let floats = bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).take(n);
        let values = match each.get("dtype").text() {
            "F32" => floats.collect(),
            "F16" => halves.map(half_to_number).collect(),
            _ => halves.map(|bits| f32::from_bits((bits as u32) << 16)).collect(),
        };
        found.insert(name, Tensor { shape, values });
    }
    Ok(found)
}

/// Returns the shape of each tensor that a config asks for.
fn shapes_of(config: &Json) -> BTreeMap<String, Vec<usize>> {
    let n = config.get("n_embd").integer();
    let inner = config.get("n_inner").number().map_or(4 * n, |width| width as usize);
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        shapes.insert(format!("{name}.bias"), shape[shape.len() - 1..].to_vec());
        shapes.insert(format!("{name}.weight"), shape.to_vec());
    };
    add("ln_f".into(), &[n]);
    for layer in 0..config.get("n_layer").integer() {
        add(format!("h.{layer}.ln_1"), &[n]);
        add(format!("h.{layer}.attn.c_attn"), &[n, 3 * n]);
        add(format!("h.{layer}.attn.c_proj"), &[n, n]);
        add(format!("h.{layer}.ln_2"), &[n]);
        add(format!("h.{layer}.mlp.c_fc"), &[n, inner]);
        add(format!("h.{layer}.mlp.c_proj"), &[inner, n]);
    }
    shapes.insert("wte.weight".into(), vec![config.get("vocab_size").integer(), n]);
    shapes.insert("wpe.weight".into(), vec![config.get("n_positions").integer(), n]);
    shapes
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(a, b)| *a += b);
}

/// Returns the largest number, or NaN if there is one.
fn largest(x: &[f64]) -> f64 {
    x.iter().fold(f64::NEG_INFINITY, |a, &b| if a.is_nan() || a > b { a } else { b })
}

impl GPT2 {
    pub fn load(folder: &str) -> Result<GPT2, String> {
        let config = Json::read(&format!("{folder}/config.json"))?;
        for (name, right) in [
            ("activation_function", Json::Text("gelu_new".into())),
            ("scale_attn_weights", Json::Bool(true)),
            ("scale_attn_by_inverse_layer_idx", Json::Bool(false)),
        ] {
            if *config.get(name) != right {
                return Err(format!("{name} is {}", config.get(name)));
            }
        }
        let mut weights = read_tensors(folder)?;
        let (head, shapes) = (weights.remove("lm_head.weight"), shapes_of(&config));
        if let Some(name) = shapes
            .keys()
            .chain(weights.keys())
            .find(|&name| shapes.get(name) != weights.get(name).map(|tensor| &tensor.shape))
        {
            return Err(format!("tensor {name}"));
        }
        if head.is_some_and(|head| head.values != weights["wte.weight"].values) {
            return Err("lm_head.weight differs".into());
        }
        let field = |name| config.get(name).integer();
        Ok(GPT2 {
            weights,
            vocab_size: field("vocab_size"),
            n_positions: field("n_positions"),
            n_embd: field("n_embd"),
            n_layer: field("n_layer"),
            n_head: field("n_head"),
            epsilon: config.get("layer_norm_epsilon").number().unwrap_or(1e-5),
        })
    }

    pub fn empty(&self) -> Cache {
        vec![Default::default(); self.n_layer]
    }

    fn weight(&self, name: &str) -> &[f32] {
        &self.weights[name].values
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (w, b) = (self.weight(&format!("{name}.weight")), self.weight(&format!("{name}.bias")));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        (0..x.len()).map(|i| (x[i] - mean) * scale * w[i] as f64 + b[i] as f64).collect()
    }

    /// x @ weight + bias; a weight is [in, out].
    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let w = self.weight(&format!("{name}.weight"));
        let bias = self.weight(&format!("{name}.bias"));
        let mut y: Vec<f64> = bias.iter().map(|&b| b as f64).collect();
        for (row, a) in w.chunks(y.len()).zip(x) {
            y.iter_mut().zip(row).for_each(|(out, &b)| *out += a * b as f64);
        }
        y
    }

    fn attention(&self, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let width = self.n_embd / self.n_head;
        let mut y = vec![0.0; self.n_embd];
        for head in (0..self.n_embd).step_by(width).map(|start| start..start + width) {
            let scores: Vec<f64> = keys
                .iter()
                .map(|k| head.clone().map(|i| q[i] * k[i]).sum::<f64>() / (width as f64).sqrt())
                .collect();
            let most = largest(&scores);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (weight, v) in weights.iter().zip(values) {
                head.clone().for_each(|i| y[i] += weight / total * v[i]);
            }
        }
        y
    }

    /// Feeds one token, and returns ln_f's output.
    fn token(&self, id: usize, cache: &mut Cache) -> Result<Vec<f64>, String> {
        let (n, position) = (self.n_embd, cache[0].0.len());
        if position >= self.n_positions {
            return Err(format!("no position {position}: the context is full"));
        }
        if id >= self.vocab_size {
            return Err(format!("no token {id}"));
        }
        let (wte, wpe) = (self.weight("wte.weight"), self.weight("wpe.weight"));
        let embedded = |i| wte[id * n + i] as f64 + wpe[position * n + i] as f64;
        let mut x: Vec<f64> = (0..n).map(embedded).collect();
        for (layer, (keys, values)) in cache.iter_mut().enumerate() {
            let normed = self.norm(&x, &format!("h.{layer}.ln_1"));
            let qkv = self.linear(&normed, &format!("h.{layer}.attn.c_attn"));
            keys.push(qkv[n..2 * n].to_vec());
            values.push(qkv[2 * n..].to_vec());
            let attended = self.attention(&qkv, keys, values);
            add(&mut x, &self.linear(&attended, &format!("h.{layer}.attn.c_proj")));
            let normed = self.norm(&x, &format!("h.{layer}.ln_2"));
            let mut hidden = self.linear(&normed, &format!("h.{layer}.mlp.c_fc"));
            hidden.iter_mut().for_each(|y| *y = gelu(*y));
            add(&mut x, &self.linear(&hidden, &format!("h.{layer}.mlp.c_proj")));
        }
        Ok(self.norm(&x, "ln_f"))
    }

    fn head(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.weight("wte.weight").chunks(self.n_embd);
        rows.map(|row| row.iter().zip(x).map(|(&w, y)| w as f64 * y).sum()).collect()
    }

    /// Feeds the tokens of one row. Returns the logits of each position that is asked for.
    pub fn row(
        &self,
        ids: &[usize],
        cache: &mut Cache,
        positions: &[usize],
    ) -> Result<Vec<Vec<f64>>, String> {
        let mut found = Vec::new();
        for (i, &id) in ids.iter().enumerate() {
            let x = self.token(id, cache)?;
            if positions.contains(&i) {
                found.push(self.head(&x));
            }
        }
        Ok(found)
    }

    /// Returns the new tokens of one prompt. `uniform`: gives the number of each draw.
    pub fn generate(
        &self,
        prompt: &[usize],
        call: &Json,
        uniform: impl Fn(usize) -> f64,
    ) -> Result<Vec<usize>, String> {
        let temperature = call.get("temperature").number().unwrap_or(1.0);
        let top_k = call.get("top_k").number().map_or(self.vocab_size, |k| k as usize);
        if top_k < 1 {
            return Err(format!("top_k={top_k}"));
        }
        let mut ids = if prompt.is_empty() { vec![EOS] } else { prompt.to_vec() };
        let (start, mut cache) = (ids.len(), self.empty());
        for step in 0..call.get("max_new_tokens").integer() {
            let mut fed = &ids[if step == 0 { 0 } else { ids.len() - 1 }..];
            if ids.len() > self.n_positions {
                // The window has moved, and with it every position.
                fed = &ids[ids.len() - self.n_positions..];
                cache = self.empty();
            }
            let logits = self.row(fed, &mut cache, &[fed.len() - 1])?;
            match chosen(&logits[0], temperature, top_k, uniform(step))? {
                EOS => break,
                id => ids.push(id),
            }
        }
        Ok(ids.split_off(start))
    }
}

/// Softmax of logits / temperature over the top_k, and the first id whose sum exceeds u.
fn chosen(logits: &[f64], temperature: f64, top_k: usize, u: f64) -> Result<usize, String> {
    let most = largest(logits);
    if !most.is_finite() {
        return Err("the largest logit is not a number".into());
    }
    if temperature == 0.0 {
        return Ok(logits.iter().position(|&x| x == most).unwrap_or(0));
    }
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let least = sorted[top_k.min(logits.len()) - 1];
    let weight = |&x: &f64| if x < least { 0.0 } else { ((x - most) / temperature).exp() };
    let weights: Vec<f64> = logits.iter().map(weight).collect();
    let (total, mut sum) = (weights.iter().sum::<f64>(), 0.0);
    let exceeds = |weight: &f64| {
        sum += weight;
        sum > u * total
    };
    Ok(weights.iter().position(exceeds).unwrap_or(0))
}
