// Runs the vectors on the GPT-2 of gpt2.js:    node run.js VECTORS [answers.json]
// For your own port, write a class with the methods that `answer` calls. docs/vectors.md has the rest.
"use strict";
const fs = require("fs");
const path = require("path");
const { GPT2, integer } = require("./gpt2.js");

/** Returns the answer to one call. `caches` has those that earlier calls returned. */
function answer(model, call, tokens, caches, number) {
  if (call.do === "encode" || call.do === "decode") throw new NotApplicable("no tokenizer");
  const rows = call.token_ids;
  if (call.do === "generate" || call.do === "generate_ragged")
    return rows.map((row, i) => model.generate(row, { ...call, uniforms: call.uniforms?.[i] }));
  const found = rows.map((row, i) => {
    const cache = call.do === "step" ? caches[call.after][i] : model.empty();
    return model.row(row, cache, call.positions ?? undefined);
  });
  caches[number] = found.map(([, cache]) => cache);
  return found.map(([positions]) =>
    positions.map((logits) => (tokens ? tokens.map((id) => logits[id]) : [...logits])));
}

class NotApplicable extends Error {}

/** Returns what goes into answers.json: one answer for each call, or an error. */
function answers(folder, test) {
  try {
    const model = new GPT2(path.join(folder, test.checkpoint)), caches = {};
    return test.calls.map((call, n) => answer(model, call, test.tokens, caches, n));
  } catch (error) {
    if (error instanceof NotApplicable) return { not_applicable: error.message };
    return { error: String(error.message) };
  }
}

/** Whether two answers are the same. Logits may differ by the allowed error. */
function same(a, b, allowed) {
  if (typeof a === "number" && typeof b === "number") return Math.abs(a - b) <= allowed;
  if (Array.isArray(a) && Array.isArray(b))
    return a.length === b.length && a.every((each, i) => same(each, b[i], allowed));
  return a === b;
}

/** Whether tokens are drawn as often as they should be, to five standard deviations. */
function often(rows, { draws, probabilities }) {
  const counts = {};
  rows.flat().forEach((id) => (counts[id] = (counts[id] ?? 0) + 1));
  return Object.keys({ ...counts, ...probabilities }).every((id) => {
    const p = probabilities[id] ?? 0, count = counts[id] ?? 0;
    return Math.abs(count - p * draws) <= 5 * Math.sqrt(draws * p * (1 - p)) + 1e-6;
  });
}

function matches(test, expected, found) {
  if (expected.refused) {
    const words = test.refusal_words, text = String(found.error).toLowerCase();
    return "error" in found && (!words.length || words.some((word) => text.includes(word)));
  }
  const allowed = expected.allowed?.float32 ?? test.expected.allowed?.float32 ?? 0;
  return !found.error && test.calls.every((call, n) =>
    call.frequencies ? often(found[n], expected.answers[n])
      : same(found[n], expected.answers[n], typeof found[n][0]?.[0] === "number" ? 0 : allowed));
}

/** Returns the known mistakes that would give these answers, where they differ most. */
function likely(test, found) {
  const allowed = 2 * (test.expected.allowed?.float32 ?? 0);
  return Object.entries(test.mistakes).filter(([, mistake]) => {
    if (!mistake.answers) return mistake.refused === "error" in found;
    return mistake.answers.every(({ at, is }) =>
      same(at.reduce((each, index) => each?.[index], found), is, allowed));
  });
}

const [folder, file] = process.argv.slice(2);
const index = JSON.parse(fs.readFileSync(path.join(folder, "index.json"), "utf8"));
const generator = JSON.parse(fs.readFileSync(path.join(folder, "generator.json"), "utf8"));
const given = {};
let failed = 0;
for (const { seed, counter, integer: right } of generator.vectors)
  if (integer(seed, counter) !== right) throw Error(`the integer of counter ${counter} is not ${right}`);
for (const { id, file: name } of index.cases) {
  const test = JSON.parse(fs.readFileSync(path.join(folder, name), "utf8"));
  const found = (given[id] = answers(folder, test));
  if (found.not_applicable) continue;
  if ([test.expected, ...test.accepted].some((each) => matches(test, each, found))) continue;
  failed++;
  console.log(`FAILED ${id}: ${test.sentence}`);
  for (const [mistake, { says }] of likely(test, found)) console.log(`    you have ${mistake}: ${says}`);
}
if (file) fs.writeFileSync(file, JSON.stringify({ format: 1, name: "gpt2.js", answers: given }));
console.log(`${failed} of ${index.cases.length} cases failed`);
process.exitCode = failed ? 1 : 0;
