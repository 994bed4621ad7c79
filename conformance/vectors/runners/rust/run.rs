//! Runs the vectors on the GPT-2 of gpt2.rs:
//!
//!     rustc --edition 2021 -O run.rs && ./run VECTORS [answers.json]
//!
//! For your own port, write the methods that `answer` calls. docs/vectors.md has the rest.
mod gpt2;
mod json;
use gpt2::{integer, Cache, GPT2};
use json::Json::{self, *};
use std::{collections::BTreeMap, process::exit};

fn numbers<T: Copy>(values: &[T], number: impl Fn(T) -> f64) -> Json {
    List(values.iter().map(|&value| Number(number(value))).collect())
}

/// Returns the logits that are compared, [row][position][token]. `caches` has those of earlier
/// calls, one for each row.
fn logits(
    model: &GPT2,
    call: &Json,
    tokens: &Json,
    caches: &mut Vec<Vec<Cache>>,
) -> Result<Json, String> {
    let shown = |logits: &Vec<f64>| match tokens {
        Null => numbers(logits, |logit| logit),
        some => numbers(&some.integers(), |id| logits[id]),
    };
    let (mut answers, mut kept) = (Vec::new(), Vec::new());
    for (i, row) in call.get("token_ids").list().iter().enumerate() {
        let mut cache = match call.get("do").text() {
            "step" => caches[call.get("after").integer()][i].clone(),
            _ => model.empty(),
        };
        let positions = match call.get("positions") {
            Null => (0..row.list().len()).collect(),
            some => some.integers(),
        };
        let found = model.row(&row.integers(), &mut cache, &positions)?;
        answers.push(List(found.iter().map(shown).collect()));
        kept.push(cache);
    }
    caches.push(kept);
    Ok(List(answers))
}

/// Returns the new tokens of each row. Without given numbers, the draws are those of the generator.
fn new_tokens(model: &GPT2, call: &Json) -> Result<Json, String> {
    let mut answers = Vec::new();
    let seed = call.get("seed").integer() as u32;
    for (i, row) in call.get("token_ids").list().iter().enumerate() {
        let uniform = |step: usize| match call.get("uniforms").list().get(i) {
            Some(given) => given.list()[step].number().unwrap(),
            None => integer(seed, (10000 * i + step) as u32) as f64 / 16777216.0, // 2^24
        };
        let new = model.generate(&row.integers(), call, uniform)?;
        answers.push(numbers(&new, |id| id as f64));
    }
    Ok(List(answers))
}

/// Returns the answers to the calls of a case, in turn.
fn answer(folder: &str, test: &Json) -> Result<Json, String> {
    let model = GPT2::load(&format!("{folder}/{}", test.get("checkpoint").text()))?;
    let (mut answers, mut caches) = (Vec::new(), Vec::new());
    for call in test.get("calls").list() {
        answers.push(match call.get("do").text() {
            "generate" | "generate_ragged" => {
                caches.push(Vec::new());
                new_tokens(&model, call)?
            }
            _ => logits(&model, call, test.get("tokens"), &mut caches)?,
        });
    }
    Ok(List(answers))
}

/// Returns what goes into answers.json: one answer for each call, or an error.
fn answers(folder: &str, test: &Json) -> Json {
    let said = |kind: &str, words: String| Object(vec![(kind.into(), Text(words))]);
    if test.get("parts").list().contains(&Text("text".into())) {
        return said("not_applicable", "no tokenizer".into());
    }
    answer(folder, test).unwrap_or_else(|error| said("error", error))
}

/// Whether two answers are the same. Logits may differ by the allowed error.
fn same(a: &Json, b: &Json, allowed: f64) -> bool {
    match (a, b) {
        (Number(a), Number(b)) => (a - b).abs() <= allowed,
        (List(a), List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, allowed))
        }
        _ => a == b,
    }
}

