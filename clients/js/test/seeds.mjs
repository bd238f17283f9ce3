// Seeds of random interleavings. MODEL_RUNS: how many; MODEL_SEED: the first one.

/** Return how many there are, which is `most` unless MODEL_RUNS says otherwise. */
export function count(most) {
  return Number(process.env.MODEL_RUNS ?? most);
}

/** Run the interleavings of so many seeds. A failure names the seed that repeats it. */
export function interleave(run, runs) {
  const first = Number(process.env.MODEL_SEED ?? 0);
  for (let seed = first; seed < first + runs; seed += 1) {
    try {
      run(seed);
    } catch (error) {
      error.message = `MODEL_SEED=${seed} MODEL_RUNS=1 repeats it: ${error.message}`;
      throw error;
    }
  }
}
