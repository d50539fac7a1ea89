// The one state of the page, and the link that carries it. A link is a stranger's text: what it says is checked
// here, field by field, and is only ever shown as text.
(function (steprule) {
  "use strict";
  const VERSION = "1", LONGEST = 8000, MOST = 8;

  /** The length of the longest text that the board takes, so that a link can carry it. */
  steprule.longest = LONGEST;

  const FIRST = `@rule
def mine(theta, g, m, *,
         lr=hyper(0.1, low=0),
         beta=hyper(0.8, low=0, high=1)):
    m = (1 - beta) * g + beta * m
    return theta - lr * m, m
`;

  const entry = (rule, clip = "none", hypers = {}, choices = {}) => ({ rule, clip, hypers, choices });

  /** The state in which the page begins. */
  steprule.beginning = Object.freeze({
    text: FIRST,
    picked: ["gd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "mine"].map((rule) => entry(rule)),
    focus: "mine",
    surface: "quadratic",
    kappa: 12,
    angle: 0,
    noise: 0,
    seed: 0,
    start: [-3.6, 1.6],
    steps: 120,
    t: 0,
    speed: 20,
    vectors: true,
    view: "surface",
    stage: "surface",
    scene: 0,
    lang: "en",
    scheme: "",
    data: {},
  });

  const among = (values) => (value) => values.includes(value);
  const number = (low, high, whole = false) => (value) =>
    typeof value === "number" && value >= low && value <= high && (!whole || Number.isInteger(value));
  const text = (longest) => (value) => typeof value === "string" && value.length <= longest;
  const plain = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const named = (checks, most) => (value) =>
    plain(value) && Object.keys(value).length <= most && Object.entries(value).every(([name, one]) => /^[\p{L}\p{M}\p{N}_]{1,60}$/u.test(name) && checks(one));

  const choice = (value) => typeof value === "boolean" || text(60)(value);
  const picked = (value) =>
    Array.isArray(value) && value.length <= MOST && value.every((one) =>
      plain(one) && text(80)(one.rule) && /^[\w.]+$/.test(one.rule) && Object.hasOwn(steprule.clips, one.clip) &&
      named(Number.isFinite, 400)(one.hypers) && named(choice, 8)(one.choices ?? {}));

  const CHECKS = {
    text: text(LONGEST),
    picked,
    focus: text(600),
    surface: (value) => steprule.surfaces.includes(value),
    kappa: number(1, 1000),
    angle: number(0, 90),
    noise: number(0, 5),
    seed: number(0, 2 ** 31 - 1, true),
    start: (value) => Array.isArray(value) && value.length === 2 && value.every(number(-1e3, 1e3)),
    steps: number(10, 1000, true),
    t: number(0, 1000, true),
    speed: number(1, 240),
    vectors: among([true, false]),
    view: among(["surface", "data", "lecture"]),
    stage: among(["surface", "data"]),
    scene: number(0, 99, true),
    lang: among(["en", "ru"]),
    scheme: among(["", "light", "dark"]),
    data: named((value) => typeof value === "boolean" || number(-1e12, 1e12)(value) || text(60)(value), 100),
  };

  /** The key of an entry of the list: no two have the same. */
  steprule.keyOf = (one) => [one.rule, ...(one.clip === "none" ? [] : [one.clip]), ...Object.values(one.choices ?? {})].join(":");

  /**
   * Return a patch of the state of which every field is known and right, or null.
   * @param {unknown} patch
   */
  steprule.checked = function (patch) {
    if (!plain(patch)) return null;
    const found = {};
    for (const [name, value] of Object.entries(patch)) {
      if (!Object.hasOwn(CHECKS, name) || !CHECKS[name](value)) return null;
      found[name] = value;
    }
    if (found.picked) {
      const clean = found.picked.map((one) => entry(one.rule, one.clip, { ...one.hypers }, { ...one.choices }));
      found.picked = clean.filter((one, at) => clean.findIndex((other) => steprule.keyOf(other) === steprule.keyOf(one)) === at);
    }
    return found;
  };

  /** Return the hash of a link: what differs from the beginning, as JSON in base64. */
  steprule.encoded = function (state) {
    const differs = {};
    for (const [name, value] of Object.entries(steprule.beginning))
      if (JSON.stringify(state[name]) !== JSON.stringify(value)) differs[name] = state[name];
    const bytes = new TextEncoder().encode(JSON.stringify(differs));
    const letters = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
    return `#${VERSION}.${letters.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}`;
  };

  /** Return the patch that a hash carries, an empty one for no hash, null for one that is not ours. */
  steprule.decoded = function (hash) {
    if (!hash || hash === "#") return {};
    const match = /^#1\.([\w-]{0,40000})$/.exec(hash);
    if (!match) return null;
    try {
      const letters = atob(match[1].replace(/-/g, "+").replace(/_/g, "/"));
      const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
      return steprule.checked(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
    } catch {
      return null;
    }
  };

  /** The state, and who is told of its changes. */
  steprule.Store = class {
    /** @param {object} state */
    constructor(state) {
      this.state = Object.freeze(state);
      this.listeners = [];
    }
    /** Call a function with the state and the set of changed names, after every change. */
    on(listener) {
      this.listeners.push(listener);
    }
    /** Change some fields. What is not known or not right is an error of ours, and thrown. */
    set(patch) {
      const clean = steprule.checked(patch);
      if (!clean) throw new TypeError(`no state of the page: ${JSON.stringify(patch).slice(0, 200)}`);
      const changed = new Set(Object.keys(clean).filter((name) => JSON.stringify(clean[name]) !== JSON.stringify(this.state[name])));
      if (!changed.size) return;
      this.state = Object.freeze({ ...this.state, ...clean });
      for (const listener of this.listeners) listener(this.state, changed);
    }
  };
})(globalThis.steprule ??= {});
