// Trajectories: what a rule does on a surface from one point, all numbers of every iteration.
(function (steprule) {
  "use strict";
  const FAR = 1e9;

  /** The board's methods that are always on the list, and the rule in the editor; the place of each is its look. */
  steprule.board = ["gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "mine", "adam"];

  /** The clippings that can stand in front of any rule; ① and ② are the board's. */
  steprule.clips = {
    none: null,
    one: { mark: "①", call: "board.clip_norm", hyper: "max_norm" },
    two: { mark: "②", call: "board.clip_component", hyper: "limit" },
    norm: { mark: "‖·‖", call: "clip_global_norm", hyper: "max_norm" },
    value: { mark: "±", call: "clip_value", hyper: "limit" },
  };

  /**
   * Return where the program of a text stands: its last expression, or the name of its last rule; null without one.
   * @param {string} text
   */
  steprule.program = function (text) {
    const statement = editor.pythonParser.parse(text).topNode.lastChild;
    let last = statement;
    while (last && last.name === "Comment") last = last.prevSibling;
    if (!last) return null;
    if (last.name === "ExpressionStatement") return { from: last.from, expression: text.slice(last.from, last.to) };
    if (last.name === "AssignStatement") return { from: last.from, expression: text.slice(last.lastChild.from, last.lastChild.to) };
    const definition = last.name === "DecoratedStatement" ? last.lastChild : last;
    const name = definition && definition.name === "FunctionDefinition" ? definition.getChild("VariableName") : null;
    return name ? { name: text.slice(name.from, name.to) } : null;
  };

  /**
   * Return the text of a program with a clipping in front of it, as one would write it.
   * @param {string} text
   * @param {string} clip a key of `steprule.clips`
   */
  steprule.clipped = function (text, clip) {
    const made = steprule.clips[clip], found = made && steprule.program(text);
    if (!found) return text;
    // A text that imports its names does not know those of the chain.
    const known = /^\s*(?:from|import)\s/m.test(text) ? `from steprule import ${[...new Set([made.call.split(".")[0], "chain"])].sort().join(", ")}\n\n` : "";
    if (found.name) return `${text.trimEnd()}\n\n\n${known}chain(${made.call}, ${found.name})\n`;
    return `${text.slice(0, found.from)}${known}chain(${made.call}, ${found.expression})\n`;
  };

  const built = new Map();

  /**
   * Return what `steprule.build` reads in a program, from memory if it was read before.
   * @param {string} text
   * @param {object} [choices] its variants
   */
  steprule.read = function (text, choices = {}) {
    const key = JSON.stringify([text, choices]);
    if (!built.has(key)) {
      if (built.size > 64) built.delete(built.keys().next().value);
      built.set(key, steprule.build(text, choices));
    }
    return built.get(key);
  };

  /** Return the program of an entry of the list: the editor's text or the name of a rule, behind its clipping. */
  steprule.textOf = (entry, state) =>
    steprule.clipped(entry.rule === "mine" ? state.text : steprule.source(entry.rule), entry.clip);

  /** Whether a number is in the declared range. */
  steprule.admits = (hyper, number) =>
    Number.isFinite(number) &&
    (hyper.low == null || (hyper.openLow ? number > hyper.low : number >= hyper.low)) &&
    (hyper.high == null || (hyper.openHigh ? number < hyper.high : number <= hyper.high));

  /** Return the number that was set in an entry for a hyperparameter, if its rule, perhaps another since, admits it. */
  steprule.given = function (entry, hyper) {
    const set = Object.hasOwn(entry.hypers, hyper.name) ? entry.hypers[hyper.name] : undefined;
    return steprule.admits(hyper, set) ? set : undefined;
  };

  /** Return the numbers of an entry: those that were set, else what suits the surface, else what the rule declares. */
  steprule.numbers = function (entry, rule, surface) {
    const found = Object.create(null); // a hyperparameter may have any name
    for (const hyper of rule.hypers) {
      const suited = hyper.name === "lr" && entry.rule !== "mine" ? surface.rates[entry.rule] : undefined;
      found[hyper.name] = steprule.given(entry, hyper) ?? suited ?? hyper.value ?? 0;
    }
    return found;
  };

  /**
   * Run an entry and return its trajectory: arrays over the iterations 0, 1, …, `end`.
   * @param {object} entry {rule, clip, hypers}
   * @param {object} state
   */
  steprule.trajectory = function (entry, state) {
    const surface = steprule.surface(state), { rule, errors } = steprule.read(steprule.textOf(entry, state), entry.choices);
    const made = { entry, rule, errors, end: 0, diverged: false, failed: null };
    if (!rule) return made;
    made.hypers = steprule.numbers(entry, rule, surface);
    try {
      return run(made, state, surface);
    } catch (error) {
      return { entry, rule: null, errors, end: 0, diverged: false, failed: error, declared: rule, hypers: made.hypers };
    }
  };

  function run(made, state, surface) {
    const steps = state.steps, array = () => new Float64Array(steps + 1).fill(NaN), pair = () => new Float64Array(2 * steps + 2).fill(NaN);
    Object.assign(made, { at: pair(), loss: array(), norm: array(), length: array(), effect: [array(), array()], point: pair(), gradient: pair(), slots: {} });
    const optimizer = steprule.optimizer(made.rule), noisy = made.entry.rule === "gd" ? 0 : state.noise; // gd takes the whole gradient
    optimizer.start([Float64Array.from(state.start)], [[2]]);
    const vectors = made.rule.slots.filter((one) => one.rank === "element").map((one) => one.name);
    for (const name of vectors) made.slots[name] = pair();
    const last = [0, 0];
    let noise = [0, 0];
    const closure = ([theta]) => {
      const [x, y] = theta, [gx, gy] = surface.gradient(x, y);
      last[0] = gx + noisy * noise[0];
      last[1] = gy + noisy * noise[1];
      made.seen = [x, y];
      return { loss: surface.value(x, y), gradients: [Float64Array.from(last)] };
    };
    note(made, 0, optimizer.thetas[0], surface);
    for (let t = 1; t <= steps; t++) {
      if (noisy) noise = steprule.noise(state.seed, t);
      optimizer.step(closure, made.hypers);
      const [x, y] = optimizer.thetas[0];
      const before = [made.at[2 * t - 2], made.at[2 * t - 1]];
      if (!(Math.abs(x) < FAR && Math.abs(y) < FAR)) {
        made.diverged = true;
        break;
      }
      note(made, t, [x, y], surface);
      made.length[t] = Math.hypot(x - before[0], y - before[1]);
      for (const axis of [0, 1]) {
        made.effect[axis][t] = last[axis] === 0 ? NaN : (before[axis] - made.at[2 * t + axis]) / last[axis];
        made.gradient[2 * t + axis] = last[axis];
        made.point[2 * t + axis] = made.seen[axis];
        for (const name of vectors) made.slots[name][2 * t + axis] = optimizer.slots[name][0][axis];
      }
      made.end = t;
    }
    return made;
  }

  // What is true of a point, whatever led there: its loss and gradient are those without noise.
  function note(made, t, [x, y], surface) {
    made.at[2 * t] = x;
    made.at[2 * t + 1] = y;
    made.loss[t] = surface.value(x, y);
    made.norm[t] = Math.hypot(...surface.gradient(x, y));
  }
})(globalThis.steprule ??= {});
