// torch's generator of random numbers on a CPU, so that a run in the browser meets the batches and weights of one in Python.
// The engine is MT19937 (Matsumoto & Nishimura, 1998), seeded as torch seeds it; what is drawn from it follows
// torch 2.13: ATen/core/MT19937RNGEngine.h, TransformationHelper.h and native/TensorFactories.cpp (randperm).
(function (steprule) {
  "use strict";
  const LENGTH = 624, MIDDLE = 397;

  /**
   * Return a generator that draws what `torch.Generator().manual_seed(seed)` draws.
   * @param {number} seed a whole number from 0 to 2³² − 1; torch, too, seeds its engine with 32 bits.
   */
  steprule.generator = function (seed) {
    const state = new Uint32Array(LENGTH);
    let next = LENGTH;
    state[0] = seed;
    for (let at = 1; at < LENGTH; at++) {
      const last = state[at - 1];
      state[at] = Math.imul(1812433253, last ^ (last >>> 30)) + at;
    }

    function renew() {
      for (let at = 0; at < LENGTH; at++) {
        const mixed = (state[at] & 0x80000000) | (state[(at + 1) % LENGTH] & 0x7fffffff);
        state[at] = state[(at + MIDDLE) % LENGTH] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
      }
      next = 0;
    }

    /** Return the next 32 bits as a whole number. */
    function random() {
      if (next === LENGTH) renew();
      let bits = state[next++];
      bits ^= bits >>> 11;
      bits ^= (bits << 7) & 0x9d2c5680;
      bits ^= (bits << 15) & 0xefc60000;
      return (bits ^ (bits >>> 18)) >>> 0;
    }

    /** Return the next 64 bits as a BigInt; the first draw is the upper half. */
    function random64() {
      const high = BigInt(random());
      return (high << 32n) | BigInt(random());
    }

    /** Return a permutation of 0 … n − 1: `torch.randperm(n, generator=…)`, which shuffles from the front. */
    function randperm(n) {
      const order = Uint32Array.from({ length: n }, (_, at) => at);
      for (let at = 0; at < n - 1; at++) {
        const from = at + (random() % (n - at)), kept = order[at];
        order[at] = order[from];
        order[from] = kept;
      }
      return order;
    }

    /** Return n numbers in [low, high) as float32 holds them: `torch.empty(n).uniform_(low, high)`. */
    function uniform(n, low = 0, high = 1) {
      const from = Math.fround(low), range = Math.fround(Math.fround(high) - from);
      return Float64Array.from({ length: n }, () => {
        // The product is exact here, and rounded once with the sum: torch's kernels fuse the two where a processor can.
        return Math.fround(((random() & 0xffffff) / 0x1000000) * range + from);
      });
    }

    /** Return n float64 numbers in [0, 1): `torch.rand(n, dtype=torch.float64)`. */
    function uniform64(n) {
      return Float64Array.from({ length: n }, () => {
        const upper = random() & 0x1fffff; // 53 bits of the 64
        return (upper * 0x100000000 + random()) / 0x20000000000000;
      });
    }

    return { random, random64, randperm, uniform, uniform64 };
  };
})((globalThis.steprule ??= {}));
