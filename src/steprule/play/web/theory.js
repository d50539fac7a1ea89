// What mathematics says of the board's methods on a quadratic ½ θᵀAθ whose eigenvalues lie in [μ, L]. Each method is a
// linear map of (θ, m) for every eigenvalue λ; the greatest of their spectral radii is the asymptotic rate.
(function (steprule) {
  "use strict";
  // How densely the eigenvalues between μ and L are looked at: the radius is greatest at an end, but for a few settings.
  const BETWEEN = 64;

  // The iteration matrices on (θ, m), by method, as [[a, b], [c, d]]; gradient descent has no m. Those of momentum and of
  // the exact look-ahead are the board's; the others follow in the same way from their formulas.
  const MATRICES = {
    gd: (λ, { lr }) => [[1 - lr * λ, 0], [0, 0]],
    momentum: (λ, { lr, beta }) => [[1 - lr * (1 - beta) * λ, -lr * beta], [(1 - beta) * λ, beta]],
    nesterov: (λ, { lr, beta }) => {
      const shrunk = 1 - lr * (1 - beta) * λ;
      return [[shrunk, -lr * beta * shrunk], [(1 - beta) * λ, beta * shrunk]];
    },
    // The gradient at θ − βm/(1−β), as the board literally reads.
    "nesterov-board": (λ, { lr, beta }) => [
      [1 - lr * (1 - beta) * λ, -lr * beta * (1 - λ)],
      [(1 - beta) * λ, beta * (1 - λ)],
    ],
    // m = ((1−β)λθ + βm)/(1 + η(1−β)λ): the gradient where the step ends.
    "nesterov-implicit": (λ, { lr, beta }) => {
      const share = 1 / (1 + lr * (1 - beta) * λ);
      return [[share, -lr * share * beta], [share * (1 - beta) * λ, share * beta]];
    },
  };
  MATRICES.sgd = MATRICES.gd;

  /** Return the spectral radius of a 2 × 2 matrix. */
  function radius([[a, b], [c, d]]) {
    const half = (a + d) / 2, product = a * d - b * c, root = half * half - product;
    return root < 0 ? Math.sqrt(product) : Math.abs(half) + Math.sqrt(root);
  }

  /** Return the eigenvalues to look at: both ends, and some between them, factors apart. */
  function spectrum(mu, L) {
    return Array.from({ length: BETWEEN + 1 }, (_, at) => (at === BETWEEN ? L : mu * (L / mu) ** (at / BETWEEN)));
  }

  const greatest = (method, eigenvalues, hypers) =>
    eigenvalues.reduce((most, λ) => Math.max(most, radius(MATRICES[method](λ, hypers))), 0);

  // The best setting of each method on all quadratics of [μ, L]: gradient descent and heavy ball after Polyak (1964),
  // Nesterov after Lessard, Recht & Packard (2016), table 1. The board's η is theirs over 1 − β, since m is an average.
  const BEST = {
    gd: (mu, L) => ({ lr: 2 / (mu + L), factor: (L - mu) / (L + mu) }),
    momentum: (mu, L) => {
      const factor = (Math.sqrt(L) - Math.sqrt(mu)) / (Math.sqrt(L) + Math.sqrt(mu)), beta = factor ** 2;
      return { lr: 4 / (Math.sqrt(L) + Math.sqrt(mu)) ** 2 / (1 - beta), beta, factor };
    },
    nesterov: (mu, L) => {
      const root = Math.sqrt((3 * L) / mu + 1), beta = (root - 2) / (root + 2);
      return { lr: 4 / (3 * L + mu) / (1 - beta), beta, factor: 1 - 2 / root };
    },
  };
  BEST.sgd = BEST.gd;

  /** Return the greatest η with which a method still converges for all of [μ, L], the other numbers as they are. */
  function limit(method, eigenvalues, hypers) {
    const holds = (lr) => greatest(method, eigenvalues, { ...hypers, lr }) < 1;
    let low = 0, high = 1 / eigenvalues[eigenvalues.length - 1];
    while (holds(high)) {
      if (high > 1e9) return Infinity;
      low = high;
      high *= 2;
    }
    for (let halving = 0; halving < 60; halving++) {
      const middle = (low + high) / 2;
      if (holds(middle)) low = middle;
      else high = middle;
    }
    return low;
  }

  /**
   * Return what theory says of a method on a quadratic with eigenvalues in [mu, L].
   *
   * `factor` is the asymptotic rate at `hypers` ({lr, beta}), `limit` the greatest lr that converges with this beta,
   * `best` the best numbers and their factor, null where none are known. The result is null for a method without theory.
   * @param {string} method gd, sgd, momentum, nesterov, nesterov-board or nesterov-implicit
   */
  steprule.theory = function (method, mu, L, hypers) {
    if (!Object.hasOwn(MATRICES, method) || !(mu > 0 && L >= mu)) return null;
    const eigenvalues = spectrum(mu, L), factor = greatest(method, eigenvalues, hypers);
    const best = Object.hasOwn(BEST, method) ? BEST[method](mu, L) : null;
    return { factor, converges: factor < 1, limit: limit(method, eigenvalues, hypers), best };
  };

  /** Return the iteration matrix of a method for one eigenvalue. */
  steprule.theory.matrix = (method, eigenvalue, hypers) => MATRICES[method](eigenvalue, hypers);

  /** Return the spectral radius of a method for one eigenvalue. */
  steprule.theory.radius = (method, eigenvalue, hypers) => radius(MATRICES[method](eigenvalue, hypers));

  /** Return the greater root of the recurrence x₊₂ = p x₊₁ + q x that a sequence obeys, by least squares; NaN without one. */
  function recurrence(xs) {
    const scale = Math.max(...xs.map(Math.abs));
    if (!(scale > 0 && Number.isFinite(scale))) return NaN;
    let [aa, ab, bb, ac, bc] = [0, 0, 0, 0, 0];
    for (let at = 2; at < xs.length; at++) {
      const b = xs[at - 2] / scale, a = xs[at - 1] / scale, c = xs[at] / scale;
      [aa, ab, bb, ac, bc] = [aa + a * a, ab + a * b, bb + b * b, ac + a * c, bc + b * c];
    }
    const size = aa * bb - ab * ab;
    // One mode alone obeys x₊₁ = p x; so do two equations that say the same.
    if (size <= 1e-13 * aa * bb) return ab / bb === 0 ? NaN : Math.abs(ab / bb);
    const p = (ac * bb - bc * ab) / size, q = (bc * aa - ac * ab) / size;
    return radius([[p, q], [1, 0]]);
  }

  /**
   * Measure the asymptotic rate of a trajectory on a quadratic whose axes are the coordinates: for each coordinate the
   * greatest root of the recurrence that its sequence obeys, of all coordinates the greatest.
   * @param {number[][]} points θ₀, θ₁, …
   * @param {{optimum?: number[], from?: number, length?: number}} how where the minimum is, and which part is looked at
   */
  steprule.theory.measured = function (points, { optimum = [], from = 12, length = 10 } = {}) {
    if (points.length < 4) return NaN;
    const start = Math.max(0, Math.min(from, points.length - length));
    const part = points.slice(start, start + length);
    const rates = points[0].map((_, at) => recurrence(part.map((point) => point[at] - (optimum[at] ?? 0))));
    const seen = rates.filter((rate) => !Number.isNaN(rate));
    return seen.length ? Math.max(...seen) : NaN;
  };
})((globalThis.steprule ??= {}));
