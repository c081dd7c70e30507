// Time one work on one side and print one line of JSON: {form: {ms, first, last} or {error}}.
//
//   node measure.mjs cloister|tensorflow mlp|cnn|mobilenet FOLDER ROWS BATCH SECONDS
//
// ms is the median of a step; first and last are the mean losses of a row in the first pass over
// the rows and in the last call.

import { performance } from 'node:perf_hooks';

const WARM_UP = 0.5; // seconds, in which the engine replaces its first code by optimised code
const [side, work, folder, ...numbers] = process.argv.slice(2);
const [rows, batch, seconds] = numbers.map(Number);

/** Milliseconds of each call made in so many seconds, three at least. */
async function repeat(call, seconds) {
  const times = [];
  const began = performance.now();
  while (times.length < 3 || performance.now() - began < seconds * 1000) {
    const start = performance.now();
    await call();
    times.push(performance.now() - start);
  }
  return times;
}

const { WORKS } = await import(`./${side}.mjs`);
const found = {};
for (const [form, start] of Object.entries(WORKS[work](folder, rows, batch))) {
  try {
    const { call, steps, losses } = start();
    await repeat(call, WARM_UP);
    const times = (await repeat(call, seconds)).sort((a, b) => a - b);
    const first = losses.slice(0, rows / batch / steps);
    found[form] = {
      ms: times[Math.floor(times.length / 2)] / steps,
      first: first.reduce((sum, loss) => sum + loss, 0) / first.length,
      last: losses.at(-1),
    };
  } catch (error) {
    found[form] = { error: error.message };
  }
}
console.log(JSON.stringify(found));
