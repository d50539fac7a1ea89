// The digits, and which of them each iteration sees: the lab's sets, batches and counts.
(function (steprule) {
  "use strict";
  const PIXELS = 64, A = "A".charCodeAt(0), SMALL_A = "a".charCodeAt(0);
  steprule.data ??= {};

  /**
   * Return the three sets that `play/data.py` packed: `{train, validation, test}`, each with `inputs` (64 numbers in
   * [0, 1] a digit), `labels` and `size`.
   * @param {{sizes: object, greys: number, labels: string, pixels: string}} packed
   */
  steprule.data.unpack = function (packed) {
    const pixels = new Float64Array(PIXELS * packed.labels.length), sets = {};
    let at = 0;
    for (const letter of packed.pixels) {
      const code = letter.charCodeAt(0);
      if (code >= SMALL_A) at += code - SMALL_A + 1;
      else pixels[at++] = (code - A + 1) / packed.greys;
    }
    if (at !== pixels.length) throw new RangeError(`${at} pixels of ${pixels.length}`);
    let first = 0;
    for (const [name, size] of Object.entries(packed.sizes)) {
      const labels = Uint8Array.from(packed.labels.slice(first, first + size), Number);
      sets[name] = { inputs: pixels.subarray(PIXELS * first, PIXELS * (first + size)), labels, size };
      first += size;
    }
    return sets;
  };

  /**
   * Count as on the board: an epoch is one pass over the data; either count can be the budget.
   * `iterations` are those of the budget, `total` has the final full-batch one, too.
   * @param {number} size how many examples there are
   * @param {{batch: number, budget: string, epochs: number, iterations: number, final: boolean}} spec
   * @param {boolean} full whether one iteration is one pass over the data
   */
  steprule.data.counts = function (size, spec, full = false) {
    const perEpoch = full ? 1 : Math.ceil(size / spec.batch);
    const iterations = spec.budget === "iterations" ? spec.iterations : spec.epochs * perEpoch;
    return { perEpoch, iterations, epochs: iterations / perEpoch, total: iterations + (spec.final ? 1 : 0) };
  };

  /**
   * Yield the examples of every iteration, the board's final one on the whole data set included. Each epoch is a fresh
   * permutation of the seed's generator; the last batch of an epoch is smaller when the sizes do not divide.
   */
  steprule.data.order = function* (size, spec, full = false) {
    const everything = Uint32Array.from({ length: size }, (_, at) => at), { iterations } = steprule.data.counts(size, spec, full);
    const generator = steprule.generator(spec.seed);
    let epoch = new Uint32Array(0), from = 0;
    for (let done = 0; done < iterations; done++) {
      if (full) {
        yield everything;
        continue;
      }
      if (from >= epoch.length) [epoch, from] = [generator.randperm(size), 0];
      yield epoch.subarray(from, (from += spec.batch));
    }
    if (spec.final) yield everything;
  };
})((globalThis.steprule ??= {}));
