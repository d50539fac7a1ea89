// What tests ask of the scripts: what is read as plain data, and steps on two problems.
(function () {
  "use strict";
  const { language } = steprule;

  function attr(node) {
    const { attr: own } = node;
    if (own === null || typeof own !== "object") return own;
    return own.kept === undefined ? [own.array, language.rank.name(own.rank)] : language.rank.name(own.kept);
  }

  function dumped(graph) {
    const place = new Map(graph.nodes.map((node, i) => [node, i]));
    const nodes = graph.nodes.map((node) => {
      const inputs = node.inputs.map((child) => place.get(child));
      return [node.op, inputs, attr(node), language.rank.name(node.rank)];
    });
    return {
      name: graph.name,
      nodes,
      roots: graph.roots.map((node) => place.get(node)),
      gradients: [...graph.gradients].map(([node, name]) => [place.get(node) ?? null, name]),
      gauges: [...graph.gauges.keys()],
      first: graph.first,
      counts: graph.countsSteps,
    };
  }

  function built(source, choices) {
    const { rule, rules, transforms, errors } = steprule.build(source, choices);
    const told = (one) => one && { ...one, graph: dumped(one.graph), choices: one.choices.map((own) => own.name) };
    return { program: told(rule ?? transforms.at(-1) ?? null), rules: rules.map(told), errors };
  }

  const PROBLEMS = {
    rosenbrock([x, y]) {
      const [a, b] = [1 - x, y - x * x];
      return { loss: a * a + 100 * (b * b), gradient: [-2 * a - 400 * (x * b), 200 * b] };
    },
    quadratic([x, y]) {
      return { loss: 0.5 * (x * x) + 5 * (y * y), gradient: [x, 10 * y] };
    },
  };

  /** Run steps, and return every parameter and the last slots; of two tensors, the second has one element. */
  function steps(source, choices, problem, start, count, hypers, apart) {
    const { rule, errors } = steprule.build(source, choices);
    if (errors.length) return { errors };
    const run = steprule.optimizer(rule);
    const given = apart ? start.map((value) => Float64Array.of(value)) : [Float64Array.from(start)];
    run.start(
      given,
      given.map((one) => [one.length]),
    );
    const gradient = (thetas) => {
      const flat = thetas.flatMap((theta) => [...theta]);
      const { loss, gradient: own } = PROBLEMS[problem](flat);
      return { loss, gradients: apart ? own.map((value) => Float64Array.of(value)) : [Float64Array.from(own)] };
    };
    const path = [];
    for (let i = 0; i < count; i++) {
      run.step(gradient, hypers);
      path.push(run.thetas.flatMap((theta) => [...theta]));
    }
    const slots = Object.fromEntries(
      Object.entries(run.slots).map(([name, all]) => [name, all.map((one) => [...one])]),
    );
    return { path: path.map((point) => point.map(String)), slots, loss: String(run.loss), errors: [] };
  }

  /** Time a step in microseconds, after a warm-up. */
  function timed(source, count) {
    const run = steprule.optimizer(steprule.build(source).rule).start([Float64Array.of(-1.2, 1)], [[2]]);
    const gradient = (thetas) => {
      const { loss, gradient: own } = PROBLEMS.rosenbrock(thetas[0]);
      return { loss, gradients: [Float64Array.from(own)] };
    };
    for (let i = 0; i < count; i++) run.step(gradient);
    const begun = Date.now();
    for (let i = 0; i < count; i++) run.step(gradient);
    return (1000 * (Date.now() - begun)) / count;
  }

  /** Run steps of the single file of a rule. */
  function exported(source, problem, start, count, hypers) {
    const { rule } = steprule.build(source);
    const text = steprule.javascript(rule);
    const own = new Function(text.replace(/export (\{[^}]*\});/, "return $1;"))();
    const arrays = Object.create(null);
    const { parameter, gradient, first } = rule.graph;
    arrays[parameter] = start.map((value) => Float64Array.of(value));
    Object.assign(arrays, own.start(arrays[parameter]));
    const evaluate = (thetas) => {
      const found = PROBLEMS[problem](thetas.flatMap((theta) => [...theta]));
      return { loss: found.loss, gradients: found.gradient.map((value) => Float64Array.of(value)) };
    };
    for (let t = 1; t <= count; t++) {
      const given = { ...own.defaults, ...hypers };
      const begun = first ? evaluate(arrays[parameter]) : null;
      if (first) arrays[first] = begun.gradients;
      const found = evaluate(own.point ? own.point(arrays, given, first ? t : t - 1) : arrays[parameter]);
      arrays[gradient] = found.gradients;
      own.step(arrays, { ...given, loss: (begun ?? found).loss }, t);
    }
    return { text, end: arrays[parameter].flatMap((theta) => [...theta]).map(String) };
  }

  /** Compute one step on tensors whose arrays and numbers are given, as the interpreter is given them. */
  function once(source, tensors, shapes, hypers, t) {
    const { rule, errors } = steprule.build(source);
    if (errors.length) return { errors };
    const arrays = (name) => tensors.map((own) => Float64Array.from(own[name]));
    const { graph } = rule;
    const run = steprule.optimizer(rule).start(arrays(graph.parameter), shapes);
    for (const slot of graph.slots) run.slots[slot.name] = arrays(slot.name);
    run.t = t - 1;
    run.step(() => ({ loss: 0, gradients: arrays(graph.gradient) }), hypers);
    const found = { ...run.slots, [graph.parameter]: run.thetas };
    const kept = Object.entries(found).map(([name, all]) => [name, all.map((one) => [...one].map(String))]);
    return { errors: [], found: Object.fromEntries(kept) };
  }

  globalThis.harness = { once, exported, built, steps, timed };
})();