/// Whether tokens are drawn as often as they should be, to five standard deviations.
fn often(rows: &Json, expected: &Json) -> bool {
    let draws = expected.get("draws").number().unwrap();
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for id in rows.list().iter().flat_map(Json::integers) {
        *counts.entry(id.to_string()).or_default() += 1.0;
    }
    for (id, _) in expected.get("probabilities").fields() {
        counts.entry(id.clone()).or_default();
    }
    counts.iter().all(|(id, count)| {
        let p = expected.get("probabilities").get(id).number().unwrap_or(0.0);
        (count - p * draws).abs() <= 5.0 * (draws * p * (1.0 - p)).sqrt() + 1e-6
    })
}

fn allowed_in(expected: &Json) -> Option<f64> {
    expected.get("allowed").get("float32").number()
}

fn matches(test: &Json, expected: &Json, found: &Json) -> bool {
    let error = found.get("error");
    if *expected.get("refused") == Bool(true) {
        let words = test.get("refusal_words").list();
        let has = |word: &Json| error.text().to_lowercase().contains(word.text());
        return *error != Null && (words.is_empty() || words.iter().any(has));
    }
    let allowed = allowed_in(expected).or(allowed_in(test.get("expected"))).unwrap_or(0.0);
    let calls = test.get("calls").list().iter();
    let pairs = found.list().iter().zip(expected.get("answers").list());
    *error == Null
        && calls.zip(pairs).all(|(call, (own, right))| {
            match (call.get("do").text(), call.get("frequencies")) {
                (_, Bool(true)) => often(own, right),
                ("generate" | "generate_ragged", _) => own == right,
                _ => same(own, right, allowed),
            }
        })
}

/// Whether a mistake would give these answers, where they differ most.
fn fits(test: &Json, mistake: &Json, found: &Json) -> bool {
    if *mistake.get("answers") == Null {
        return *mistake.get("refused") == Bool(*found.get("error") != Null);
    }
    let allowed = 2.0 * allowed_in(test.get("expected")).unwrap_or(0.0);
    mistake.get("answers").list().iter().all(|place| {
        let path = place.get("at").integers();
        let at = path.iter().try_fold(found, |each, &index| each.list().get(index));
        at.is_some_and(|at| same(at, place.get("is"), allowed))
    })
}

fn check_generator(vectors: &Json) -> Result<(), String> {
    for each in vectors.get("vectors").list() {
        let field = |name| each.get(name).integer() as u32;
        if integer(field("seed"), field("counter")) != field("integer") {
            return Err(format!("the integer of counter {} is wrong", field("counter")));
        }
    }
    Ok(())
}

/// Prints what fails, and returns whether that is nothing.
fn run(folder: &str, file: Option<&String>) -> Result<bool, String> {
    check_generator(&Json::read(&format!("{folder}/generator.json"))?)?;
    let index = Json::read(&format!("{folder}/index.json"))?;
    let (mut given, mut failed) = (Vec::new(), 0);
    for entry in index.get("cases").list() {
        let test = Json::read(&format!("{folder}/{}", entry.get("file").text()))?;
        let (id, found) = (entry.get("id").text(), answers(folder, &test));
        let mut expected = [test.get("expected")].into_iter().chain(test.get("accepted").list());
        let skipped = *found.get("not_applicable") != Null;
        if !skipped && !expected.any(|each| matches(&test, each, &found)) {
            failed += 1;
            println!("FAILED {id}: {}", test.get("sentence").text());
            for (name, mistake) in test.get("mistakes").fields() {
                if fits(&test, mistake, &found) {
                    println!("    you have {name}: {}", mistake.get("says").text());
                }
            }
        }
        given.push((id.to_string(), found));
    }
    println!("{failed} of {} cases failed", given.len());
    if let Some(file) = file {
        let content =
            [("format", Number(1.0)), ("name", Text("gpt2.rs".into())), ("answers", Object(given))];
        let content =
            Object(content.into_iter().map(|(name, value)| (name.into(), value)).collect());
        std::fs::write(file, content.to_string()).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(failed == 0)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(folder) = words.first() else {
        eprintln!("usage: run VECTORS [answers.json]");
        exit(2);
    };
    match run(folder, words.get(1)) {
        Ok(right) => exit(if right { 0 } else { 1 }),
        Err(error) => {
            eprintln!("{error}");
            exit(2);
        }
    }
}
