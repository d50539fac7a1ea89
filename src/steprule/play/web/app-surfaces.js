// The surfaces that are descended: value, gradient, and what is to be seen of each.
(function (steprule) {
  "use strict";

  // Each has its formula twice: here, and in `python` for the file that leaves the page; a test holds them together.
  // `rates` are learning rates that suit a surface, for methods whose own is made for networks.
  const TABLE = {
    quadratic: {
      window: [-4.2, 4.2, -2.8, 2.8],
      start: [-3.6, 1.6],
      levels: "log",
      minima: [[0, 0]],
      formula: String.raw`L = \tfrac12\left(u^2 + \kappa v^2\right)`,
      make({ kappa, angle }) {
        const turn = (angle * Math.PI) / 180, c = Math.cos(turn), s = Math.sin(turn);
        return {
          value: (x, y) => 0.5 * ((c * x + s * y) ** 2 + kappa * (c * y - s * x) ** 2),
          gradient(x, y) {
            const u = c * x + s * y, v = kappa * (c * y - s * x);
            return [c * u - s * v, s * u + c * v];
          },
        };
      },
      python: ({ kappa, angle }) => [
        `c, s = math.cos(math.radians(${angle})), math.sin(math.radians(${angle}))`,
        `return 0.5 * ((c * x + s * y) ** 2 + ${kappa} * (c * y - s * x) ** 2)`,
      ],
      rates: { gd: 0.15, sgd: 0.15, momentum: 0.15, nesterov: 0.15, adagrad: 0.8, rmsprop: 0.05, adam: 0.12 },
    },
    rosenbrock: {
      window: [-2.25, 2.25, -1, 2],
      start: [-1.2, 1],
      levels: "log",
      minima: [[1, 1]],
      formula: String.raw`L = (1 - x)^2 + 100\,(y - x^2)^2`,
      make: () => ({
        value: (x, y) => (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x),
        gradient: (x, y) => [-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)],
      }),
      python: () => ["return (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x)"],
      rates: { gd: 1e-3, sgd: 1e-3, momentum: 2e-3, nesterov: 2e-3, adagrad: 0.3, rmsprop: 0.01, adam: 0.05 },
    },
    beale: {
      window: [-1.5, 4.5, -2, 2],
      start: [0.4, 1.2],
      levels: "log",
      minima: [[3, 0.5]],
      formula: String.raw`L = (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2`,
      make: () => ({
        value: (x, y) => (1.5 - x + x * y) ** 2 + (2.25 - x + x * y * y) ** 2 + (2.625 - x + x * y * y * y) ** 2,
        gradient(x, y) {
          const a = 1.5 - x + x * y, b = 2.25 - x + x * y * y, c = 2.625 - x + x * y * y * y;
          return [
            2 * a * (y - 1) + 2 * b * (y * y - 1) + 2 * c * (y * y * y - 1),
            2 * a * x + 4 * b * x * y + 6 * c * x * y * y,
          ];
        },
      }),
      python: () => ["return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y * y) ** 2 + (2.625 - x + x * y * y * y) ** 2"],
      rates: { gd: 0.01, sgd: 0.01, momentum: 0.01, nesterov: 0.01, adagrad: 0.5, rmsprop: 0.02, adam: 0.1 },
    },
    himmelblau: {
      window: [-6, 6, -4, 4],
      start: [-0.5, -1.2],
      levels: "log",
      minima: [[3, 2], [-2.805118086952745, 3.131312518250573], [-3.779310253377747, -3.283185991286170], [3.584428340330492, -1.848126526964404]],
      formula: String.raw`L = (x^2 + y - 11)^2 + (x + y^2 - 7)^2`,
      make: () => ({
        value: (x, y) => (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2,
        gradient(x, y) {
          const a = x * x + y - 11, b = x + y * y - 7;
          return [4 * x * a + 2 * b, 2 * a + 4 * y * b];
        },
      }),
      python: () => ["return (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2"],
      rates: { gd: 0.01, sgd: 0.01, momentum: 0.01, nesterov: 0.01, adagrad: 0.8, rmsprop: 0.05, adam: 0.15 },
    },
    saddle: {
      window: [-3, 3, -2, 2],
      start: [-2.4, 0.01],
      levels: "linear",
      minima: [[0, 1], [0, -1]],
      formula: String.raw`L = \tfrac12 x^2 - \tfrac12 y^2 + \tfrac14 y^4`,
      make: () => ({
        value: (x, y) => 0.5 * x * x - 0.5 * y * y + 0.25 * y * y * y * y,
        gradient: (x, y) => [x, y * y * y - y],
      }),
      python: () => ["return 0.5 * x * x - 0.5 * y * y + 0.25 * y * y * y * y"],
      rates: { gd: 0.1, sgd: 0.1, momentum: 0.1, nesterov: 0.1, adagrad: 0.2, rmsprop: 0.03, adam: 0.05 },
    },
    ravine: {
      window: [-6, 6, -4, 4],
      start: [-5.2, 2.4],
      levels: "log",
      minima: [[0, 0]],
      noise: 0.6,
      formula: String.raw`L = 0.04\,x^2 + \sqrt{0.1 + 4y^2} - \sqrt{0.1}`,
      make: () => ({
        value: (x, y) => 0.04 * x * x + Math.sqrt(0.1 + 4 * y * y) - Math.sqrt(0.1),
        gradient: (x, y) => [0.08 * x, (4 * y) / Math.sqrt(0.1 + 4 * y * y)],
      }),
      python: () => ["return 0.04 * x * x + (0.1 + 4 * y * y) ** 0.5 - 0.1 ** 0.5"],
      rates: { gd: 0.2, sgd: 0.2, momentum: 0.5, nesterov: 0.5, adagrad: 1, rmsprop: 0.05, adam: 0.15 },
    },
  };

  /** The names of the surfaces, in the order of the picker. */
  steprule.surfaces = Object.keys(TABLE);

  /**
   * Return a surface: its row of the table with `value(x, y)` and `gradient(x, y)` for these settings.
   * @param {{surface: string, kappa: number, angle: number}} state
   */
  steprule.surface = function (state) {
    const row = TABLE[state.surface];
    return { ...row, ...row.make(state), python: row.python(state), name: state.surface };
  };

  // 32 well-mixed bits of a number (the finaliser of MurmurHash3).
  function mixed(bits) {
    bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
    return (bits ^ (bits >>> 16)) >>> 0;
  }

  /** Return two normal numbers, the same for the same seed and iteration: every method meets the same noise. */
  steprule.noise = function (seed, t) {
    const first = mixed(Math.imul(seed, 0x9e3779b1) ^ mixed(2 * t)), second = mixed(first ^ mixed(2 * t + 1));
    const radius = Math.sqrt(-2 * Math.log((first + 1) / 4294967297)), turn = (2 * Math.PI * second) / 4294967296;
    return [radius * Math.cos(turn), radius * Math.sin(turn)];
  };
})(globalThis.steprule ??= {});
